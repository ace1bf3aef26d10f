{{/*
The pod of a server, the same for both roles: dict "root" "component" "zone" "place", "set" (the StatefulSet's name) "replicas".
*/}}
{{- define "volley.pod" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $role := ternary $values.coordinators $values.nodes (eq .component "coordinator") -}}
{{- $http := ternary ", scheme: HTTPS" "" (eq (include "volley.hasTls" (dict "root" $root "name" "http")) "true") -}}
{{- $localReads := and (eq .component "node") ($values.nodes.localReads).enabled -}}
{{- $admin := ternary $values.auth.bootstrapAdminSecret "" (eq .component "coordinator") -}}
metadata:
  labels:
    {{- include "volley.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with .zone }}
    volley/zone: {{ . | quote }}
    {{- end }}
    {{- with $role.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # A change of this role's part of the ConfigMap restarts its pods, one by one.
    checksum/config: {{ include "volley.toml" $role.config | sha256sum }}
    {{- with $role.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "volley.serviceAccount" $root }}
  # The servers do not use the Kubernetes API.
  automountServiceAccountToken: false
  # Variables for Services would begin with VOLLEY_, like settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int $values.terminationGracePeriodSeconds }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $role.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    # Changes the owner of the volume once, not at every start.
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- $selector := deepCopy $role.nodeSelector }}
  {{- with .zone }}{{ $_ := set $selector "topology.kubernetes.io/zone" . }}{{ end }}
  {{- with $selector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $role.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $role.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- range $key, $when := dict "topology.kubernetes.io/zone" $role.spread.zones "kubernetes.io/hostname" $role.spread.machines }}
    {{- /* A StatefulSet bound to one zone cannot spread over zones. */}}
    {{- if not (and $.zone (eq $key "topology.kubernetes.io/zone")) }}
    - maxSkew: 1
      topologyKey: {{ $key }}
      whenUnsatisfiable: {{ $when }}
      labelSelector:
        matchLabels:
          {{- include "volley.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ $.component }}
          {{- with $.zone }}
          volley/zone: {{ . | quote }}
          {{- end }}
    {{- end }}
    {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "volley.image" $root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [volley-{{ .component }}]
      env:
        {{- include "volley.env" . | nindent 8 }}
        {{- with $role.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- range include "volley.listeners" . | fromJsonArray }}
        - {name: grpc-{{ .name }}, containerPort: {{ int .port }}}
        {{- end }}
        - {name: grpc-peer, containerPort: {{ ternary 8825 8826 (eq .component "coordinator") }}}
        - {name: http, containerPort: {{ ternary 8835 8836 (eq .component "coordinator") }}}
      # Delays the other probes until the first success: after a crash a server may first read its folder.
      startupProbe:
        httpGet: {path: /livez, port: http{{ $http }}}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: {{ div (int $role.startupSeconds) 2 }}
      # Alive while it answers, with or without a leader: a restart would repair neither the network nor a majority.
      livenessProbe:
        httpGet: {path: /livez, port: http{{ $http }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- if include "volley.hasTls" (dict "root" $root "name" "internal") }}
      # The gRPC probe of Kubernetes has no TLS.
      readinessProbe:
        httpGet: {path: /readyz, port: http{{ $http }}}
      {{- else }}
      # grpc.health.v1 on the port that clients use.
      readinessProbe:
        grpc: {port: {{ ternary 8815 8816 (eq .component "coordinator") }}}
      {{- end }}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      {{- if $values.preStopSeconds }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ int $values.preStopSeconds }}}
      {{- end }}
      {{- with $role.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: data, mountPath: /var/lib/volley}
        - {name: config, mountPath: /etc/volley/volley.toml, subPath: {{ .component }}.toml, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        {{- if $localReads }}
        - {name: local-reads, mountPath: {{ $values.nodes.localReads.hostPath }}}
        {{- end }}
        {{- if $values.tls.enabled }}
        {{- include "volley.tlsMounts" $root | nindent 8 }}
        {{- end }}
        {{- if $admin }}
        - {name: auth, mountPath: /etc/volley/auth, readOnly: true}
        {{- end }}
        {{- with $role.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "volley.fullname" $root }}}
    - name: tmp
      emptyDir: {}
    {{- if $localReads }}
    - name: local-reads
      hostPath: {path: {{ $values.nodes.localReads.hostPath }}, type: Directory}
    {{- end }}
    {{- if $values.tls.enabled }}
    {{- include "volley.tlsVolumes" . | nindent 4 }}
    {{- end }}
    {{- with $admin }}
    - name: auth
      secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: admin, path: admin}]}
    {{- end }}
    {{- with $role.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* The volumes of a StatefulSet: dict "role". They are kept when pods, replicas or the release are deleted. */}}
{{- define "volley.claims" -}}
persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Retain}
volumeClaimTemplates:
  - metadata:
      name: data
      {{- with .role.persistence.annotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .role.persistence.storageClassName }}
      storageClassName: {{ . | quote }}
      {{- end }}
      resources:
        requests:
          storage: {{ .role.persistence.size }}
{{- end -}}
