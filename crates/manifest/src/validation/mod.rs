//! Kubernetes' rules for objects, with its messages and formats (`pkg/apis/core/validation/validation.go`). Works on the
//! defaulted object and finds all problems.
//!
//! The rules for Pods are here, for the fields that microkube supports or accepts and for some that it will support;
//! those for each other kind are in a module.

pub(super) mod config_map;
mod container;
mod downward_api;
mod environment;
pub(super) mod ephemeral;
mod ephemeral_volume;
mod found;
mod gated_pod_update;
mod handlers;
pub(super) mod metadata;
pub(super) mod namespace;
mod network;
pub(super) mod persistent_volume;
pub(super) mod persistent_volume_claim;
pub(super) mod pod_update;
mod projection;
mod resources;
mod restart;
mod scheduling;
pub(super) mod secret;
mod security;
pub(super) mod service_account;
pub(super) mod storage_class;
mod surroundings;
mod update;
mod volumes;

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::error::{FieldPath, Problem};
use super::sidecar::is_sidecar;
pub(super) use found::Found;
use surroundings::Surroundings;

/// All problems of a new Pod.
pub(super) fn validate(pod: &Pod) -> Vec<Problem> {
    let mut found = Found(validate_existing(pod));
    let ephemeral = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref());
    if ephemeral.is_some_and(|containers| !containers.is_empty()) {
        let path = FieldPath::default().field("spec").field("ephemeralContainers");
        found.forbidden(&path, "cannot be set on create");
    }
    found.0
}

/// All problems of a Pod to which ephemeral containers may have been added. They are not checked again.
pub(super) fn validate_existing(pod: &Pod) -> Vec<Problem> {
    let mut found = Found::default();
    metadata::validate(&pod.metadata, &mut found);
    let path = FieldPath::default().field("spec");
    match &pod.spec {
        Some(spec) => pod_spec(
            spec,
            pod.metadata.name.as_deref().unwrap_or_default(),
            &path,
            &mut found,
        ),
        None => found.required(&path, ""),
    }
    found.0
}

fn pod_spec(spec: &PodSpec, pod_name: &str, path: &FieldPath, found: &mut Found) {
    let volume_names = volumes::validate(
        spec.volumes.as_deref().unwrap_or_default(),
        pod_name,
        &path.field("volumes"),
        found,
    );
    containers(spec, &volume_names, path, found);
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    if policy.is_empty() {
        found.required(&path.field("restartPolicy"), "");
    } else {
        found.one_of(&path.field("restartPolicy"), policy, &["Always", "OnFailure", "Never"]);
    }
    if let Some(seconds) = spec.active_deadline_seconds {
        found.between(&path.field("activeDeadlineSeconds"), seconds, 1, i64::from(i32::MAX));
    }
    network::validate(spec, path, found);
    scheduling::validate(spec, path, found);
    if let Some(context) = &spec.security_context {
        security::of_pod(context, &path.field("securityContext"), found);
    }
    for (index, reference) in spec.image_pull_secrets.iter().flatten().enumerate() {
        // Kubernetes accepts a reference without a name, which has no effect.
        if reference.name.is_empty() {
            found.required(&path.field("imagePullSecrets").index(index).field("name"), "");
        }
    }
    resources::amounts(spec.overhead.as_ref(), &path.field("overhead"), found);
    if let Some(os) = &spec.os {
        let path = path.field("os").field("name");
        if os.name.is_empty() {
            found.required(&path, "");
        } else {
            found.one_of(&path, &os.name, &["linux", "windows"]);
        }
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let path = path.field("shareProcessNamespace");
        found.invalid(
            &path,
            format_args!("true"),
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    if spec.host_users == Some(false) {
        for (field, shared) in [
            ("hostNetwork", spec.host_network),
            ("hostPID", spec.host_pid),
            ("hostIPC", spec.host_ipc),
        ] {
            if shared == Some(true) {
                found.forbidden(&path.field(field), "when `pod.Spec.HostUsers` is false");
            }
        }
    }
}

fn containers(spec: &PodSpec, volumes: &HashSet<&str>, path: &FieldPath, found: &mut Found) {
    let surroundings = Surroundings {
        volumes,
        empty_dirs: surroundings::empty_dirs(spec),
        grace_seconds: spec.termination_grace_period_seconds.unwrap_or_default(),
        os: spec.os.as_ref().map(|os| os.name.as_str()),
        restart_policy: spec.restart_policy.as_deref().unwrap_or_default(),
        host_users: spec.host_users != Some(false),
    };
    let regular = path.field("containers");
    if spec.containers.is_empty() {
        found.required(&regular, "");
    }
    let mut names = HashSet::new();
    let mut host_ports = HashSet::new();
    for (index, own) in spec.containers.iter().enumerate() {
        let path = regular.index(index);
        container::validate(own, &surroundings, &path, found);
        unique_name(own, &mut names, &path, found);
        unique_host_ports(own, &mut host_ports, &path, found);
        handlers::hooks_and_probes(own, &surroundings, &path, found);
    }
    for (index, own) in spec.init_containers.iter().flatten().enumerate() {
        let path = path.field("initContainers").index(index);
        container::validate(own, &surroundings, &path, found);
        unique_name(own, &mut names, &path, found);
        // Init containers run one after another.
        unique_host_ports(own, &mut HashSet::new(), &path, found);
        if is_sidecar(own) {
            handlers::hooks_and_probes(own, &surroundings, &path, found);
            continue;
        }
        for (field, there) in [
            ("lifecycle", own.lifecycle.is_some()),
            ("livenessProbe", own.liveness_probe.is_some()),
            ("readinessProbe", own.readiness_probe.is_some()),
            ("startupProbe", own.startup_probe.is_some()),
        ] {
            if there {
                let detail = "may not be set for init containers without restartPolicy=Always";
                found.forbidden(&path.field(field), detail);
            }
        }
        if let Some(policies) = own.resize_policy.as_ref().filter(|policies| !policies.is_empty()) {
            let shown = serde_json::to_string(policies).unwrap_or_default();
            let detail = "must not be set for init containers";
            found.invalid(&path.field("resizePolicy"), format_args!("{shown}"), detail);
        }
    }
}

fn unique_name<'c>(container: &'c Container, names: &mut HashSet<&'c str>, path: &FieldPath, found: &mut Found) {
    if !container.name.is_empty() && !names.insert(container.name.as_str()) {
        found.duplicate(&path.field("name"), container.name.as_str());
    }
}

fn unique_host_ports(container: &Container, seen: &mut HashSet<String>, path: &FieldPath, found: &mut Found) {
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let Some(number) = port.host_port.filter(|number| *number != 0) else {
            continue;
        };
        let protocol = port.protocol.as_deref().unwrap_or_default();
        let key = format!("{protocol}/{}/{number}", port.host_ip.as_deref().unwrap_or_default());
        if seen.contains(&key) {
            found.duplicate(&path.field("ports").index(index).field("hostPort"), key.as_str());
        } else {
            seen.insert(key);
        }
    }
}
