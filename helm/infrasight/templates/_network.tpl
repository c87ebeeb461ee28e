{{/* Rules and peers of network policies. */}}

{{- define "infrasight.dnsEgress" }}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    # OpenShift's DNS pods listen on 5353. Policies apply to the port of the pod, not of the service.
    - {port: 5353, protocol: UDP}
    - {port: 5353, protocol: TCP}
{{- end }}

{{- define "infrasight.podsOf" }}
- podSelector:
    matchLabels: {{- include "infrasight.selector" . | nindent 6 }}
{{- end }}

{{/* The operator creates the agents' pods and sets their labels. A namespace has one installation. */}}
{{- define "infrasight.agentLabels" -}}
app.kubernetes.io/name: infrasight-agent
{{- end -}}

{{- define "infrasight.agentPods" }}
- podSelector:
    matchLabels: {{- include "infrasight.agentLabels" . | nindent 6 }}
{{- end }}
