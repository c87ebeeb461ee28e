{{/*
Certificates that the chart makes: what is in the cluster is kept. A certificate is made anew when the CA's is another one, when
the names in it change, and by the first upgrade after `renewDays`. They are made once a run: several templates ask.
*/}}
{{- define "infrasight.generate" -}}
{{- if not (hasKey .Values "madeCertificates") -}}
{{- $root := . -}}
{{- $settings := .Values.certificates.generated -}}
{{- $now := now | unixEpoch | int64 -}}
{{- $caSecret := lookup "v1" "Secret" .Release.Namespace (include "infrasight.of" (list . "ca")) | default dict -}}
{{- $ca := dict -}}
{{- if get ($caSecret.data | default dict) "tls.key" -}}
{{- $ca = buildCustomCert (index $caSecret.data "tls.crt") (index $caSecret.data "tls.key") -}}
{{- else -}}
{{- $ca = genCAWithKey (printf "%s CA" (include "infrasight.fullname" .)) (int $settings.caDays) (genPrivateKey "ecdsa") -}}
{{- end -}}
{{- $made := dict "ca" (dict "crt" ($ca.Cert | b64enc) "key" ($ca.Key | b64enc)) -}}
{{- range $role := list "server" "operator" "agent" "client" -}}
{{- $dns := include "infrasight.dnsNames" (list $root $role) -}}
{{- $ips := include "infrasight.ipAddresses" (list $root $role) -}}
{{- $names := printf "%s %s" $dns $ips | sha256sum -}}
{{- $old := lookup "v1" "Secret" $root.Release.Namespace (include "infrasight.of" (list $root (printf "%s-tls" $role))) | default dict -}}
{{- $said := ($old.metadata | default dict).annotations | default dict -}}
{{- $data := $old.data | default dict -}}
{{- $kept := and (eq (get $said "infrasight.io/names") $names) (gt (get $said "infrasight.io/renew-after" | int64) $now) -}}
{{- if and $kept (get $data "tls.key") (eq (get $data "ca.crt") ($ca.Cert | b64enc)) -}}
{{- $pair := dict "crt" (get $data "tls.crt") "key" (get $data "tls.key") -}}
{{- $_ := set $made $role (merge $pair (dict "names" $names "renewAfter" (get $said "infrasight.io/renew-after"))) -}}
{{- else -}}
{{- $ip := fromJsonArray $ips -}}
{{- $new := genSignedCertWithKey (include "infrasight.of" (list $root $role)) $ip (fromJsonArray $dns) (int $settings.days) $ca (genPrivateKey "ecdsa") -}}
{{- $renew := add $now (mul (int64 $settings.renewDays) 86400) | toString -}}
{{- $pair := dict "crt" ($new.Cert | b64enc) "key" ($new.Key | b64enc) -}}
{{- $_ := set $made $role (merge $pair (dict "names" $names "renewAfter" $renew)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set .Values "madeCertificates" $made -}}
{{- end -}}
{{- end -}}

{{/* An annotation of pods that use a certificate, so that they start again with a new one: (list . "server") */}}
{{- define "infrasight.certificateAnnotation" -}}
{{- $root := first . -}}
{{- if eq $root.Values.certificates.mode "generated" -}}
{{- include "infrasight.generate" $root -}}
infrasight.io/certificate: {{ index $root.Values.madeCertificates (last .) "crt" | sha256sum | trunc 16 | quote }}
{{- end -}}
{{- end -}}
