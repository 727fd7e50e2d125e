//! Types and objects for tests.

use serde_json::{Value, json};

use crate::object::Object;
use crate::resource::{Generation, Resource};

pub(crate) fn config_maps() -> Resource {
    resource("", "ConfigMap", "configmaps", true, Generation::Absent)
}

pub(crate) fn namespaces() -> Resource {
    resource("", "Namespace", "namespaces", false, Generation::Absent)
}

/// The type of [`crate::tests::kept_records`].
pub(crate) fn pods() -> Resource {
    resource("", "Pod", "pods", true, Generation::OfSpec)
}

pub(crate) fn deployments() -> Resource {
    resource(
        "apps",
        "Deployment",
        "deployments",
        true,
        Generation::OfSpecAndAnnotations,
    )
}

fn resource(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    generation: Generation,
) -> Resource {
    Resource {
        group: group.into(),
        version: "v1".into(),
        kind: kind.into(),
        plural: plural.into(),
        namespaced,
        generation,
    }
}

pub(crate) fn object(value: Value) -> Object {
    Object::new(value).unwrap()
}

/// A ConfigMap in the namespace `default`.
pub(crate) fn config_map(name: &str, value: &str) -> Object {
    object(json!({"metadata": {"namespace": "default", "name": name}, "data": {"key": value}}))
}
