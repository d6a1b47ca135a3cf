{{- define "holdfast.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains "holdfast" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-holdfast" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.selector" -}}
app.kubernetes.io/name: holdfast
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: service
{{- end -}}

{{- define "holdfast.labels" -}}
app.kubernetes.io/name: holdfast
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "holdfast.account" -}}
{{- .Values.serviceAccount.name | default (include "holdfast.name" .) -}}
{{- end -}}

{{- define "holdfast.image" -}}
{{- $repository := required "image.repository is required: the image of Holdfast, which `cargo xtask image` builds" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.jobsNamespace" -}}
{{- $namespace := required "jobs.namespace is required: a namespace for data jobs alone" .Values.jobs.namespace -}}
{{- if eq $namespace .Release.Namespace -}}
{{- fail (printf "jobs.namespace is %q, the namespace of the release; the service may write every Secret in the namespace of jobs, so use another one" $namespace) -}}
{{- end -}}
{{- $namespace -}}
{{- end -}}

{{- define "holdfast.hosts" -}}
{{- $name := include "holdfast.name" . -}}
{{- $hosts := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) (printf "%s.%s.svc.cluster.local" $name .Release.Namespace) -}}
{{- if .Values.ingress.enabled -}}{{- $hosts = append $hosts .Values.ingress.host -}}{{- end -}}
{{- if .Values.gateway.enabled -}}{{- $hosts = concat $hosts .Values.gateway.hostnames -}}{{- end -}}
{{- concat $hosts (.Values.config.allowed_hosts | default list) | uniq | toJson -}}
{{- end -}}

{{- define "holdfast.url" -}}
{{- if .Values.config.rest_api_url -}}
{{- .Values.config.rest_api_url -}}
{{- else if and .Values.ingress.enabled .Values.ingress.tlsSecret -}}
{{- printf "https://%s" .Values.ingress.host -}}
{{- else -}}
{{- printf "http://%s.%s.svc.cluster.local:8092" (include "holdfast.name" .) .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{- /* The settings: those of the operator, and over them those that the chart decides. */ -}}
{{- define "holdfast.settings" -}}
{{- $settings := deepCopy .Values.config -}}
{{- $_ := set $settings "listen" "0.0.0.0:8092" -}}
{{- $_ := set $settings "runtime" "kubernetes" -}}
{{- $_ := set $settings "allowed_hosts" (include "holdfast.hosts" . | fromJsonArray) -}}
{{- $_ := set $settings "rest_api_url" (include "holdfast.url" .) -}}
{{- range $section := list "auth" "image" "kubernetes" "vdk" -}}
{{- if not (hasKey $settings $section) -}}{{- $_ := set $settings $section dict -}}{{- end -}}
{{- end -}}
{{- $_ := set $settings.kubernetes "namespace" (include "holdfast.jobsNamespace" .) -}}
{{- if .Values.jobs.template -}}{{- $_ := set $settings.kubernetes "template_file" "/etc/holdfast/config/data-job.yaml" -}}{{- end -}}
{{- if .Values.jobs.options.existingSecret -}}{{- $_ := set $settings.vdk "options_file" "/etc/holdfast/options/vdk_options.ini" -}}{{- end -}}
{{- if .Values.registry.credentialsSecret -}}{{- $_ := set $settings.image "registry_credentials_file" "/etc/holdfast/registry/config.json" -}}{{- end -}}
{{- if .Values.registry.pullCredentialsSecret -}}{{- $_ := set $settings.image "pull_credentials_file" "/etc/holdfast/registry-pull/config.json" -}}{{- end -}}
{{- if .Values.registry.caConfigMap -}}{{- $_ := set $settings.image "registry_ca_file" "/etc/holdfast/registry-ca/ca.pem" -}}{{- end -}}
{{- if .Values.webhookToken.existingSecret -}}{{- $_ := set $settings.auth "webhook_refresh_token_file" "/etc/holdfast/webhook/token" -}}{{- end -}}
{{- if .Values.metrics.token.existingSecret -}}{{- $_ := set $settings "metrics_token_file" "/etc/holdfast/metrics/token" -}}{{- end -}}
{{- if ne (int .Values.metrics.port) 8092 -}}{{- $_ := set $settings "metrics_listen" (printf "0.0.0.0:%d" (int .Values.metrics.port)) -}}{{- end -}}
{{- toJson $settings -}}
{{- end -}}

{{- /* A value in TOML: JSON is TOML except for maps. */ -}}
{{- define "holdfast.toml.value" -}}
{{- if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha -}}{{ if $index }}, {{ else }} {{ end }}{{ $key | quote }} = {{ include "holdfast.toml.value" (index $ $key) }}{{- end }} }
{{- else -}}
{{- toRawJson . -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.toml" -}}
{{- $settings := include "holdfast.settings" . | fromJson -}}
{{- range $key := keys $settings | sortAlpha -}}
{{- if not (kindIs "map" (index $settings $key)) }}
{{ $key }} = {{ include "holdfast.toml.value" (index $settings $key) }}
{{- end -}}
{{- end -}}
{{- range $section := keys $settings | sortAlpha -}}
{{- $values := index $settings $section -}}
{{- if and (kindIs "map" $values) $values }}

[{{ $section }}]
{{- range $key := keys $values | sortAlpha }}
{{ $key }} = {{ include "holdfast.toml.value" (index $values $key) }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Fails when a Secret that the pods need is not in the cluster. Without a cluster (`helm template`), nothing is looked up. */ -}}
{{- define "holdfast.needs" -}}
{{- if lookup "v1" "ServiceAccount" .root.Release.Namespace "" -}}
{{- $secret := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- if not $secret -}}
{{- fail (printf "the Secret %s, which %s names, is not in the namespace %s; create it first" .name .value .root.Release.Namespace) -}}
{{- end -}}
{{- if not (hasKey ($secret.data | default dict) .key) -}}
{{- fail (printf "the Secret %s, which %s names, has no key %s" .name .value .key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
