//! The properties of a Pod that the validation of its containers needs.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::PodSpec;

/// The Pod's properties that matter to its containers.
pub(super) struct Surroundings<'p> {
    /// Names of its volumes.
    pub volumes: &'p HashSet<&'p str>,
    /// Names of those that are emptyDir volumes.
    pub empty_dirs: HashSet<&'p str>,
    pub grace_seconds: i64,
    pub os: Option<&'p str>,
    pub restart_policy: &'p str,
    /// Whether the Pod has no user namespace.
    pub host_users: bool,
}

/// The names of the Pod's emptyDir volumes.
pub(super) fn empty_dirs(spec: &PodSpec) -> HashSet<&str> {
    let empty_dirs = spec
        .volumes
        .iter()
        .flatten()
        .filter(|volume| volume.empty_dir.is_some());
    empty_dirs.map(|volume| volume.name.as_str()).collect()
}
