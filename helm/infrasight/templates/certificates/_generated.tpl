{{/*
Certificates that the chart generates. Upgrades reuse the certificates in the cluster. A certificate is replaced when the CA
or its names change, and by the first upgrade after `renewDays`. Several templates include this one, so the result is stored in
.Values.
*/}}
{{- define "infrasight.generate" -}}
{{- if not (hasKey .Values "generatedCertificates") -}}
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
{{- $certificates := dict "ca" (dict "crt" ($ca.Cert | b64enc) "key" ($ca.Key | b64enc)) -}}
{{- range $role := list "server" "operator" "agent" "client" -}}
{{- $dns := include "infrasight.dnsNames" (list $root $role) -}}
{{- $ips := include "infrasight.ipAddresses" (list $root $role) -}}
{{- $names := printf "%s %s" $dns $ips | sha256sum -}}
{{- $old := lookup "v1" "Secret" $root.Release.Namespace (include "infrasight.of" (list $root (printf "%s-tls" $role))) | default dict -}}
{{- $annotations := ($old.metadata | default dict).annotations | default dict -}}
{{- $data := $old.data | default dict -}}
{{- $reuse := and (eq (get $annotations "infrasight.io/names") $names) (gt (get $annotations "infrasight.io/renew-after" | int64) $now) -}}
{{- if and $reuse (get $data "tls.key") (eq (get $data "ca.crt") ($ca.Cert | b64enc)) -}}
{{- $pair := dict "crt" (get $data "tls.crt") "key" (get $data "tls.key") -}}
{{- $_ := set $certificates $role (merge $pair (dict "names" $names "renewAfter" (get $annotations "infrasight.io/renew-after"))) -}}
{{- else -}}
{{- $ip := fromJsonArray $ips -}}
{{- $new := genSignedCertWithKey (include "infrasight.of" (list $root $role)) $ip (fromJsonArray $dns) (int $settings.days) $ca (genPrivateKey "ecdsa") -}}
{{- $renew := add $now (mul (int64 $settings.renewDays) 86400) | toString -}}
{{- $pair := dict "crt" ($new.Cert | b64enc) "key" ($new.Key | b64enc) -}}
{{- $_ := set $certificates $role (merge $pair (dict "names" $names "renewAfter" $renew)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set .Values "generatedCertificates" $certificates -}}
{{- end -}}
{{- end -}}

{{/* A pod annotation that restarts the pods when their certificate changes: (list . "server") */}}
{{- define "infrasight.certificateAnnotation" -}}
{{- $root := first . -}}
{{- if eq $root.Values.certificates.mode "generated" -}}
{{- include "infrasight.generate" $root -}}
infrasight.io/certificate: {{ index $root.Values.generatedCertificates (last .) "crt" | sha256sum | trunc 16 | quote }}
{{- end -}}
{{- end -}}
