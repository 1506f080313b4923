{{/* Labels of everything: a dict with the root as "root" and the component's name as "name". */}}
{{- define "causeway.labels" -}}
{{ include "causeway.selector" . }}
app.kubernetes.io/part-of: causeway
app.kubernetes.io/version: {{ .root.Chart.AppVersion | replace "+" "_" | trunc 63 | trimSuffix "_" | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 }}
{{- end }}

{{/* Labels of pods. No version: labels count for identities, and none should change with it. */}}
{{- define "causeway.podLabels" -}}
{{ include "causeway.selector" . }}
app.kubernetes.io/part-of: causeway
{{- end }}

{{/* Labels by which pods of a component are selected; they never change. */}}
{{- define "causeway.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* Name of what has no namespace. */}}
{{- define "causeway.clusterName" -}}
{{ printf "%s-%s" .root.Release.Name .name }}
{{- end }}

{{/* One argument, quoted for YAML; nothing for an empty value. "flag" and "value", a string or a list. */}}
{{- define "causeway.arg" -}}
{{- $value := .value }}
{{- if kindIs "slice" $value }}{{ $value = join "," $value }}{{ end }}
{{- with $value }}- {{ printf "--%s=%v" $.flag . | quote }}{{ end }}
{{- end }}
