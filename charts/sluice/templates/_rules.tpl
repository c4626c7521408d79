{{/*
The operator's rights, all of them, each with its reason; operator/src/lib.rs lists the same. They are the same in a
ClusterRole (all namespaces) and in a Role (a listed namespace). No wildcard, no deletion but of our own static configurations, no Secret, no access to resource
definitions.
*/}}
{{- define "sluice.rules" -}}
# What users ask for. A spec is never changed.
- apiGroups: [sluice.dev]
  resources: [kafkaconsumers]
  verbs: [list, watch]
# What was seen and decided, by server-side apply.
- apiGroups: [sluice.dev]
  resources: [kafkaconsumers/status]
  verbs: [patch]
# Children name their KafkaConsumer as their owner and hold up its foreground deletion. Where the admission plugin
# OwnerReferencesPermissionEnforcement is on (OpenShift has it), that needs this right.
- apiGroups: [sluice.dev]
  resources: [kafkaconsumers/finalizers]
  verbs: [update]
# The consumer's pods, and their number. Server-side apply needs create and patch; get looks whether a name is taken before
# it is used. Deletion is the garbage collector's work.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
# Which static configurations ReplicaSets still name, before one that none names is deleted.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list]
# NAME-config-HASH and NAME-tuning, as above. Each configuration has a ConfigMap of its own; one that nothing names any
# more is deleted.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
# Why a pod does not start (list, watch); new knobs arrive at once when the pod is annotated after them (patch).
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
# Scaled, limited, unreachable, recovered: what kubectl describe shows.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
