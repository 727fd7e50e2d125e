//! Kubernetes' rules for ephemeral containers (`validateEphemeralContainers`).

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

use super::super::error::{FieldPath, Problem};
use super::container;
use super::found::Found;
use super::surroundings::{self, Surroundings};

const NOT_ALLOWED: &str = "cannot be set for an Ephemeral Container";

/// All problems of a Pod to which this container is added, given also as an ordinary container.
pub(in super::super) fn validate_added(pod: &Pod, added: &EphemeralContainer, container: &Container) -> Vec<Problem> {
    let mut found = Found::default();
    let no_spec = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let index = spec.ephemeral_containers.as_ref().map_or(0, Vec::len);
    let path = FieldPath::default().field("spec").field("ephemeralContainers");
    one(spec, added, container, &path.index(index), &mut found);
    found.0
}

fn one(spec: &PodSpec, added: &EphemeralContainer, container: &Container, path: &FieldPath, found: &mut Found) {
    let volumes: HashSet<&str> = spec
        .volumes
        .iter()
        .flatten()
        .map(|volume| volume.name.as_str())
        .collect();
    let surroundings = Surroundings {
        volumes: &volumes,
        empty_dirs: surroundings::empty_dirs(spec),
        grace_seconds: spec.termination_grace_period_seconds.unwrap_or_default(),
        os: spec.os.as_ref().map(|os| os.name.as_str()),
        restart_policy: spec.restart_policy.as_deref().unwrap_or_default(),
        host_users: spec.host_users != Some(false),
    };
    container::validate(container, &surroundings, path, found);
    let regular: Vec<&str> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|container| container.name.as_str())
        .collect();
    let mut ephemeral = spec.ephemeral_containers.iter().flatten();
    let name = added.name.as_str();
    if !name.is_empty() && (regular.contains(&name) || ephemeral.any(|other| other.name == name)) {
        found.duplicate(&path.field("name"), name);
    }
    if let Some(target) = added.target_container_name.as_deref().filter(|name| !name.is_empty())
        && !regular.contains(&target)
    {
        found.not_found(&path.field("targetContainerName"), target);
    }
    let has_resources = container.resources.as_ref().is_some_and(|resources| {
        let has_amounts = |amounts: &Option<_>| {
            amounts
                .as_ref()
                .is_some_and(|amounts: &std::collections::BTreeMap<_, _>| !amounts.is_empty())
        };
        has_amounts(&resources.limits) || has_amounts(&resources.requests) || resources.claims.is_some()
    });
    for (field, is_set) in [
        ("ports", container.ports.is_some()),
        ("resources", has_resources),
        ("resizePolicy", container.resize_policy.is_some()),
        ("restartPolicy", container.restart_policy.is_some()),
        ("restartPolicyRules", container.restart_policy_rules.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if is_set {
            found.forbidden(&path.field(field), NOT_ALLOWED);
        }
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.field("volumeMounts").index(index);
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if value.as_ref().is_some_and(|value| !value.is_empty()) {
                found.forbidden(&path.field(field), NOT_ALLOWED);
            }
        }
    }
}
