//! The properties of a Pod that the validation of its containers needs.

use std::collections::HashSet;

/// The Pod's properties that matter to its containers.
pub(super) struct Surroundings<'p> {
    /// Names of its volumes.
    pub volumes: &'p HashSet<&'p str>,
    pub grace_seconds: i64,
    pub os: Option<&'p str>,
    pub restart_policy: &'p str,
    /// Whether the Pod has no user namespace.
    pub host_users: bool,
}
