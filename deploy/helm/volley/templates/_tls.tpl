{{/* TLS: which ports have it, and where the certificates come from. */}}

{{/* The Secret with the certificate of the clients' ports, empty if they have no TLS. */}}
{{- define "volley.clientsSecret" -}}
{{- $clients := .Values.tls.clients -}}
{{- if .Values.tls.enabled -}}
{{- if $clients.certManager.issuerRef.name -}}
{{ include "volley.fullname" . }}-tls
{{- else -}}
{{ $clients.secretName }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether a port has TLS for clients: dict "root" "name" (internal, external, tunnel or http). */}}
{{- define "volley.hasTls" -}}
{{- if and (include "volley.clientsSecret" .root) (has .name .root.Values.tls.clients.listeners) -}}true{{- end -}}
{{- end -}}

{{/* The scheme of a listener's address: dict "root" "name". */}}
{{- define "volley.scheme" -}}
{{- ternary "grpc+tls" "grpc+tcp" (eq (include "volley.hasTls" .) "true") -}}
{{- end -}}

{{/* The name by which `volley` in the pods, the test and Prometheus verify the certificate of every server. */}}
{{- define "volley.serverName" -}}
{{- .Values.tls.clients.serverName | default (printf "%s.%s.svc.%s" (include "volley.fullname" .) .Release.Namespace .Values.clusterDomain) -}}
{{- end -}}

{{/*
The Certificates of cert-manager for the members of a StatefulSet, as a JSON list of {name, secret, file, uri}: dict "root"
"component" "set" (the StatefulSet's name) "replicas". For nodes up to the next multiple of ten, so that new pods need no change of the
volume, which would restart all others.
*/}}
{{- define "volley.memberCertificates" -}}
{{- $all := list -}}
{{- if eq .component "coordinator" -}}
{{- range $id := untilStep 1 (add1 (int .replicas) | int) 1 -}}
{{- $name := printf "%s-%d" $.set $id -}}
{{- $all = append $all (dict "name" $name "secret" (printf "%s-member-tls" $name) "file" (printf "coordinator-%d" $id) "uri" (printf "volley://coordinator/%d" $id)) -}}
{{- end -}}
{{- else -}}
{{- range $i := until (mul 10 (max 1 (div (add (int .replicas) 9) 10)) | int) -}}
{{- $name := printf "%s-%d" $.set $i -}}
{{- $all = append $all (dict "name" $name "secret" (printf "%s-member-tls" $name) "file" (printf "node-%s" $name) "uri" (printf "volley://node/%s" $name)) -}}
{{- end -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}

{{/* The variables of TLS: dict "root" "component". */}}
{{- define "volley.tlsEnv" -}}
{{- $root := .root -}}
{{- $tls := $root.Values.tls -}}
# The files have the names that `volley certs` gives them; each pod uses its own.
{{- $own := ternary "coordinator-$(POD_INDEX)" "node-$(POD_NAME)" (eq .component "coordinator") }}
- name: VOLLEY_PEER_CA
  value: {{ ternary "/etc/volley/member-ca/ca.crt" "/etc/volley/members/ca.crt" (ne $tls.members.caConfigMap.name "") }}
- name: VOLLEY_PEER_CERT
  value: /etc/volley/members/{{ $own }}.crt
- name: VOLLEY_PEER_KEY
  value: /etc/volley/members/{{ $own }}.key
- name: VOLLEY_PEER_TLS
  value: {{ $tls.members.mode }}
{{- $certs := list -}}{{- $keys := list -}}{{- $authorities := list -}}
{{- range include "volley.listeners" . | fromJsonArray -}}
{{- if include "volley.hasTls" (dict "root" $root "name" .name) -}}
{{- $certs = append $certs (printf "%s=/etc/volley/tls/tls.crt" .name) -}}
{{- $keys = append $keys (printf "%s=/etc/volley/tls/tls.key" .name) -}}
{{- $authorities = append $authorities (printf "%s=%s/ca.crt" .name (ternary "/etc/volley/client-ca" "/etc/volley/tls" (ne $tls.clients.clientCA.secretName ""))) -}}
{{- end -}}
{{- end -}}
{{- if include "volley.hasTls" (dict "root" $root "name" "http") -}}
{{- $certs = append $certs "http=/etc/volley/tls/tls.crt" -}}
{{- $keys = append $keys "http=/etc/volley/tls/tls.key" -}}
{{- end -}}
{{- if $certs }}
- name: VOLLEY_TLS_CERT
  value: {{ join "," $certs }}
- name: VOLLEY_TLS_KEY
  value: {{ join "," $keys }}
{{- end }}
{{- if and $authorities (ne $tls.clients.clientCA.mode "none") }}
# Not for the HTTP port: probes and Prometheus have no certificates.
- name: VOLLEY_TLS_CLIENT_CA
  value: {{ join "," $authorities }}
- name: VOLLEY_TLS_CLIENT_AUTH
  value: {{ $tls.clients.clientCA.mode }}
{{- end }}
{{- if include "volley.hasTls" (dict "root" $root "name" "internal") }}
# For `volley` in the pod.
- name: VOLLEY_TLS_CA
  value: /etc/volley/tls/ca.crt
- name: VOLLEY_TLS_SERVER_NAME
  value: {{ include "volley.serverName" $root }}
{{- end }}
{{- end -}}

{{/* The mounts of certificates: the root. */}}
{{- define "volley.tlsMounts" -}}
- {name: members, mountPath: /etc/volley/members, readOnly: true}
{{- if .Values.tls.members.caConfigMap.name }}
- {name: member-ca, mountPath: /etc/volley/member-ca, readOnly: true}
{{- end }}
{{- if include "volley.clientsSecret" . }}
- {name: tls, mountPath: /etc/volley/tls, readOnly: true}
{{- if .Values.tls.clients.clientCA.secretName }}
- {name: client-ca, mountPath: /etc/volley/client-ca, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* The volumes of certificates: dict "root" "component" "set" "replicas". Keys are readable for the group of the pod. */}}
{{- define "volley.tlsVolumes" -}}
{{- $tls := .root.Values.tls -}}
- name: members
{{- if $tls.members.certManager.issuerRef.name }}
  projected:
    defaultMode: 0440
    sources:
      {{- range $i, $certificate := include "volley.memberCertificates" . | fromJsonArray }}
      - secret:
          name: {{ .secret }}
          items:
            - {key: tls.crt, path: {{ .file }}.crt}
            - {key: tls.key, path: {{ .file }}.key}
            {{- if not $i }}
            - {key: ca.crt, path: ca.crt}
            {{- end }}
      {{- end }}
{{- else }}
  secret: {secretName: {{ (ternary $tls.members.coordinators $tls.members.nodes (eq .component "coordinator")).secretName }}, defaultMode: 0440}
{{- end }}
{{- with $tls.members.caConfigMap }}
{{- if .name }}
- name: member-ca
  configMap: {name: {{ .name }}, items: [{key: {{ .key }}, path: ca.crt}]}
{{- end }}
{{- end }}
{{- with include "volley.clientsSecret" .root }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- with $tls.clients.clientCA.secretName }}
- name: client-ca
  secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end }}
{{- end -}}
