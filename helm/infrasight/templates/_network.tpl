{{/* Parts of network policies. */}}

{{- define "infrasight.dnsEgress" }}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    # What OpenShift's DNS pods listen to: policies hold for a pod's port, not for its service's.
    - {port: 5353, protocol: UDP}
    - {port: 5353, protocol: TCP}
{{- end }}

{{- define "infrasight.podsOf" }}
- podSelector:
    matchLabels: {{- include "infrasight.selector" . | nindent 6 }}
{{- end }}

{{/* The agents' pods are the operator's work, and so are their labels; there is one installation in a namespace. */}}
{{- define "infrasight.agentLabels" -}}
app.kubernetes.io/name: infrasight-agent
{{- end -}}

{{- define "infrasight.agentPods" }}
- podSelector:
    matchLabels: {{- include "infrasight.agentLabels" . | nindent 6 }}
{{- end }}
