//! What a container's validation has to know of its Pod.

use std::collections::HashSet;

/// What of the Pod matters to its containers.
pub(super) struct Surroundings<'p> {
    /// Names of its volumes.
    pub volumes: &'p HashSet<&'p str>,
    pub grace_seconds: i64,
    pub os: Option<&'p str>,
    pub restart_policy: &'p str,
}
