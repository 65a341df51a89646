{{- /* The name of the product in labels. */ -}}
{{- define "spiderpool.name" -}}
{{- default .Chart.Name .Values.global.nameOverride -}}
{{- end -}}

{{- /* Labels of every object. */ -}}
{{- define "spiderpool.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "spiderpool.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.global.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Labels by which the agent's pods are selected; they never change. */ -}}
{{- define "spiderpool.agent.selector" -}}
app.kubernetes.io/name: {{ include "spiderpool.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.spiderpoolAgent.name }}
{{- end -}}

{{- /* Labels of the agent's objects. */ -}}
{{- define "spiderpool.agent.labels" -}}
{{ include "spiderpool.labels" . }}
app.kubernetes.io/component: {{ .Values.spiderpoolAgent.name }}
{{- end -}}

{{- /* Annotations of an object: its own over the common ones. Call: (list $ own) */ -}}
{{- define "spiderpool.annotations" -}}
{{- $common := deepCopy (default dict (index . 0).Values.global.commonAnnotations) -}}
{{- with mergeOverwrite $common (default dict (index . 1)) -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- /* The reference of an image. Call: (list $ image) */ -}}
{{- define "spiderpool.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := default $image.registry $root.Values.global.imageRegistryOverride -}}
{{- with $registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default $root.Chart.AppVersion $image.tag }}{{ end -}}
{{- end -}}

{{- /* A switch of "feature" that may stand under "ipam" as well. Call: (list $ key) */ -}}
{{- define "spiderpool.feature" -}}
{{- $values := (index . 0).Values -}}
{{- $key := index . 1 -}}
{{- $value := index (default dict $values.ipam) $key -}}
{{- if kindIs "invalid" $value }}{{ $value = index $values.feature $key }}{{ end -}}
{{- $value -}}
{{- end -}}

{{- define "spiderpool.cniBinHostPath" -}}
{{- default .Values.global.ipamBinHostPath .Values.global.cniBinHostPath -}}
{{- end -}}

{{- define "spiderpool.agent.healthPort" -}}
{{- default .Values.spiderpoolAgent.healthChecking.port .Values.spiderpoolAgent.httpPort -}}
{{- end -}}
