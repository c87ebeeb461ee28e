{{/* Names, labels and pod settings that several templates share. */}}

{{- define "infrasight.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "infrasight.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "infrasight.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of a component's objects: (list . "server") */}}
{{- define "infrasight.of" -}}
{{- printf "%s-%s" (include "infrasight.fullname" (first .)) (last .) -}}
{{- end -}}

{{/* Labels that select a component's pods; they never change: (list . "server") */}}
{{- define "infrasight.selector" -}}
app.kubernetes.io/name: {{ include "infrasight.name" (first .) }}
app.kubernetes.io/instance: {{ (first .).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of a component's objects: (list . "server"), or with additional ones (list . "server" .Values.more.labels) */}}
{{- define "infrasight.labels" -}}
{{- $root := first . -}}
{{- $chart := printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" -}}
{{- $common := dict "app.kubernetes.io/version" $root.Chart.AppVersion "app.kubernetes.io/managed-by" $root.Release.Service "helm.sh/chart" $chart -}}
{{- toYaml (merge (fromYaml (include "infrasight.podLabels" .)) $common) -}}
{{- end -}}

{{/* Labels of a component's pods, without those that change with the chart's version: these would restart every pod. */}}
{{- define "infrasight.podLabels" -}}
{{- $root := first . -}}
{{- $additional := dict -}}
{{- if gt (len .) 2 -}}{{- $additional = index . 2 | default dict -}}{{- end -}}
{{- $common := dict "app.kubernetes.io/part-of" "infrasight" -}}
{{- toYaml (merge (fromYaml (include "infrasight.selector" .)) $additional $root.Values.commonLabels $common) -}}
{{- end -}}

{{/* An image's reference: (list . .Values.server.image) */}}
{{- define "infrasight.image" -}}
{{- $root := first . -}}
{{- $image := last . -}}
{{- $path := $image.repository -}}
{{- if $root.Values.imageRegistry -}}
{{- $path = printf "%s/%s" (trimSuffix "/" $root.Values.imageRegistry) $path -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $path $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $path (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The security context of a pod that Pod Security "restricted" admits: (list 65532 .Values.server.security) */}}
{{- define "infrasight.podSecurity" -}}
{{- $uid := first . -}}
runAsNonRoot: true
runAsUser: {{ $uid }}
runAsGroup: {{ $uid }}
fsGroup: {{ $uid }}
fsGroupChangePolicy: OnRootMismatch
{{ include "infrasight.seccompProfile" (last .) }}
{{- end -}}

{{/* The security context of its containers; the argument is the component's `security`. */}}
{{- define "infrasight.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{ include "infrasight.seccompProfile" . }}
{{- end -}}

{{- define "infrasight.seccompProfile" -}}
seccompProfile: {{ default (dict "type" "RuntimeDefault") .seccompProfile | toJson }}
{{- end -}}

{{/* The scheduling fields of a pod, from the component's values. */}}
{{- define "infrasight.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "infrasight.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "infrasight.storageClass" -}}
{{- if not (kindIs "invalid" .storageClass) }}
storageClassName: {{ .storageClass | quote }}
{{- end }}
{{- end -}}

{{/* host:port of a component's service, as every pod of the cluster resolves it: (list . "server" 7443) */}}
{{- define "infrasight.address" -}}
{{- $root := index . 0 -}}
{{- printf "%s.%s.svc:%d" (include "infrasight.of" (list $root (index . 1))) $root.Release.Namespace (int (index . 2)) -}}
{{- end -}}

{{- define "infrasight.operatorAccount" -}}
{{- if .Values.operator.serviceAccount.create -}}
{{- default (include "infrasight.of" (list . "operator")) .Values.operator.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.operator.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "infrasight.embedded" -}}
{{- if eq .Values.store.type "embedded" }}true{{ end -}}
{{- end -}}

{{/* Whether more than one server can run. */}}
{{- define "infrasight.several" -}}
{{- if and (ne .Values.store.type "embedded") (or .Values.server.autoscaling.enabled (gt (int .Values.server.replicas) 1)) }}true{{ end -}}
{{- end -}}
