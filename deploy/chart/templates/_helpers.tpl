{{- define "ima-cgpath.name" -}}
{{- printf "%s-%s" (.root.Release.Name | trunc 40 | trimSuffix "-") .part -}}
{{- end -}}

{{- define "ima-cgpath.selector" -}}
app.kubernetes.io/name: ima-cgpath
app.kubernetes.io/instance: {{ .root.Release.Name | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "ima-cgpath.labels" -}}
{{ include "ima-cgpath.selector" . }}
app.kubernetes.io/version: {{ include "ima-cgpath.tag" .root | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end -}}

{{- define "ima-cgpath.tag" -}}
{{- .Values.image.tag | default (.Chart.AppVersion | replace "~" "-" | replace "+" "-") -}}
{{- end -}}

{{- define "ima-cgpath.image" -}}
{{- $digest := index .root.Values.image.digests .part -}}
{{- $name := printf "%s/ima-cgpath-%s" .root.Values.image.registry .part -}}
{{- if $digest -}}{{ $name }}@{{ $digest }}{{- else -}}{{ $name }}:{{ include "ima-cgpath.tag" .root }}{{- end -}}
{{- end -}}

{{/* What each container has: no capability, no way to more, nothing to write to but its mounts. */}}
{{- define "ima-cgpath.confined" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "ima-cgpath.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}
