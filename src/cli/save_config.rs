//! `--save-config`: keeping the configuration of an object in its annotation, for a later `apply`.

use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::WrittenPod;
use microkube_patch::last_applied;
use serde_json::{Value, json};

use super::manifests::place;
use crate::objects::{ObjectError, Patch};
use crate::pod::operations::apply::{PodConfiguration, annotated};

/// Whether new objects keep their configuration.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct SaveConfigArg {
    /// Keep the configuration in an annotation, so that a later apply can tell what has left the file
    #[arg(long)]
    save_config: bool,
}

impl SaveConfigArg {
    /// New objects do not keep their configuration.
    #[cfg(test)]
    pub(super) const NO: Self = Self { save_config: false };

    /// The object that is written. As in kubectl, an annotation that is in the configuration is replaced.
    ///
    /// # Errors
    /// If the configuration is not an object.
    pub(super) fn object(self, configuration: Value) -> Result<Value, ObjectError> {
        match self.applies_to(&configuration) {
            true => Ok(last_applied::record(configuration)?),
            false => Ok(configuration),
        }
    }

    /// The Pod that is created, from its configuration.
    ///
    /// # Errors
    /// If the annotation is too long.
    pub(super) fn pod(self, pod: &Pod, written: &WrittenPod) -> Result<Pod, ObjectError> {
        match self.applies_to(&written.value) {
            true => annotated(&configuration(pod, written)),
            false => Ok(pod.clone()),
        }
    }

    fn applies_to(self, configuration: &Value) -> bool {
        self.save_config || last_applied::is_in(configuration)
    }
}

/// The patch that makes a configuration the last applied one.
///
/// # Errors
/// If the configuration is not an object.
pub(super) fn annotation_patch(configuration: Value) -> Result<Patch, ObjectError> {
    let recorded = last_applied::record(configuration)?;
    let text = &recorded["metadata"]["annotations"][last_applied::ANNOTATION];
    let annotations = json!({ last_applied::ANNOTATION: text });
    Ok(Patch::Merge(json!({ "metadata": { "annotations": annotations } })))
}

/// The configuration of a Pod: the manifest with its namespace.
pub(super) fn configuration(pod: &Pod, written: &WrittenPod) -> PodConfiguration {
    let mut value = written.value.clone();
    place(&mut value, pod.metadata.namespace.as_deref());
    PodConfiguration {
        pod: pod.clone(),
        written: value,
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifests::{FilenameArgs, load};
    use super::super::namespace::NamespaceArg;
    use super::*;

    #[test]
    fn the_configuration_is_kept_on_request_or_if_an_old_one_is_there() {
        let plain = json!({ "metadata": { "name": "a" } });
        let old = json!({ "metadata": { "annotations": { last_applied::ANNOTATION: "old" }, "name": "a" } });
        let kept = "{\"metadata\":{\"annotations\":{},\"name\":\"a\"}}\n";
        for (save_config, configuration, annotation) in [
            (false, &plain, Value::Null),
            (true, &plain, kept.into()),
            (false, &old, kept.into()),
            (true, &old, kept.into()),
        ] {
            let object = SaveConfigArg { save_config }.object(configuration.clone()).unwrap();
            let found = &object["metadata"]["annotations"][last_applied::ANNOTATION];
            assert_eq!(*found, annotation, "{save_config} {configuration}");
        }
    }

    #[test]
    fn the_patch_of_the_annotation_contains_the_configuration() {
        let plain = json!({ "metadata": { "name": "a" } });
        let kept = json!({ last_applied::ANNOTATION: "{\"metadata\":{\"annotations\":{},\"name\":\"a\"}}\n" });
        let expected = Patch::Merge(json!({ "metadata": { "annotations": kept } }));
        // `Debug` shows no content.
        assert!(annotation_patch(plain).unwrap() == expected);
        assert!(annotation_patch(json!([])).is_err());
    }

    #[test]
    fn the_configuration_of_a_pod_has_what_the_author_wrote_and_the_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pod.yaml");
        let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: b}]}}";
        std::fs::write(&path, text).unwrap();
        let namespace = Some("shop".to_owned());
        let loaded = load(&FilenameArgs::of(&[path]), &NamespaceArg { namespace }).unwrap();
        let (pod, written) = (&loaded.manifests.pods[0], &loaded.manifests.written[0]);
        let saved = SaveConfigArg { save_config: true }.pod(pod, written).unwrap();
        assert_eq!(
            saved.metadata.annotations.unwrap()[last_applied::ANNOTATION],
            "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"annotations\":{},\"name\":\"a\",\"namespace\":\"shop\"},\
             \"spec\":{\"containers\":[{\"image\":\"b\",\"name\":\"a\"}]}}\n"
        );
        let plain = SaveConfigArg::NO.pod(pod, written).unwrap();
        assert_eq!(plain.metadata.annotations, None);
    }
}
