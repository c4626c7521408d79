//! Which format of the static configuration the pods' image reads, as its pods report. A field that it does not know is
//! refused before a pod fails on it. Pure.
//!
//! An image that has never reported is not known, and not refused: a pod that cannot read its configuration says so.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;
use sluice_crds::{
    config::{FIRST, Since},
    kafkaconsumer::kafka::GroupProtocol,
    labels,
};

use super::{Situation, build::config_maps::consumer_config, validate::Error};

/// The newest format that the image reads: as its pods report now, else as they did.
pub fn known(situation: &Situation<'_>) -> Option<u32> {
    let status = situation.children.status();
    let kept =
        status.config_format.filter(|_| status.image.as_ref() == Some(&situation.consumer.image));
    reported(situation).or_else(|| kept.and_then(|format| u32::try_from(format).ok()))
}

/// The oldest format that pods of the newest template report, where that template has the image that is meant.
fn reported(situation: &Situation<'_>) -> Option<u32> {
    let (children, consumer) = (situation.children, situation.consumer);
    if children.image().as_ref() != Some(&consumer.image) {
        return None;
    }
    let template = &children.deployment.as_ref()?.spec.as_ref()?.template;
    let newest = template_hash(template.metadata.as_ref()?)?;
    let of_newest = |pod: &&Arc<Pod>| template_hash(&pod.metadata) == Some(newest);
    let pods: BTreeSet<_> =
        children.pods.iter().filter(of_newest).map(|pod| pod.name_any()).collect();
    let snapshot = situation.reading.snapshot.as_ref()?;
    let reports = snapshot.partitions.iter().filter_map(|partition| partition.report.as_ref());
    let reports = reports.filter(|report| pods.contains(&report.pod));
    reports.map(|report| report.config_format.max(FIRST)).min()
}

fn template_hash(metadata: &ObjectMeta) -> Option<&str> {
    metadata.annotations.as_ref()?.get(labels::TEMPLATE_HASH).map(String::as_str)
}

/// Refuses a field of `since` that the image is known not to read.
///
/// # Errors
/// With the field, and what to do.
pub fn check(situation: &Situation<'_>, since: &[Since]) -> Result<(), Error> {
    let consumer = situation.consumer;
    // The protocol is resolved later, and every format has it.
    let config = consumer_config(consumer, GroupProtocol::Classic);
    match (config.needs(since), known(situation)) {
        (Some(needed), Some(reads)) if reads < needed.format => Err(Error::Format {
            field: needed.field,
            format: needed.format,
            image: consumer.image.clone(),
            reads,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use sluice_crds::{
        KafkaConsumerStatus, kafkaconsumer::Ordering, report::ProgressReport, tuning::Tuning,
    };
    use sluice_planner::snapshot::{Committed, Partition, Snapshot, TopicPartition};

    use super::*;
    use crate::{
        cluster::children::Children,
        kafka::port::Reading,
        pass::{
            build,
            validate::tests::{good, with},
        },
    };

    /// A format that came later, with a field of it.
    const LATER: [Since; 1] =
        [Since { format: 2, field: "ordering", is_used: |c| c.ordering == Ordering::Partition }];

    /// What a pod of the newest template, or of another, reported; and what status has of an image.
    fn checked(pod: Option<(&str, u32)>, kept: Option<(&str, i32)>) -> Result<(), Error> {
        let changes = [("spec/ordering", "Partition")];
        let consumer = good(&changes);
        let tuning = Tuning::new(1, consumer.first_knobs());
        let built = build::children(&consumer, GroupProtocol::Classic, tuning).unwrap();
        let template = built.deployment.spec.as_ref().unwrap().template.metadata.clone().unwrap();
        let newest = template_hash(&template).unwrap().to_owned();
        let (hash, format) = pod.unwrap_or_default();
        let hash = if hash == "newest" { newest } else { hash.to_owned() };
        let annotations = [(labels::TEMPLATE_HASH.to_owned(), hash)].into();
        let metadata = ObjectMeta {
            name: Some("orders-1".into()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        };
        let report =
            ProgressReport { pod: "orders-1".into(), config_format: format, ..Default::default() };
        let partition = Partition {
            id: TopicPartition { topic: "orders".into(), partition: 0 },
            start: None,
            end: None,
            end_at: 0,
            committed: Committed::Unknown,
            committed_at: 0,
            report: pod.map(|_| Arc::new(report)),
        };
        let snapshot = Snapshot { at: 0, partitions: vec![partition], group: None };
        let mut object = with(&changes);
        object.status = kept.map(|(image, format)| KafkaConsumerStatus {
            image: Some(image.to_owned()),
            config_format: Some(format),
            ..KafkaConsumerStatus::default()
        });
        let children = Children {
            consumer: Arc::new(object),
            deployment: Some(Arc::new(built.deployment)),
            tuning: None,
            pods: vec![Arc::new(Pod { metadata, ..Pod::default() })],
        };
        let reading = Reading { snapshot: Some(Arc::new(snapshot)), ..Reading::default() };
        let situation = Situation { consumer: &consumer, children: &children, reading: &reading };
        check(&situation, &LATER)
    }

    #[test]
    fn a_field_that_the_image_does_not_read_is_refused_with_what_to_do() {
        let refused = checked(Some(("newest", 1)), None).unwrap_err().to_string();
        for part in ["ordering needs", "format 2", "stock:1 reads up to 1", "imagePolicy"] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
        // An image from before the report had the field reads the first format.
        assert!(checked(Some(("newest", 0)), None).is_err());
        assert!(checked(Some(("newest", 2)), None).is_ok());
        // What is reported now goes before what was reported then.
        assert!(checked(Some(("newest", 2)), Some(("stock:1", 1))).is_ok());
    }

    #[test]
    fn without_a_report_what_the_image_reported_counts_and_nothing_of_another() {
        assert!(checked(None, Some(("stock:1", 1))).is_err());
        assert!(checked(None, Some(("stock:1", 2))).is_ok());
        assert!(checked(None, Some(("stock:0", 1))).is_ok());
        assert!(checked(Some(("another", 1)), None).is_ok());
        assert!(checked(None, None).is_ok());
    }
}
