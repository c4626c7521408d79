//! What pods and containers may do: the least, with what a spec asks for laid over it field by field. A
//! spec that sets one field so keeps the defaults of all others.

use k8s_openapi::api::core::v1::{
    Capabilities, PodSecurityContext, SeccompProfile, SecurityContext,
};

use crate::platform::RunAs;

/// The pod's settings.
pub(super) fn pod(spec: Option<PodSecurityContext>, run_as: RunAs) -> PodSecurityContext {
    let spec = spec.unwrap_or_default();
    PodSecurityContext {
        run_as_non_root: spec.run_as_non_root.or(Some(true)),
        run_as_user: spec.run_as_user.or(run_as.id()),
        run_as_group: spec.run_as_group.or(run_as.id()),
        fs_group: spec.fs_group.or(run_as.id()),
        seccomp_profile: spec.seccomp_profile.or_else(|| {
            Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None })
        }),
        ..spec
    }
}

/// The container's settings.
pub(super) fn container(spec: Option<SecurityContext>) -> SecurityContext {
    let spec = spec.unwrap_or_default();
    let capabilities = spec.capabilities.clone().unwrap_or_default();
    let adds = |name: &str| capabilities.add.iter().flatten().any(|added| added == name);
    // The API server refuses a container that has these and may not escalate.
    let escalates = spec.privileged == Some(true) || adds("SYS_ADMIN") || adds("CAP_SYS_ADMIN");
    SecurityContext {
        allow_privilege_escalation: spec
            .allow_privilege_escalation
            .or((!escalates).then_some(false)),
        read_only_root_filesystem: spec.read_only_root_filesystem.or(Some(true)),
        capabilities: Some(Capabilities {
            drop: capabilities.drop.or_else(|| Some(vec!["ALL".to_owned()])),
            add: capabilities.add,
        }),
        ..spec
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// `over` laid over `defaults`, field by field.
    fn laid(defaults: &Value, over: &Value) -> Value {
        let mut all = defaults.clone();
        for (name, value) in over.as_object().unwrap() {
            all[name] = match (&all[name], value) {
                (Value::Object(_), Value::Object(_)) => laid(&all[name], value),
                _ => value.clone(),
            };
        }
        all
    }

    #[test]
    fn a_field_of_the_pods_security_that_the_spec_sets_leaves_the_others() {
        let defaults = json!({
            "runAsNonRoot": true,
            "runAsUser": 65_532,
            "runAsGroup": 65_532,
            "fsGroup": 65_532,
            "seccompProfile": { "type": "RuntimeDefault" },
        });
        for over in [
            json!({}),
            json!({ "fsGroup": 1 }),
            json!({ "runAsUser": 1000, "supplementalGroups": [5] }),
            json!({ "runAsNonRoot": false, "runAsUser": 0 }),
            json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": "p.json" } }),
        ] {
            let spec = serde_json::from_value(over.clone()).unwrap();
            let built = serde_json::to_value(pod(Some(spec), RunAs::default())).unwrap();
            assert_eq!(built, laid(&defaults, &over), "{over}");
        }
        let built = serde_json::to_value(pod(None, RunAs::Assigned)).unwrap();
        let profile = json!({ "type": "RuntimeDefault" });
        assert_eq!(built, json!({ "runAsNonRoot": true, "seccompProfile": profile }));
    }

    #[test]
    fn a_field_of_the_containers_security_that_the_spec_sets_leaves_the_others() {
        let defaults = json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        });
        for over in [
            json!({}),
            json!({ "readOnlyRootFilesystem": false }),
            json!({ "capabilities": { "add": ["NET_BIND_SERVICE"] } }),
            json!({ "capabilities": { "drop": [] } }),
            json!({ "allowPrivilegeEscalation": true, "runAsUser": 7 }),
        ] {
            let spec = serde_json::from_value(over.clone()).unwrap();
            let built = serde_json::to_value(container(Some(spec))).unwrap();
            assert_eq!(built, laid(&defaults, &over), "{over}");
        }
    }

    #[test]
    fn a_privileged_container_is_not_one_that_the_api_server_refuses() {
        for over in
            [json!({ "privileged": true }), json!({ "capabilities": { "add": ["CAP_SYS_ADMIN"] } })]
        {
            let spec = serde_json::from_value(over).unwrap();
            assert_eq!(container(Some(spec)).allow_privilege_escalation, None);
        }
    }
}
