{{/* The Secret of each component's certificate, and the names in the certificate. */}}

{{- define "infrasight.tls" -}}
{{- if ne .Values.certificates.mode "plaintext" }}true{{ end -}}
{{- end -}}

{{/* The Secret of server, operator, agent or client: (list . "server") */}}
{{- define "infrasight.tlsSecret" -}}
{{- $root := first . -}}
{{- if eq $root.Values.certificates.mode "existing" -}}
{{- index $root.Values.certificates.existing (last .) -}}
{{- else -}}
{{- include "infrasight.of" (list $root (printf "%s-tls" (last .))) -}}
{{- end -}}
{{- end -}}

{{/* The DNS names in a certificate, as JSON: (list . "server") */}}
{{- define "infrasight.dnsNames" -}}
{{- $root := first . -}}
{{- $name := include "infrasight.of" . -}}
{{- $names := list $name -}}
{{- if has (last .) (list "server" "operator") -}}
{{- $service := printf "%s.%s.svc" $name $root.Release.Namespace -}}
{{- $names = list $name (printf "%s.%s" $name $root.Release.Namespace) $service (printf "%s.%s" $service $root.Values.clusterDomain) "localhost" -}}
{{- end -}}
{{- if eq (last .) "server" -}}
{{- $names = concat $names $root.Values.certificates.serverNames -}}
{{- end -}}
{{- toJson (uniq $names) -}}
{{- end -}}

{{/* The addresses in a certificate, as JSON: (list . "server") */}}
{{- define "infrasight.ipAddresses" -}}
{{- $addresses := list -}}
{{- if has (last .) (list "server" "operator") -}}
{{- $addresses = list "127.0.0.1" "::1" -}}
{{- end -}}
{{- if eq (last .) "server" -}}
{{- $addresses = concat $addresses (first .).Values.certificates.serverAddresses -}}
{{- end -}}
{{- toJson (uniq $addresses) -}}
{{- end -}}

{{/* The environment variables of the TLS settings: (list . "INFRASIGHT_SERVER_TLS__") */}}
{{- define "infrasight.tlsEnv" -}}
{{- if include "infrasight.tls" (first .) }}
- {name: {{ last . }}CERTIFICATE, value: /etc/infrasight/tls/tls.crt}
- {name: {{ last . }}KEY, value: /etc/infrasight/tls/tls.key}
- {name: {{ last . }}CA, value: /etc/infrasight/tls/ca.crt}
{{- end }}
{{- end -}}

{{- define "infrasight.tlsMount" -}}
{{- if include "infrasight.tls" . }}
- {name: tls, mountPath: /etc/infrasight/tls, readOnly: true}
{{- end }}
{{- end -}}

{{/* (list . "server") */}}
{{- define "infrasight.tlsVolume" -}}
{{- if include "infrasight.tls" (first .) }}
- name: tls
  secret: {secretName: {{ include "infrasight.tlsSecret" . }}, defaultMode: 0440}
{{- end }}
{{- end -}}
