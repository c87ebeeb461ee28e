{{/* The server's settings as environment variables. Helm parses YAML numbers as floats, hence int64. */}}
{{- define "infrasight.serverEnv" -}}
{{- $settings := .Values.server.settings -}}
- {name: INFRASIGHT_SERVER_LISTEN, value: {{ printf "%s:7443" .Values.bindAddress | quote }}}
- {name: INFRASIGHT_SERVER_STATUS_LISTEN, value: {{ printf "%s:7444" .Values.bindAddress | quote }}}
- {name: INFRASIGHT_SERVER_DATA, value: /var/lib/infrasight}
- {name: INFRASIGHT_SERVER_DATABASE, value: {{ .Values.store.database | quote }}}
- {name: INFRASIGHT_SERVER_LINGER_SECONDS, value: {{ $settings.lingerSeconds | quote }}}
- {name: INFRASIGHT_SERVER_MAX_INSERT_ROWS, value: {{ int64 $settings.maxInsertRows | quote }}}
- {name: INFRASIGHT_SERVER_MAX_BATCH_BYTES, value: {{ int64 $settings.maxBatchBytes | quote }}}
- {name: INFRASIGHT_SERVER_MAX_DECODED_BYTES, value: {{ int64 $settings.maxDecodedBytes | quote }}}
- {name: INFRASIGHT_SERVER_MAX_PENDING_BYTES, value: {{ int64 $settings.maxPendingBytes | quote }}}
- {name: INFRASIGHT_SERVER_MAX_AGE_DAYS, value: {{ int64 $settings.maxAgeDays | quote }}}
- {name: INFRASIGHT_SERVER_MAX_STREAMS, value: {{ int64 $settings.maxStreams | quote }}}
- {name: INFRASIGHT_SERVER_QUERY_SECONDS, value: {{ $settings.querySeconds | quote }}}
- {name: INFRASIGHT_SERVER_QUERY_BYTES, value: {{ int64 $settings.queryBytes | quote }}}
- {name: INFRASIGHT_SERVER_QUERY_SLOTS, value: {{ int64 $settings.querySlots | quote }}}
- {name: INFRASIGHT_SERVER_QUERY_SLOTS_PER_PEER, value: {{ int64 $settings.querySlotsPerPeer | quote }}}
- {name: INFRASIGHT_SERVER_WATCHERS_PER_PEER, value: {{ int64 $settings.watchersPerPeer | quote }}}
- {name: INFRASIGHT_SERVER_STOP_SECONDS, value: {{ $settings.stopSeconds | quote }}}
- {name: INFRASIGHT_SERVER_LOG_LEVEL, value: {{ $settings.logLevel }}}
{{- with $settings.ttlDays }}
- {name: INFRASIGHT_SERVER_TTL_DAYS, value: {{ int64 . | quote }}}
{{- end }}
{{- range $probe, $days := $settings.probeTtlDays }}
- {name: INFRASIGHT_SERVER_PROBE_TTL_DAYS__{{ upper $probe }}, value: {{ int64 $days | quote }}}
{{- end }}
{{- with $settings.diskLimit }}
- {name: INFRASIGHT_SERVER_DISK_LIMIT, value: {{ . | quote }}}
{{- end }}
{{- with $settings.queryMemory }}
- {name: INFRASIGHT_SERVER_QUERY_MEMORY, value: {{ int64 . | quote }}}
{{- end }}
{{- with $settings.probes }}
- {name: INFRASIGHT_SERVER_PROBES, value: {{ join "," . | quote }}}
{{- end }}
- {name: INFRASIGHT_SERVER_STORE, value: {{ include "infrasight.storeUrl" . | quote }}}
{{- if not (include "infrasight.embedded" .) }}
- {name: INFRASIGHT_SERVER_STORE_PASSWORD_FILE, value: /etc/infrasight/store/password}
{{- if include "infrasight.querySecret" . }}
- {name: INFRASIGHT_SERVER_QUERY_USER, value: {{ include "infrasight.queryUser" . | quote }}}
- {name: INFRASIGHT_SERVER_QUERY_PASSWORD_FILE, value: /etc/infrasight/query/password}
{{- end }}
{{- else }}
- {name: INFRASIGHT_SERVER_REQUIRE_STORE_CONFINEMENT, value: {{ .Values.store.embedded.requireConfinement | quote }}}
{{- end }}
# Lets `kubectl exec deploy/… -- infrasight query "SELECT …"` connect to this server as a reader.
- {name: INFRASIGHT_SERVER, value: "localhost:7443"}
{{- if include "infrasight.tls" . }}
{{- include "infrasight.listenerTlsEnv" (list . "INFRASIGHT_SERVER_TLS__") }}
{{- include "infrasight.tlsEnv" (list . "INFRASIGHT_TLS_" "reader-tls") }}
{{- else }}
- {name: INFRASIGHT_SERVER_PLAINTEXT, value: "true"}
{{- end }}
{{- end -}}

{{- define "infrasight.storeUrl" -}}
{{- $store := .Values.store -}}
{{- if eq $store.type "embedded" -}}
embedded
{{- else if eq $store.type "external" -}}
{{- required "store.external.url is required if store.type is external: http[s]://user@host:port/" $store.external.url -}}
{{- else -}}
{{- printf "http://%s@%s.%s.svc:8123/" $store.clickhouse.user (include "infrasight.of" (list . "clickhouse")) .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the store's password, and its key. */}}
{{- define "infrasight.storeSecret" -}}
{{- if eq .Values.store.type "external" -}}
{{- required "store.external.passwordSecret.name is required if store.type is external: a Secret in this namespace" .Values.store.external.passwordSecret.name -}}
{{- else -}}
{{- default (include "infrasight.of" (list . "clickhouse")) .Values.store.clickhouse.passwordSecret.name -}}
{{- end -}}
{{- end -}}

{{- define "infrasight.storeSecretKey" -}}
{{- if eq .Values.store.type "external" -}}
{{- .Values.store.external.passwordSecret.key -}}
{{- else -}}
{{- .Values.store.clickhouse.passwordSecret.key -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the password of the user who runs queries, and its key; empty if there is no such user. */}}
{{- define "infrasight.querySecret" -}}
{{- if eq .Values.store.type "external" -}}
{{- if .Values.store.external.queryUser -}}
{{- required "store.external.queryPasswordSecret.name is required with store.external.queryUser: a Secret in this namespace" .Values.store.external.queryPasswordSecret.name -}}
{{- end -}}
{{- else if eq .Values.store.type "clickhouse" -}}
{{- $store := .Values.store.clickhouse -}}
{{- if $store.queryPasswordSecret.name -}}
{{- $store.queryPasswordSecret.name -}}
{{- else if not $store.passwordSecret.name -}}
{{- include "infrasight.of" (list . "clickhouse") -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "infrasight.querySecretKey" -}}
{{- (index .Values.store .Values.store.type).queryPasswordSecret.key -}}
{{- end -}}

{{- define "infrasight.queryUser" -}}
{{- (index .Values.store .Values.store.type).queryUser -}}
{{- end -}}
