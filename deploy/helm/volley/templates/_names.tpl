{{/* Names, labels and addresses. */}}

{{- define "volley.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* 40 letters, so that NAME-coordinator leaves room for the suffixes of StatefulSets (63 in all). */}}
{{- define "volley.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "volley.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "volley.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The selector of this release's pods; it must never change. */}}
{{- define "volley.selector" -}}
app.kubernetes.io/name: {{ include "volley.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "volley.labels" -}}
{{ include "volley.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "volley.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "volley.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "volley.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* The DNS domain of the pods of a role: dict "root" "component". */}}
{{- define "volley.domain" -}}
{{ include "volley.fullname" .root }}-{{ .component }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}

{{/* The peer addresses of all coordinators, HOST:PORT,...; dict "root" "ids" (whether each is preceded by ID=). */}}
{{- define "volley.coordinators" -}}
{{- $domain := include "volley.domain" (dict "root" .root "component" "coordinator") -}}
{{- $name := include "volley.fullname" .root -}}
{{- $all := list -}}
{{- range $id := untilStep 1 (add1 (int .root.Values.coordinators.replicas) | int) 1 -}}
{{- $addr := printf "%s-coordinator-%d.%s:8825" $name $id $domain -}}
{{- $all = append $all (ternary (printf "%d=%s" $id $addr) $addr $.ids) -}}
{{- end -}}
{{- join "," $all -}}
{{- end -}}

{{/*
The StatefulSets of nodes, as a JSON list of {name, zone, replicas, place}: one per zone, else one without a zone. `place`
numbers them, for node ports.
*/}}
{{- define "volley.nodeSets" -}}
{{- $name := printf "%s-node" (include "volley.fullname" .) -}}
{{- $sets := list -}}
{{- range $place, $zone := .Values.nodes.zones -}}
{{- $replicas := $.Values.nodes.replicas -}}
{{- if hasKey $zone "replicas" -}}{{- $replicas = $zone.replicas -}}{{- end -}}
{{- $set := dict "name" (printf "%s-%s" $name $zone.name) "zone" $zone.name "replicas" (int $replicas) "place" $place -}}
{{- $sets = append $sets $set -}}
{{- else -}}
{{- $sets = append $sets (dict "name" $name "zone" "" "replicas" (int .Values.nodes.replicas) "place" 0) -}}
{{- end -}}
{{- toJson $sets -}}
{{- end -}}

{{/* The address of the proxy listener. */}}
{{- define "volley.proxyAddress" -}}
{{- with .Values.proxy -}}
{{- $scheme := include "volley.scheme" (dict "root" $ "name" "tunnel") -}}
{{- if and .advertise (eq $scheme "grpc+tls") (not (hasPrefix "grpc+tls://" .advertise)) -}}
{{- fail (printf "proxy.advertise is %s, but the port has TLS: give grpc+tls://HOST:PORT, or leave `tunnel` out of tls.clients.listeners" .advertise) -}}
{{- else if .advertise -}}
{{- .advertise -}}
{{- else if eq .service.type "ClusterIP" -}}
{{ $scheme }}://127.0.0.1:8817
{{- else -}}
{{- fail (printf "proxy.advertise is missing: clients that come by a Service of type %s must be told where it is, %s://HOST:PORT" .service.type $scheme) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The host and port at which clients outside reach a pod: dict "root" "component" "place". */}}
{{- define "volley.externalAddress" -}}
{{- $external := .root.Values.external -}}
{{- $coordinator := eq .component "coordinator" -}}
{{- if eq $external.type "nodePort" -}}
{{- with $external.nodePort -}}
{{- if $coordinator -}}
{{ .host }}:{{ int .coordinators }}
{{- else -}}
{{- /* A pod's environment cannot do arithmetic, so its ordinal is the last digit of the port. */ -}}
{{ .host }}:{{ add (div (int .nodes) 10) $.place }}$(POD_INDEX)
{{- end -}}
{{- end -}}
{{- else -}}
{{- $domain := required "external.loadBalancer.domain is missing: clients are told names under it" $external.loadBalancer.domain -}}
{{- if $coordinator -}}
{{ include "volley.fullname" .root }}.{{ $domain }}:8815
{{- else -}}
$(POD_NAME).{{ $domain }}:8816
{{- end -}}
{{- end -}}
{{- end -}}
