{{/* Names, labels, and the server's configuration. */}}

{{- define "piko.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters: names of pods, which are labels, and "-upstream" and the like are made of it. */}}
{{- define "piko.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "piko.headless" -}}
{{ include "piko.fullname" . }}-headless
{{- end }}

{{- define "piko.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "piko.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "piko.selectorLabels" -}}
app.kubernetes.io/name: {{ include "piko.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "piko.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "piko.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "piko.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{- define "piko.gossipSecret" -}}
{{- default (printf "%s-gossip" (include "piko.fullname" .)) .Values.gossip.existingSecret }}
{{- end }}

{{/* What can't be right is refused here, where a schema can't see it. */}}
{{- define "piko.check" -}}
{{- if not .Values.image.repository }}
{{- fail "image.repository is needed: no image is published (docs/containers.md)" }}
{{- end }}
{{- if lt (int .Values.terminationGracePeriodSeconds) (add 10 (int .Values.server.shutdownDelay) | int) }}
{{- fail "terminationGracePeriodSeconds must be at least 10 more than server.shutdownDelay" }}
{{- end }}
{{- $ports := list .Values.server.proxyPort .Values.server.upstreamPort .Values.server.adminPort .Values.server.gossipPort }}
{{- if ne (len (uniq $ports)) 4 }}
{{- fail "server.proxyPort, upstreamPort, adminPort and gossipPort must differ" }}
{{- end }}
{{- if and .Values.tls.proxy.secretName (not .Values.tls.nodes.serverName) }}
{{- fail "tls.nodes.serverName is needed with tls.proxy.secretName: nodes speak TLS to each other's proxy ports, and check this name" }}
{{- end }}
{{- range $port := list "proxy" "upstream" }}
{{- $tls := index $.Values.tls $port }}
{{- if and $tls.clientCaSecretName (not $tls.secretName) }}
{{- fail (printf "tls.%s.clientCaSecretName needs tls.%s.secretName" $port $port) }}
{{- end }}
{{- end }}
{{- if and .Values.tls.proxy.clientCaSecretName (not .Values.tls.nodes.secretName) }}
{{- fail "tls.nodes.secretName is needed with tls.proxy.clientCaSecretName: other nodes need a certificate, too" }}
{{- end }}
{{- range $port := list "proxy" "upstream" "admin" }}
{{- $auth := index $.Values.auth $port }}
{{- $keys := compact (list $auth.hmacSecretKey $auth.rsaPublicKey $auth.ecdsaPublicKey $auth.jwks) }}
{{- if and $keys (not $auth.secretName) }}
{{- fail (printf "auth.%s names keys, but no secretName that they are in" $port) }}
{{- end }}
{{- if and $auth.secretName (not $keys) }}
{{- fail (printf "auth.%s.secretName names none of its keys, so the port would be open: set hmacSecretKey, rsaPublicKey, ecdsaPublicKey or jwks" $port) }}
{{- end }}
{{- if and $auth.jwks $auth.jwksEndpoint }}
{{- fail (printf "auth.%s has both jwks and jwksEndpoint" $port) }}
{{- end }}
{{- if and (or $auth.audience $auth.issuer $auth.requireEndpoints) (not $keys) (not $auth.jwksEndpoint) }}
{{- fail (printf "auth.%s says what tokens must be, but has no key: the port would be open" $port) }}
{{- end }}
{{- end }}
{{- if and (not .Values.gossip.existingSecret) (ne (join "," .Values.gossip.secretKeys) "gossip-key") }}
{{- fail "gossip.secretKeys needs gossip.existingSecret: the Secret that the chart makes has one key, gossip-key" }}
{{- end }}
{{- range $port := list "proxy" "upstream" }}
{{- if and (index $.Values.gateway $port).enabled (not (index $.Values.gateway $port).parentRefs) }}
{{- fail (printf "gateway.%s.parentRefs must name a Gateway" $port) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The keys of one port's auth. */}}
{{- define "piko.auth" -}}
{{- $folder := printf "/etc/piko-secrets/auth/%s" .port }}
{{- $auth := dict }}
{{- with .auth.hmacSecretKey }}{{ $_ := set $auth "hmac_secret_key_file" (printf "%s/%s" $folder .) }}{{ end }}
{{- with .auth.rsaPublicKey }}{{ $_ := set $auth "rsa_public_key_file" (printf "%s/%s" $folder .) }}{{ end }}
{{- with .auth.ecdsaPublicKey }}{{ $_ := set $auth "ecdsa_public_key_file" (printf "%s/%s" $folder .) }}{{ end }}
{{- with .auth.jwks }}{{ $_ := set $auth "jwks" (dict "endpoint" (printf "file://%s/%s" $folder .)) }}{{ end }}
{{- with .auth.jwksEndpoint }}{{ $_ := set $auth "jwks" (dict "endpoint" .) }}{{ end }}
{{- with .auth.audience }}{{ $_ := set $auth "audience" . }}{{ end }}
{{- with .auth.issuer }}{{ $_ := set $auth "issuer" . }}{{ end }}
{{- if .auth.requireEndpoints }}{{ $_ := set $auth "require_endpoints" true }}{{ end }}
{{- toYaml $auth }}
{{- end }}

{{/* server.yaml: what the chart knows, and server.config over it. */}}
{{- define "piko.config" -}}
{{- $values := .Values }}
{{- $config := dict }}
{{- range $port := list "proxy" "upstream" "admin" }}
{{- $keys := dict "bind_addr" (printf ":%d" (int (index $values.server (printf "%sPort" $port)))) }}
{{- $auth := include "piko.auth" (dict "port" $port "auth" (index $values.auth $port)) | fromYaml }}
{{- if $auth }}{{ $_ := set $keys "auth" $auth }}{{ end }}
{{- $given := index $values.tls $port }}
{{- $tls := dict }}
{{- if $given.secretName }}
{{- $_ := set $tls "cert" (printf "/etc/piko-secrets/tls/%s/tls.crt" $port) }}
{{- $_ := set $tls "key" (printf "/etc/piko-secrets/tls/%s/tls.key" $port) }}
{{- end }}
{{- if $given.clientCaSecretName }}{{ $_ := set $tls "client_cas" (printf "/etc/piko-secrets/tls/%s-clients/ca.crt" $port) }}{{ end }}
{{- if eq $port "proxy" }}
{{- $client := dict }}
{{- with $values.tls.nodes.serverName }}{{ $_ := set $client "server_name" . }}{{ end }}
{{- if $values.tls.nodes.caSecretName }}{{ $_ := set $client "root_cas" "/etc/piko-secrets/tls/nodes-ca/ca.crt" }}{{ end }}
{{- if $values.tls.nodes.secretName }}
{{- $_ := set $client "cert" "/etc/piko-secrets/tls/nodes/tls.crt" }}
{{- $_ := set $client "key" "/etc/piko-secrets/tls/nodes/tls.key" }}
{{- end }}
{{- if $client }}{{ $_ := set $tls "client" $client }}{{ end }}
{{- end }}
{{- if $tls }}{{ $_ := set $keys "tls" $tls }}{{ end }}
{{- $_ := set $config $port $keys }}
{{- end }}
{{- $gossip := dict "bind_addr" (printf ":%d" (int $values.server.gossipPort)) }}
{{- if $values.gossip.auth }}
{{- $files := list }}
{{- range $values.gossip.secretKeys }}{{ $files = append $files (printf "/etc/piko-secrets/gossip/%s" .) }}{{ end }}
{{- $_ := set $gossip "secret_key_files" $files }}
{{- end }}
{{- $cluster := dict "node_id" "${POD_NAME}" "id" (printf "%s/%s" .Release.Namespace (include "piko.fullname" .)) "join" (list (include "piko.headless" .)) "gossip" $gossip }}
{{- $_ := set $config "cluster" $cluster }}
{{- $_ := set $config "log" (dict "level" $values.server.logLevel) }}
{{- $_ := set $config "shutdown_delay" (printf "%ds" (int $values.server.shutdownDelay)) }}
{{- $_ := set $config "grace_period" (printf "%ds" (sub (int $values.terminationGracePeriodSeconds) (add 5 (int $values.server.shutdownDelay)))) }}
{{- $_ := set $config "server" (dict "workers" (int $values.server.workers) "control_socket" "/run/piko/server.sock" "io_backend" $values.server.ioBackend) }}
{{- include "piko.yaml" (mergeOverwrite $config (deepCopy $values.server.config)) | trim }}
{{- end }}

{{/* A map as the server reads it. Not by toYaml, which folds long texts over several lines and writes large numbers as 1e+06. */}}
{{- define "piko.yaml" -}}
{{- range $key, $value := . }}
{{- if and (kindIs "map" $value) $value }}
{{ $key }}:
{{- include "piko.yaml" $value | trim | nindent 2 }}
{{- else }}
{{ $key }}: {{ toRawJson $value }}
{{- end }}
{{- end }}
{{- end }}

{{/* A probe: an httpGet at the admin port, with the given values over it. A handler among them takes its place. */}}
{{- define "piko.probe" -}}
{{- $probe := dict "httpGet" (dict "path" .path "port" "admin" "scheme" (ternary "HTTPS" "HTTP" (ne .values.tls.admin.secretName ""))) }}
{{- if or .given.exec .given.tcpSocket .given.grpc .given.httpGet }}{{ $probe = dict }}{{ end }}
{{- toYaml (mergeOverwrite $probe (deepCopy .given)) }}
{{- end }}

{{/* Secrets with certificates: the folder below /etc/piko-secrets/tls that each is mounted at, and its name. */}}
{{- define "piko.tlsVolumes" -}}
{{- $volumes := list }}
{{- range $port := list "proxy" "upstream" "admin" "nodes" }}
{{- with (index $.Values.tls $port).secretName }}{{ $volumes = append $volumes (dict "name" $port "secret" .) }}{{ end }}
{{- end }}
{{- range $port := list "proxy" "upstream" }}
{{- with (index $.Values.tls $port).clientCaSecretName }}{{ $volumes = append $volumes (dict "name" (printf "%s-clients" $port) "secret" .) }}{{ end }}
{{- end }}
{{- with .Values.tls.nodes.caSecretName }}{{ $volumes = append $volumes (dict "name" "nodes-ca" "secret" .) }}{{ end }}
{{- toYaml $volumes }}
{{- end }}
