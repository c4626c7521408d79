//! The CustomResourceDefinition as it is installed: derived from the types, then made small and plain.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use super::KafkaConsumer;

/// Fields of `spec.pod` whose types are Kubernetes' own: their descriptions alone would make the definition larger than a
/// client-side `kubectl apply` takes (262,144 bytes of annotation), and `kubectl explain pod.spec` has them all.
const KUBERNETES_TYPES: &[&str] = &[
    "affinity",
    "containerSecurityContext",
    "env",
    "envFrom",
    "imagePullSecrets",
    "resources",
    "securityContext",
    "tolerations",
    "topologySpreadConstraints",
    "volumeMounts",
    "volumes",
];

/// The definition of `kafkaconsumers.sluice.dev`.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = KafkaConsumer::crd();
    for version in &mut crd.spec.versions {
        let Some(root) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) else { continue };
        visit(root, &mut drop_rust_formats);
        let pod = root
            .properties
            .as_mut()
            .and_then(|p| p.get_mut("spec"))
            .and_then(|s| s.properties.as_mut())
            .and_then(|p| p.get_mut("pod"))
            .and_then(|s| s.properties.as_mut());
        for (name, field) in pod.into_iter().flatten() {
            if KUBERNETES_TYPES.contains(&name.as_str()) {
                let own = field.description.take();
                visit(field, &mut |schema| schema.description = None);
                field.description = own;
            }
        }
    }
    crd
}

/// API servers warn about formats that they do not know, and Rust's number types have such.
fn drop_rust_formats(schema: &mut JSONSchemaProps) {
    if schema.format.as_deref().is_some_and(|f| f.starts_with("uint") || f == "double" || f == "int8" || f == "int16") {
        schema.format = None;
    }
}

fn visit(schema: &mut JSONSchemaProps, apply: &mut dyn FnMut(&mut JSONSchemaProps)) {
    apply(schema);
    for child in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        visit(child, apply);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(child)) => visit(child, apply),
        Some(JSONSchemaPropsOrArray::Schemas(children)) => children.iter_mut().for_each(|c| visit(c, apply)),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(child)) = &mut schema.additional_properties {
        visit(child, apply);
    }
    for children in [&mut schema.all_of, &mut schema.any_of, &mut schema.one_of] {
        for child in children.iter_mut().flatten() {
            visit(child, apply);
        }
    }
}
