{{/*
The operator's rights, all of them, each with its reason. They are the same in a ClusterRole (all namespaces) and in a Role
(a listed namespace). No wildcard, no Secret, no access to resource definitions.
*/}}
{{- define "sluice.rules" -}}
# What users ask for. The operator never changes a spec.
- apiGroups: [sluice.dev]
  resources: [kafkaconsumers]
  verbs: [get, list, watch]
# What it saw and decided.
- apiGroups: [sluice.dev]
  resources: [kafkaconsumers/status]
  verbs: [patch]
# Children name their KafkaConsumer as their owner and hold up its foreground deletion. Where the admission plugin
# OwnerReferencesPermissionEnforcement is on (OpenShift), that needs this right.
- apiGroups: [sluice.dev]
  resources: [kafkaconsumers/finalizers]
  verbs: [update]
# The consumer's pods, and their number. Server-side apply creates and patches; deletion is the garbage collector's.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
# NAME-config and NAME-tuning.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch]
# Why a pod does not start (read); new knobs arrive at once when the pod is annotated after them (patch).
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
# Scaled, limited, unreachable, recovered: what kubectl describe shows.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
