//! The ConfigMaps and Secrets that a Pod refers to (`VisitPodConfigmapNames` and `VisitPodSecretNames` in
//! `pkg/api/v1/pod/util.go`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, Volume};

use crate::object_kind::ObjectKind;

/// An object in the Pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub kind: ObjectKind,
    pub name: String,
}

/// All objects that the Pod refers to, including optional ones and those for pulling images; sorted, without
/// duplicates.
pub fn references(pod: &Pod) -> Vec<Reference> {
    let mut found = Found::default();
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    for secret in spec.image_pull_secrets.iter().flatten() {
        found.secret(&secret.name);
    }
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        found.environment(container.env_from.as_deref(), container.env.as_deref());
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        found.environment(container.env_from.as_deref(), container.env.as_deref());
    }
    for volume in spec.volumes.iter().flatten() {
        found.volume(volume);
    }
    found.0.into_iter().collect()
}

/// The objects that the files of a volume come from; sorted, without duplicates.
pub fn volume_references(volume: &Volume) -> Vec<Reference> {
    let mut found = Found::default();
    found.volume(volume);
    found.0.into_iter().collect()
}

#[derive(Default)]
struct Found(BTreeSet<Reference>);

impl Found {
    fn config_map(&mut self, name: &str) {
        self.add(ObjectKind::ConfigMap, name);
    }

    fn secret(&mut self, name: &str) {
        self.add(ObjectKind::Secret, name);
    }

    /// Kubernetes accepts empty names in some places. They refer to nothing.
    fn add(&mut self, kind: ObjectKind, name: &str) {
        if !name.is_empty() {
            let name = name.to_owned();
            self.0.insert(Reference { kind, name });
        }
    }

    fn environment(&mut self, sources: Option<&[EnvFromSource]>, variables: Option<&[EnvVar]>) {
        for source in sources.unwrap_or_default() {
            if let Some(reference) = &source.config_map_ref {
                self.config_map(&reference.name);
            }
            if let Some(reference) = &source.secret_ref {
                self.secret(&reference.name);
            }
        }
        for source in variables
            .unwrap_or_default()
            .iter()
            .filter_map(|own| own.value_from.as_ref())
        {
            if let Some(reference) = &source.config_map_key_ref {
                self.config_map(&reference.name);
            }
            if let Some(reference) = &source.secret_key_ref {
                self.secret(&reference.name);
            }
        }
    }

    fn volume(&mut self, volume: &Volume) {
        if let Some(source) = &volume.config_map {
            self.config_map(&source.name);
        }
        if let Some(source) = &volume.secret {
            self.secret(source.secret_name.as_deref().unwrap_or_default());
        }
        let projected = volume.projected.iter().flat_map(|own| own.sources.iter().flatten());
        for source in projected {
            if let Some(source) = &source.config_map {
                self.config_map(&source.name);
            }
            if let Some(source) = &source.secret {
                self.secret(&source.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod_from;

    fn texts(references: &[Reference]) -> Vec<String> {
        let text = |reference: &Reference| format!("{} {}", reference.kind, reference.name);
        references.iter().map(text).collect()
    }

    #[test]
    fn every_place_that_refers_to_an_object_is_found_once() {
        let pod = pod_from(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}, {"name": ""}, {}],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "init-from"}}]}],
            "containers": [{
                "name": "c",
                "envFrom": [{"secretRef": {"name": "from", "optional": true}}, {"configMapRef": {"name": "both"}}],
                "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "key", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
                    {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
            }],
            "ephemeralContainers": [{"name": "e", "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "debug", "key": "k"}}},
            ]}],
            "volumes": [
                {"name": "a", "configMap": {"name": "both"}},
                {"name": "b", "secret": {"secretName": "files"}},
                {"name": "c", "projected": {"sources": [
                    {"configMap": {"name": "projected"}}, {"secret": {"name": "projected"}},
                    {"serviceAccountToken": {"path": "token"}},
                ]}},
                {"name": "d", "emptyDir": {}},
            ],
        }}));
        assert_eq!(
            texts(&references(&pod)),
            [
                "ConfigMap both",
                "ConfigMap init-from",
                "ConfigMap key",
                "ConfigMap projected",
                "Secret debug",
                "Secret files",
                "Secret from",
                "Secret key",
                "Secret projected",
                "Secret pull",
            ]
        );
    }

    #[test]
    fn a_volume_has_its_own_references() {
        let volume = |fields: Value| serde_json::from_value::<Volume>(fields).unwrap();
        for (fields, expected) in [
            (json!({"name": "v", "configMap": {"name": "c"}}), &["ConfigMap c"][..]),
            (json!({"name": "v", "secret": {"secretName": "s"}}), &["Secret s"]),
            (json!({"name": "v", "secret": {}}), &[]),
            (
                json!({"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "c"}}]}}),
                &["ConfigMap c", "Secret s"],
            ),
            (json!({"name": "v", "downwardAPI": {}}), &[]),
        ] {
            assert_eq!(texts(&volume_references(&volume(fields))), expected);
        }
    }

    #[test]
    fn a_pod_without_a_spec_refers_to_nothing() {
        assert!(references(&Pod::default()).is_empty());
    }
}
