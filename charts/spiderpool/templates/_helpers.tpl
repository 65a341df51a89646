{{- /* The name of the product in labels. */ -}}
{{- define "spiderpool.name" -}}
{{- default .Chart.Name .Values.global.nameOverride -}}
{{- end -}}

{{- /* Labels of an object: those by which it is found win over its own, and its own over the common ones. Call:
       (list $ component own), "" for what belongs to no component */ -}}
{{- define "spiderpool.labelsOf" -}}
{{- $root := index . 0 -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_")
  "app.kubernetes.io/name" (include "spiderpool.name" $root)
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- with index . 1 }}{{ $_ := set $labels "app.kubernetes.io/component" . }}{{ end -}}
{{- merge $labels (default dict (index . 2)) (default dict $root.Values.global.commonLabels) | toYaml -}}
{{- end -}}

{{- /* Labels of the objects that belong to no component. */ -}}
{{- define "spiderpool.labels" -}}
{{- include "spiderpool.labelsOf" (list . "" dict) -}}
{{- end -}}

{{- /* Labels by which the agent's pods are selected; they never change. */ -}}
{{- define "spiderpool.agent.selector" -}}
app.kubernetes.io/name: {{ include "spiderpool.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: {{ .Values.spiderpoolAgent.name | quote }}
{{- end -}}

{{- /* Labels of the agent's objects. */ -}}
{{- define "spiderpool.agent.labels" -}}
{{- include "spiderpool.labelsOf" (list . .Values.spiderpoolAgent.name dict) -}}
{{- end -}}

{{- /* Labels by which the controller's pods are selected; they never change. */ -}}
{{- define "spiderpool.controller.selector" -}}
app.kubernetes.io/name: {{ include "spiderpool.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: {{ .Values.spiderpoolController.name | quote }}
{{- end -}}

{{- /* Labels of the controller's objects. */ -}}
{{- define "spiderpool.controller.labels" -}}
{{- include "spiderpool.labelsOf" (list . .Values.spiderpoolController.name dict) -}}
{{- end -}}

{{- /* The ServiceMonitor of a component, if it is wanted. Call: (list $ "agent" values) */ -}}
{{- define "spiderpool.serviceMonitor" -}}
{{- $root := index . 0 -}}
{{- $component := index . 2 -}}
{{- $monitor := $component.prometheus.serviceMonitor -}}
{{- if and $component.prometheus.enabled $monitor.install }}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ $component.name | quote }}
  namespace: {{ $root.Release.Namespace | quote }}
  labels:
    {{- include "spiderpool.labelsOf" (list $root $component.name $monitor.labels) | nindent 4 }}
  {{- include "spiderpool.annotations" (list $root $monitor.annotations) | nindent 2 }}
spec:
  namespaceSelector:
    matchNames: [{{ $root.Release.Namespace | quote }}]
  selector:
    matchLabels:
      {{- include (printf "spiderpool.%s.selector" (index . 1)) $root | nindent 6 }}
  endpoints:
    - port: metrics
      path: /metrics
      {{- with $monitor.interval }}
      interval: {{ . }}
      {{- end }}
{{- end }}
{{- end -}}

{{- define "spiderpool.controller.healthPort" -}}
{{- default .Values.spiderpoolController.healthChecking.port .Values.spiderpoolController.httpPort -}}
{{- end -}}

{{- /* How the controller comes by its certificate. Existing installations write "provided", as their chart had it by default,
       also where they provide nothing. */ -}}
{{- define "spiderpool.controller.tlsMethod" -}}
{{- $tls := .Values.spiderpoolController.tls -}}
{{- $given := list -}}
{{- range $key := list "tlsCert" "tlsKey" "tlsCa" -}}
{{- if index $tls.provided $key }}{{ $given = append $given $key }}{{ end -}}
{{- end -}}
{{- if ne $tls.method "provided" -}}
{{- $tls.method -}}
{{- else if eq (len $given) 3 -}}
provided
{{- else if $given -}}
{{- fail (printf "spiderpoolController.tls.method is provided, and of tls.provided.tlsCert, tlsKey and tlsCa only %s is set: set all three, or tls.method=auto" (join ", " $given)) -}}
{{- else -}}
auto
{{- end -}}
{{- end -}}

{{- /* The default pools that the controller makes, as variables of its environment. */ -}}
{{- define "spiderpool.defaultPoolEnv" -}}
{{- $values := .Values.clusterDefaultPool -}}
{{- range $family := list "IPv4" "IPv6" -}}
{{- $key := lower $family -}}
{{- if index $values (printf "install%sIPPool" $family) -}}
{{- $subnet := index $values (printf "%sSubnet" $key) -}}
{{- if not $subnet -}}
{{- fail (printf "clusterDefaultPool.install%sIPPool is true and clusterDefaultPool.%sSubnet is empty: set it" $family $key) -}}
{{- end }}
- name: SPIDERPOOL_INIT_DEFAULT_{{ upper $family }}_IPPOOL_NAME
  value: {{ index $values (printf "%sIPPoolName" $key) | quote }}
- name: SPIDERPOOL_INIT_DEFAULT_{{ upper $family }}_IPPOOL_SUBNET
  value: {{ $subnet | quote }}
- name: SPIDERPOOL_INIT_DEFAULT_{{ upper $family }}_IPPOOL_IPRANGES
  value: {{ default list (index $values (printf "%sIPRanges" $key)) | toJson | quote }}
- name: SPIDERPOOL_INIT_DEFAULT_{{ upper $family }}_IPPOOL_GATEWAY
  value: {{ default "" (index $values (printf "%sGateway" $key)) | quote }}
{{- with index $values (printf "%sSubnetName" $key) }}
- name: SPIDERPOOL_INIT_DEFAULT_{{ upper $family }}_SUBNET_NAME
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* What is collected, as variables of the controller's environment: what stands under "ipam" wins. */ -}}
{{- define "spiderpool.collectionEnv" -}}
{{- $gc := .Values.feature.gc -}}
{{- $ipam := default dict (default dict .Values.ipam).gc -}}
{{- $pods := default dict $ipam.statelessPod -}}
{{- range $name, $values := dict
  "IP_ENABLED" (list $ipam.enabled $gc.enabled)
  "DRY_RUN" (list $ipam.dryRun (default false $gc.dryRun))
  "STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED" (list $pods.zombieOnReadyNode $gc.GcDeletingTimeOutPod.enabled)
  "STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED" (list $pods.zombieOnNotReadyNode $gc.GcDeletingTimeOutPod.enabled)
  "ADDITIONAL_GRACE_DELAY" (list $ipam.gcDeletingTimeOutPodDelay $gc.GcDeletingTimeOutPod.delay)
  "EVICTED_POD_IP_ENABLED" (list $gc.GcEvictedPodPod.enabled)
  "EVICTED_POD_IP_DELAY" (list $gc.GcEvictedPodPod.delay)
  "DEFAULT_INTERVAL_DURATION" (list (default dict $ipam.gcAll).intervalInSecond 600) }}
- name: SPIDERPOOL_GC_{{ $name }}
  value: {{ kindIs "invalid" (first $values) | ternary (last $values) (first $values) | toJson | quote }}
{{- end }}
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

{{- /* A switch of "feature" that may stand under "ipam" as well; empty if it stands nowhere. Call: (list $ key) */ -}}
{{- define "spiderpool.feature" -}}
{{- $values := (index . 0).Values -}}
{{- $key := index . 1 -}}
{{- $value := index (default dict $values.ipam) $key -}}
{{- if kindIs "invalid" $value }}{{ $value = index $values.feature $key }}{{ end -}}
{{- if not (kindIs "invalid" $value) }}{{ $value }}{{ end -}}
{{- end -}}

{{- define "spiderpool.cniBinHostPath" -}}
{{- default .Values.global.ipamBinHostPath .Values.global.cniBinHostPath -}}
{{- end -}}

{{- define "spiderpool.agent.healthPort" -}}
{{- default .Values.spiderpoolAgent.healthChecking.port .Values.spiderpoolAgent.httpPort -}}
{{- end -}}

{{- /* The securityContext of a container of the agent's pod. Call: (list $ capabilities)
       On nodes with SELinux the host's directories are closed to every type but spc_t. DAC_OVERRIDE writes to a directory of
       CNI plugins that another user owns, as some installers leave it. */ -}}
{{- define "spiderpool.agent.securityContext" -}}
{{- with (index . 0).Values.spiderpoolAgent.securityContext -}}
{{- toYaml . -}}
{{- else -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
seccompProfile: {type: RuntimeDefault}
seLinuxOptions: {type: spc_t, level: s0}
capabilities:
  drop: [ALL]
  add: {{ prepend (index . 1) "DAC_OVERRIDE" | toJson }}
{{- end -}}
{{- end -}}

{{- /* Refuses what values.schema.json cannot: in a chart of charts, "global" has the values of all. */ -}}
{{- define "spiderpool.checkGlobal" -}}
{{- $known := list "imageRegistryOverride" "nameOverride" "clusterDnsDomain" "commonAnnotations" "commonLabels" "ipamBinHostPath" "cniBinHostPath" "ipamUNIXSocketHostPath" "configName" -}}
{{- range $key, $_ := .Values.global -}}
{{- if and $.Chart.IsRoot (not (has $key $known)) -}}
{{- fail (printf "unknown value global.%s: correct it or remove it; there are %s" $key (join ", " $known)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The rules of roles by which the configured owners of fixed addresses are read; empty if there are none. */ -}}
{{- define "spiderpool.fixedAddressRules" -}}
{{- range (default dict .Values.ipam).fixedAddressKinds }}
- apiGroups: [{{ .apiVersion | splitList "/" | first | quote }}]
  resources: [{{ default (printf "%ss" (lower .kind)) .resource | quote }}]
  verbs: [get]
{{- end }}
{{- end -}}

{{- /* A line for each value that is known from existing installations, is set, and is not served yet. */ -}}
{{- define "spiderpool.noEffect" -}}
{{- range $path, $why := dict
  "ipam.enableCleanOutdatedEndpoint" "a SpiderEndpoint goes with its pod"
  "ipam.gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs" "a pod that runs keeps its addresses, whatever its status says"
  "spiderpoolAgent.prometheus.enabledDebugMetric" "the controller tells the numbers of single pools"
  "spiderpoolController.cleanup" "pools stay when this chart is removed: delete them before, see docs/controller.md"
  "spiderpoolController.cliPort" "spiderpoolctl asks the Kubernetes API"
  "spiderpoolController.tls.auto.extraIpAddresses" "the API server calls the webhooks by the name of their Service"
  "spiderpoolInit" "the controller makes the default pools" }}
{{- $value := $.Values }}
{{- range splitList "." $path }}
{{- $value = index (default dict $value) . }}
{{- end }}
{{- if $value }}
  {{ $path }}: {{ $why }}
{{- end }}
{{- end }}
{{- end -}}
