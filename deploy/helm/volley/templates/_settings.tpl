{{/* Settings of the servers, with the names of docs/operations.md: VOLLEY_X is the flag --x. */}}

{{/* A role's listeners, as a JSON list of {name, port, advertise, locations}: dict "root" "component" "place". */}}
{{- define "volley.listeners" -}}
{{- $coordinator := eq .component "coordinator" -}}
{{- $values := .root.Values -}}
{{- $domain := include "volley.domain" (dict "root" .root "component" .component) -}}
{{- $port := ternary 8815 8816 $coordinator -}}
{{- $internal := printf "%s://$(POD_NAME).%s:%d" (include "volley.scheme" (dict "root" .root "name" "internal")) $domain $port -}}
{{- $all := list (dict "name" "internal" "port" $port "advertise" $internal "locations" "direct") -}}
{{- if ne $values.external.type "none" -}}
{{- $address := include "volley.externalAddress" . -}}
{{- $external := dict "name" "external" "port" (ternary 9815 9816 $coordinator) "advertise" (printf "%s://%s" (include "volley.scheme" (dict "root" .root "name" "external")) $address) "locations" "direct" -}}
{{- $all = append $all $external -}}
{{- end -}}
{{- /* Nodes need none: clients of the listener `tunnel` get only addresses of coordinators. */ -}}
{{- if and $coordinator $values.proxy.enabled -}}
{{- $all = append $all (dict "name" "tunnel" "port" 8817 "advertise" (include "volley.proxyAddress" .root) "locations" "proxy") -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}

{{/* The environment of a server: dict "root" "component" "zone" "place". */}}
{{- define "volley.env" -}}
{{- $values := .root.Values -}}
{{- $coordinator := eq .component "coordinator" -}}
{{- $host := $values.listenHost -}}
{{- $listen := list -}}{{- $advertise := list -}}{{- $locations := list -}}
{{- range include "volley.listeners" . | fromJsonArray -}}
{{- $listen = append $listen (printf "%s=%s:%d" .name $host (int .port)) -}}
{{- $advertise = append $advertise (printf "%s=%s" .name .advertise) -}}
{{- $locations = append $locations (printf "%s=%s" .name .locations) -}}
{{- end -}}
# Variables that the settings below use.
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_INDEX
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: HOST_IP
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
{{- if $coordinator }}
# Ordinals begin at 1, like ids.
- name: VOLLEY_ID
  value: $(POD_INDEX)
- name: VOLLEY_PEERS
  value: {{ include "volley.coordinators" (dict "root" .root "ids" true) | quote }}
{{- else }}
- name: VOLLEY_COORDINATORS
  value: {{ include "volley.coordinators" (dict "root" .root "ids" false) | quote }}
{{- if .zone }}
- name: VOLLEY_ZONE
  value: {{ .zone | quote }}
{{- else if eq $values.nodes.zoneFrom "machine" }}
- name: VOLLEY_ZONE
  value: $(NODE_NAME)
{{- else if eq $values.nodes.zoneFrom "label" }}
- name: VOLLEY_ZONE
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
{{- end }}
- name: VOLLEY_PEER_ADVERTISE
  value: {{ printf "$(POD_NAME).%s:8826" (include "volley.domain" (dict "root" .root "component" "node")) | quote }}
{{- if ($values.nodes.localReads).enabled }}
# Each pod of a machine has its own.
- name: VOLLEY_LOCAL_SOCKET
  value: {{ printf "%s/%s-$(POD_NAME).sock" $values.nodes.localReads.hostPath .root.Release.Namespace | quote }}
{{- end }}
{{- end }}
- name: VOLLEY_LISTEN
  value: {{ join "," $listen | quote }}
- name: VOLLEY_ADVERTISE
  value: {{ join "," $advertise | quote }}
{{- if $coordinator }}
- name: VOLLEY_LOCATIONS
  value: {{ join "," $locations | quote }}
{{- end }}
- name: VOLLEY_PEER_LISTEN
  value: {{ printf "%s:%d" $host (ternary 8825 8826 $coordinator) | quote }}
- name: VOLLEY_HTTP_LISTEN
  value: {{ printf "%s:%d" $host (ternary 8835 8836 $coordinator) | quote }}
# A subfolder, because the root of a volume may contain files of the file system.
- name: VOLLEY_DATA_DIR
  value: /var/lib/volley/{{ .component }}
- name: VOLLEY_CONFIG
  value: /etc/volley/volley.toml
{{- if $values.tls.enabled }}
{{ include "volley.tlsEnv" . }}
{{- end }}
{{- if and $coordinator $values.auth.bootstrapAdminSecret }}
- name: VOLLEY_BOOTSTRAP_ADMIN_FILE
  value: /etc/volley/auth/admin
{{- end }}
{{- if $values.insecure }}
- name: VOLLEY_INSECURE
  value: "true"
{{- end }}
- name: VOLLEY_LOG
  value: {{ $values.log | quote }}
{{- end -}}

{{/* A flat map as TOML. Helm parses every number as a float; integers must not be written as 1000.0. */}}
{{- define "volley.toml" -}}
{{- range $key, $value := . }}
{{- if or (kindIs "float64" $value) (kindIs "int64" $value) (kindIs "int" $value) }}
{{ $key }} = {{ if eq (floor $value) (float64 $value) }}{{ int64 $value }}{{ else }}{{ $value }}{{ end }}
{{- else if kindIs "slice" $value }}
{{ $key }} = {{ toJson $value }}
{{- else if kindIs "bool" $value }}
{{ $key }} = {{ $value }}
{{- else }}
{{ $key }} = {{ toString $value | toJson }}
{{- end }}
{{- end }}
{{- end -}}
