//! The CustomResourceDefinition as users and API servers meet it: fresh, small, and with rules that refuse bad input in
//! words that say what to write. The same rules meet a real API server in tests/e2e.

// Clippy knows #[test] functions as tests, but not what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::Path};

use sluice_crds::{
    KafkaConsumer,
    kafkaconsumer::{self, handler::Handler},
};

const MINIMAL: &str = "
apiVersion: sluice.dev/v1alpha1
kind: KafkaConsumer
metadata:
  name: orders
spec:
  kafka:
    bootstrapServers: kafka:9092
    topics: [orders]
  handler:
    log: {}
";

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn parse(yaml: &str) -> Result<KafkaConsumer, serde_yaml::Error> {
    serde_yaml::from_str(yaml)
}

/// `MINIMAL` with `value` merged at a path such as `spec.scaling.mode`.
fn with(changes: &[(&str, &str)]) -> KafkaConsumer {
    let mut document: serde_yaml::Value = serde_yaml::from_str(MINIMAL).unwrap();
    for (path, value) in changes {
        let mut at = &mut document;
        for part in path.split('.') {
            at = at
                .as_mapping_mut()
                .unwrap()
                .entry(part.into())
                .or_insert_with(|| serde_yaml::Value::Mapping(serde_yaml::Mapping::new()));
        }
        *at = serde_yaml::from_str(value).unwrap();
    }
    serde_yaml::from_value(document).unwrap()
}

#[test]
fn the_written_definitions_are_what_the_types_say() {
    for (path, kept) in [
        ("crds/kafkaconsumers.sluice.dev.yaml", false),
        ("charts/sluice-crds/templates/kafkaconsumers.sluice.dev.yaml", true),
    ] {
        let written = fs::read_to_string(root(path)).unwrap_or_default();
        assert!(
            written == kafkaconsumer::crd_yaml(kept).unwrap(),
            "{path} is stale; run: cargo crdgen"
        );
        assert!(!written.contains("{{"), "{path}: helm would read a template action");
    }
}

#[test]
fn the_reference_says_what_the_types_say() {
    let written = fs::read_to_string(root("docs/kafkaconsumer.md")).unwrap_or_default();
    assert!(
        written == kafkaconsumer::reference_md(),
        "docs/kafkaconsumer.md is stale; run: cargo crdgen"
    );
    assert!(
        written.contains("| `drainWithin` | duration | `\"1m\"` |"),
        "the tables have lost their defaults"
    );
}

#[test]
fn a_client_side_kubectl_apply_takes_the_definition() {
    let yaml = kafkaconsumer::crd_yaml(false).unwrap();
    assert!(yaml.len() < 200 * 1024, "{} bytes", yaml.len());
}

#[test]
fn a_consumer_with_addresses_topics_and_a_handler_is_enough() {
    let consumer = parse(MINIMAL).unwrap();
    consumer.validate_cel().unwrap();
    let spec = &consumer.spec;
    assert_eq!((spec.scaling.min_replicas, spec.scaling.max_replicas), (1, None));
    assert_eq!((spec.tuning.batch_size.max, spec.tuning.concurrency.max), (500, 16));
    assert_eq!(spec.pod.termination_grace_period_seconds, 35);
    assert_eq!(spec.delivery.drain_timeout.to_string(), "20s");
}

#[test]
fn what_is_left_out_is_not_sent_as_null() {
    // A `null` in spec.replicas or status.replicas is refused by the API server (accessor error of the scale subresource).
    let text = serde_json::to_string(&parse(MINIMAL).unwrap()).unwrap();
    assert!(!text.contains("null"), "{text}");
    assert_eq!(serde_json::to_string(&sluice_crds::KafkaConsumerStatus::default()).unwrap(), "{}");
}

#[test]
fn a_null_of_a_template_is_dropped_by_the_api_server() {
    // It keeps a null only where the definition says `nullable`.
    assert!(!kafkaconsumer::crd_yaml(false).unwrap().contains("nullable"));
}

#[test]
fn a_field_has_its_own_sentence_and_not_that_of_its_type() {
    let crd = serde_json::to_value(kafkaconsumer::crd()).unwrap();
    let root = "/spec/versions/0/schema/openAPIV3Schema/properties";
    for (field, says) in [
        ("spec/properties/pod/properties/imagePullPolicy", "Kubernetes' own"),
        ("spec/properties/pod/properties/imagePolicy", "next ones when those are ready"),
        ("status/properties/protocol", "resolved once"),
    ] {
        let schema = crd.pointer(&format!("{root}/{field}")).unwrap();
        assert!(schema["description"].as_str().unwrap().contains(says), "{field}: {schema}");
        assert!(schema["enum"].is_array(), "{field}: {schema}");
    }
}

#[test]
fn bounds_of_maps_reach_the_definition() {
    let crd = serde_json::to_value(kafkaconsumer::crd()).unwrap();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let headers = format!("{spec}/handler/properties/http/properties/headers");
    let schema = crd.pointer(&headers).unwrap();
    assert_eq!(schema["maxProperties"], 32, "{schema}");
    assert_eq!(schema["additionalProperties"]["maxLength"], 1024, "{schema}");
    assert!(schema["description"].is_string(), "{schema}");
}

#[test]
fn each_handler_has_a_kind_and_is_one_of_those_of_which_one_is_asked_for() {
    let schema = schemars::schema_for!(Handler);
    let fields = schema.get("properties").unwrap().as_object().unwrap();
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    let mut known = Handler::NAMES;
    known.sort_unstable();
    assert_eq!(names, known, "Handler::NAMES");
    let rules = schema.get("x-kubernetes-validations").unwrap().to_string();
    for name in names {
        assert!(
            rules.contains(&format!("has(self.{name})")),
            "the rule leaves out {name}: {rules}"
        );
    }
}

#[test]
fn bad_input_is_refused_with_a_sentence_that_says_what_to_write() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("metadata.name", "Orders")], "DNS label"),
        (&[("metadata.name", "orders.eu")], "DNS label"),
        (&[("metadata.name", "a123456789a123456789a123456789a123456789a123456")], "at most 46"),
        (&[("spec.handler.http", "{url: 'http://a/'}")], "exactly one of http, log and custom"),
        (&[("spec.handler", "{}")], "exactly one of http, log and custom"),
        (&[("spec.handler", "{custom: {}}")], "needs spec.pod.image"),
        (&[("spec.replicas", "3")], "scaling.mode: Manual"),
        (&[("spec.scaling.mode", "Manual")], "required there"),
        (&[("spec.scaling", "{mode: DryRun}"), ("spec.replicas", "3")], "remove it"),
        (
            &[("spec.scaling", "{minReplicas: 5, maxReplicas: 4}")],
            "minReplicas must not be greater",
        ),
        (&[("spec.scaling.drainWithin", "0s")], "greater than 0s"),
        (&[("spec.tuning.batchSize", "{min: 5, max: 4}")], "batchSize.min must not be greater"),
        (&[("spec.tuning.concurrency", "{min: 5, max: 4}")], "concurrency.min must not be greater"),
        (&[("spec.delivery.drainTimeout", "26s")], "10 s less than"),
        (
            &[("spec.delivery.retry", "{minBackoff: 1m, maxBackoff: 1s}")],
            "minBackoff must not be greater",
        ),
        (&[("spec.kafka.groupId", r#""a\nb""#)], "kafka.groupId must not hold control characters"),
        (&[("spec.handler", "{http: {url: 'http://a/', timeout: 0s}}")], "handler.http.timeout"),
        (&[("spec.kafka.properties", "{group.id: x}")], "the engine owns"),
        (&[("spec.kafka.properties", "{enable.auto.commit: 'true'}")], "the engine owns"),
        (&[("spec.kafka.properties", "{session.timeout.ms: '1'}")], "choose kafka.protocol"),
        (&[("spec.kafka.properties", "{sasl.password: x}")], "carries a secret"),
        (&[("spec.kafka.properties", "{ssl.key.pem: x}")], "carries a secret"),
        (&[("spec.kafka.properties", "{plugin.library.paths: x}")], "loads code"),
        (&[("spec.pod.volumes", "[{name: a}]")], "a volume needs exactly one"),
        (
            &[("spec.pod.volumes", "[{name: a, emptyDir: {}, secret: {secretName: b}}]")],
            "a volume needs exactly one",
        ),
    ];
    for (changes, sentence) in cases {
        let refused = with(changes).validate_cel().expect_err(&format!("{changes:?} was taken"));
        assert!(refused.to_string().contains(sentence), "{changes:?}: {refused}");
    }
}

#[test]
fn good_input_is_taken() {
    let cases: &[&[(&str, &str)]] = &[
        &[("metadata.name", "a12345678-a12345678-a12345678-a12345678-a12345")],
        &[("spec.handler", "{http: {url: 'https://billing/records'}}")],
        &[
            ("spec.handler", "{custom: {config: {a: [1]}}}"),
            ("spec.pod.image", "example.com/mine:1"),
        ],
        &[("spec.kafka.groupId", "Bestellungen über 50 €")],
        &[("spec.scaling.mode", "Manual"), ("spec.replicas", "0")],
        &[("spec.scaling", "{minReplicas: 4, maxReplicas: 4}")],
        &[("spec.delivery.drainTimeout", "25s")],
        &[("spec.delivery.drainTimeout", "50s"), ("spec.pod.terminationGracePeriodSeconds", "60")],
        &[("spec.kafka.properties", "{fetch.min.bytes: '1000', client.rack: a}")],
        &[("spec.pod.volumes", "[{name: a, emptyDir: {}}]")],
    ];
    for changes in cases {
        with(changes).validate_cel().unwrap_or_else(|refused| panic!("{changes:?}: {refused}"));
    }
}

#[test]
fn the_group_cannot_be_changed() {
    let group =
        |id: Option<&str>| id.map_or_else(|| with(&[]), |id| with(&[("spec.kafka.groupId", id)]));
    for (old, new, taken) in [
        (None, None, true),
        (Some("a"), Some("a"), true),
        (Some("a"), Some("b"), false),
        (None, Some("b"), false),
        (Some("a"), None, false),
    ] {
        let answer = group(new).validate_cel_update(&group(old));
        assert_eq!(answer.is_ok(), taken, "{old:?} to {new:?}: {answer:?}");
        if let Err(refused) = answer {
            assert!(refused.to_string().contains("groupId cannot be changed"), "{refused}");
        }
    }
}

#[test]
fn every_example_is_a_valid_consumer() {
    let mut seen = 0;
    for entry in fs::read_dir(root("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        for document in serde_yaml::Deserializer::from_str(&fs::read_to_string(&path).unwrap()) {
            let value = <serde_yaml::Value as serde::Deserialize>::deserialize(document).unwrap();
            if value.get("kind").and_then(|k| k.as_str()) != Some("KafkaConsumer") {
                continue;
            }
            let consumer: KafkaConsumer =
                serde_yaml::from_value(value.clone()).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            consumer.validate_cel().unwrap_or_else(|e| panic!("{path:?}: {e}"));
            assert_no_unknown_fields(&path, &value, &serde_yaml::to_value(&consumer).unwrap(), "");
            seen += 1;
        }
    }
    assert!(seen > 0, "no example was found");
}

/// What an example says is what the types took: a misspelt field would be dropped in silence.
fn assert_no_unknown_fields(
    path: &Path,
    said: &serde_yaml::Value,
    took: &serde_yaml::Value,
    at: &str,
) {
    let Some(fields) = said.as_mapping() else { return };
    for (name, value) in fields {
        let name = name.as_str().unwrap_or_default();
        let taken = took
            .get(name)
            .unwrap_or_else(|| panic!("{}: {at}.{name} is not a field", path.display()));
        assert_no_unknown_fields(path, value, taken, &format!("{at}.{name}"));
    }
}

#[test]
fn every_field_is_explained() {
    fn look(schema: &serde_json::Value, at: &str, missing: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            if field["description"].as_str().is_none_or(str::is_empty) {
                missing.push(at.clone());
            }
            // Below these stand Kubernetes' own types, whose descriptions are left out.
            if !at.starts_with(".spec.pod.") && !at.starts_with(".status.conditions") {
                look(field, &at, missing);
            }
        }
    }
    let crd = serde_json::to_value(kafkaconsumer::crd()).unwrap();
    let mut missing = Vec::new();
    look(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "", &mut missing);
    assert!(missing.is_empty(), "without a description: {missing:?}");
}
