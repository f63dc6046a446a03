{{- define "vmbackup.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "vmbackup.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "vmbackup.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "vmbackup.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "vmbackup.agentNamespace" -}}
{{- default .Release.Namespace .Values.agent.namespace.name -}}
{{- end -}}

{{- define "vmbackup.controllerAccount" -}}
{{- default (printf "%s-controller" (include "vmbackup.fullname" .)) .Values.controller.serviceAccount.name -}}
{{- end -}}

{{- define "vmbackup.agentAccount" -}}
{{- default (printf "%s-agent" (include "vmbackup.fullname" .)) .Values.agent.serviceAccount.name -}}
{{- end -}}

{{- define "vmbackup.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels of an object: (list $ "component"); the component may be empty. */}}
{{- define "vmbackup.labels" -}}
{{- $top := index . 0 -}}
{{ include "vmbackup.selector" . }}
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name $top.Chart.Version | replace "+" "_" }}
{{- with $top.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels that pods are found by; they never change: (list $ "component"). */}}
{{- define "vmbackup.selector" -}}
{{- $top := index . 0 -}}
{{- $component := index . 1 -}}
app.kubernetes.io/name: {{ include "vmbackup.name" $top }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
{{- with $component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* A pod that runs files/<name>.py once, with the controller's account and no more rights: (list $ "name"). */}}
{{- define "vmbackup.script" -}}
{{- $top := index . 0 -}}
{{- $name := index . 1 -}}
restartPolicy: Never
serviceAccountName: {{ include "vmbackup.controllerAccount" $top }}
{{- with $top.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
enableServiceLinks: false
containers:
  - name: {{ $name }}
    image: {{ include "vmbackup.image" $top }}
    imagePullPolicy: {{ $top.Values.image.pullPolicy }}
    command: [python, /scripts/{{ $name }}.py]
    env:
      - {name: OPERATOR_NAMESPACE, value: {{ $top.Release.Namespace }}}
    resources:
      {{- toYaml $top.Values.controller.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
      - {name: scripts, mountPath: /scripts}
      - {name: tmp, mountPath: /tmp}
volumes:
  - name: scripts
    configMap: {name: {{ include "vmbackup.fullname" $top }}-{{ $name }}}
  - name: tmp
    emptyDir: {sizeLimit: 16Mi}
{{- with $top.Values.controller.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $top.Values.controller.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
