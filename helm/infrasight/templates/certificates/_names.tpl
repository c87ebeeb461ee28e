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

{{/* The role that a certificate states, and its name: (list . "agent"). All agents share one certificate. */}}
{{- define "infrasight.role" -}}
{{- $name := include "infrasight.fullname" (first .) -}}
{{- if eq (last .) "agent" -}}
agents/{{ $name }}
{{- else if eq (last .) "client" -}}
reader/{{ $name }}
{{- else -}}
{{ last . }}
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
{{- if eq $root.Values.certificates.mode "generated" -}}
{{- /* Helm cannot generate URI names, so that a DNS name states the role. */ -}}
{{- $role := splitList "/" (include "infrasight.role" .) -}}
{{- $names = append $names (printf "%s.infrasight.internal" (join "." (reverse $role))) -}}
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

{{/* The environment variables of the TLS settings: (list . "INFRASIGHT_SERVER_TLS__" "tls") */}}
{{- define "infrasight.tlsEnv" -}}
{{- if include "infrasight.tls" (first .) }}
{{- $variable := index . 1 }}
- {name: {{ $variable }}CERTIFICATE, value: /etc/infrasight/{{ last . }}/tls.crt}
- {name: {{ $variable }}KEY, value: /etc/infrasight/{{ last . }}/tls.key}
- {name: {{ $variable }}CA, value: /etc/infrasight/{{ last . }}/ca.crt}
{{- end }}
{{- end -}}

{{/* The same for a process that listens: (list . "INFRASIGHT_SERVER_TLS__") */}}
{{- define "infrasight.listenerTlsEnv" -}}
{{- include "infrasight.tlsEnv" (list (first .) (last .) "tls") }}
{{- if include "infrasight.tls" (first .) }}
- {name: {{ last . }}SHARED_AGENT_CERTIFICATE, value: {{ (first .).Values.certificates.sharedAgentCertificate | quote }}}
{{- end }}
{{- if include "infrasight.crl" (first .) }}
- {name: {{ last . }}CRL, value: /etc/infrasight/crl/crl.pem}
{{- end }}
{{- end -}}

{{/* Whether there are revocation lists. */}}
{{- define "infrasight.crl" -}}
{{- $crl := .Values.certificates.crl -}}
{{- if or $crl.configMap $crl.secret -}}
{{- if not (include "infrasight.tls" .) -}}
{{- fail "certificates.crl: certificates.mode is plaintext, so there are no certificates to revoke; remove certificates.crl" -}}
{{- end -}}
true
{{- end -}}
{{- end -}}

{{- define "infrasight.crlMount" -}}
{{- if include "infrasight.crl" . }}
- {name: crl, mountPath: /etc/infrasight/crl, readOnly: true}
{{- end }}
{{- end -}}

{{/* A whole volume, without subPath: the kubelet replaces its file when the object changes. */}}
{{- define "infrasight.crlVolume" -}}
{{- if include "infrasight.crl" . }}
{{- $crl := .Values.certificates.crl }}
{{- $source := dict "defaultMode" 0440 "items" (list (dict "key" $crl.key "path" "crl.pem")) }}
- name: crl
  {{- if $crl.secret }}
  secret: {{ toJson (merge (dict "secretName" $crl.secret) $source) }}
  {{- else }}
  configMap: {{ toJson (merge (dict "name" $crl.configMap) $source) }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* (list . "tls") */}}
{{- define "infrasight.tlsMount" -}}
{{- if include "infrasight.tls" (first .) }}
- {name: {{ last . }}, mountPath: /etc/infrasight/{{ last . }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* (list . "server" "tls") */}}
{{- define "infrasight.tlsVolume" -}}
{{- if include "infrasight.tls" (first .) }}
- name: {{ last . }}
  secret: {secretName: {{ include "infrasight.tlsSecret" (list (first .) (index . 1)) }}, defaultMode: 0440}
{{- end }}
{{- end -}}
