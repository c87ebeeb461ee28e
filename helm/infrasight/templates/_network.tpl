{{/* Parts of network policies. */}}

{{- define "infrasight.dnsEgress" }}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}

{{- define "infrasight.podsOf" }}
- podSelector:
    matchLabels: {{- include "infrasight.selector" . | nindent 6 }}
{{- end }}

{{- define "infrasight.agentPods" }}
- podSelector:
    matchLabels:
      app.kubernetes.io/part-of: infrasight
      app.kubernetes.io/instance: {{ .Release.Name }}
      app.kubernetes.io/component: agent
{{- end }}
