//! Kubernetes' rules common to all kinds of containers in a Pod.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, ContainerResizePolicy};

use super::super::error::FieldPath;
use super::super::names;
use super::found::Found;
use super::surroundings::Surroundings;
use super::{environment, resources, restart, security};

/// A virtual machine cannot mount anything on the host.
const ONLY_EMPTY_DIRS: &str =
    "not supported by microkube yet: a container's mounts reach other containers only in emptyDir volumes";

pub(super) fn validate(container: &Container, surroundings: &Surroundings<'_>, path: &FieldPath, found: &mut Found) {
    if container.name.is_empty() {
        found.required(&path.field("name"), "");
    } else {
        found.invalid_for_each(&path.field("name"), &container.name, names::dns_label(&container.name));
    }
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        found.required(&path.field("image"), "");
    } else if image.trim() != image {
        found.invalid(
            &path.field("image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
    let policies = [
        (
            "imagePullPolicy",
            &container.image_pull_policy,
            &["Always", "IfNotPresent", "Never"][..],
        ),
        (
            "terminationMessagePolicy",
            &container.termination_message_policy,
            &["File", "FallbackToLogsOnError"],
        ),
    ];
    for (field, policy, allowed) in policies {
        match policy.as_deref().unwrap_or_default() {
            "" => found.required(&path.field(field), ""),
            policy => found.one_of(&path.field(field), policy, allowed),
        }
    }
    for (field, arguments) in [("command", &container.command), ("args", &container.args)] {
        for (index, argument) in arguments.iter().flatten().enumerate() {
            found.no_nul(&path.field(field).index(index), argument);
        }
    }
    found.no_nul(
        &path.field("workingDir"),
        container.working_dir.as_deref().unwrap_or_default(),
    );
    found.no_nul(
        &path.field("terminationMessagePath"),
        container.termination_message_path.as_deref().unwrap_or_default(),
    );
    restart::validate(container, path, found);
    ports(
        container.ports.as_deref().unwrap_or_default(),
        &path.field("ports"),
        found,
    );
    environment::variables(container.env.as_deref().unwrap_or_default(), &path.field("env"), found);
    environment::sources(
        container.env_from.as_deref().unwrap_or_default(),
        &path.field("envFrom"),
        found,
    );
    volume_mounts(container, surroundings, &path.field("volumeMounts"), found);
    if let Some(needs) = &container.resources {
        resources::validate(needs, &path.field("resources"), found);
    }
    resize_policy(
        container.resize_policy.as_deref().unwrap_or_default(),
        surroundings.restart_policy,
        &path.field("resizePolicy"),
        found,
    );
    if let Some(context) = &container.security_context {
        security::of_container(context, surroundings.host_users, &path.field("securityContext"), found);
    }
}

fn resize_policy(policies: &[ContainerResizePolicy], of_pod: &str, path: &FieldPath, found: &mut Found) {
    let mut resources = HashSet::new();
    for (index, policy) in policies.iter().enumerate() {
        if of_pod == "Never" && policy.restart_policy == "RestartContainer" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            found.invalid(path, policy.restart_policy.as_str(), detail);
        }
        let path = path.index(index);
        if !resources.insert(policy.resource_name.as_str()) {
            found.duplicate(&path, policy.resource_name.as_str());
        }
        for (field, value, allowed) in [
            ("resourceName", &policy.resource_name, ["cpu", "memory"]),
            (
                "restartPolicy",
                &policy.restart_policy,
                ["NotRequired", "RestartContainer"],
            ),
        ] {
            if value.is_empty() {
                found.required(&path.field(field), "");
            } else {
                found.one_of(&path.field(field), value, &allowed);
            }
        }
    }
}

fn ports(ports: &[ContainerPort], path: &FieldPath, found: &mut Found) {
    let mut port_names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        if port.container_port == 0 {
            found.required(&path.field("containerPort"), "");
        } else {
            found.between(&path.field("containerPort"), i64::from(port.container_port), 1, 65535);
        }
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let path = path.field("name");
            found.invalid_for_each(&path, name, names::port_name(name));
            if !port_names.insert(name) {
                found.duplicate(&path, name);
            }
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            found.between(&path.field("hostPort"), i64::from(number), 1, 65535);
        }
        match port.protocol.as_deref().unwrap_or_default() {
            "" => found.required(&path.field("protocol"), ""),
            protocol => found.one_of(&path.field("protocol"), protocol, &["SCTP", "TCP", "UDP"]),
        }
    }
}

fn volume_mounts(container: &Container, surroundings: &Surroundings<'_>, path: &FieldPath, found: &mut Found) {
    let context = container.security_context.as_ref();
    let is_privileged = context.and_then(|context| context.privileged) == Some(true);
    let mut mount_points = HashSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.index(index);
        if mount.name.is_empty() {
            found.required(&path.field("name"), "");
        } else if !surroundings.volumes.contains(mount.name.as_str()) {
            found.not_found(&path.field("name"), &mount.name);
        }
        let point = path.field("mountPath");
        if mount.mount_path.is_empty() {
            found.required(&point, "");
        } else {
            if !mount_points.insert(mount.mount_path.as_str()) {
                found.invalid(&point, mount.mount_path.as_str(), "must be unique");
            }
            if mount.mount_path.contains(':') {
                found.invalid(&point, mount.mount_path.as_str(), "must not contain ':'");
            }
            found.no_nul(&point, &mount.mount_path);
        }
        let sub_path = mount.sub_path.as_deref().unwrap_or_default();
        found.descending(&path.field("subPath"), sub_path);
        if let Some(expression) = mount
            .sub_path_expr
            .as_deref()
            .filter(|expression| !expression.is_empty())
        {
            let path = path.field("subPathExpr");
            if !sub_path.is_empty() {
                found.invalid(&path, expression, "subPathExpr and subPath are mutually exclusive");
            }
            found.descending(&path, expression);
        }
        if let Some(propagation) = &mount.mount_propagation {
            let path = path.field("mountPropagation");
            found.one_of(&path, propagation, &["Bidirectional", "HostToContainer", "None"]);
            if propagation == "Bidirectional" {
                if !is_privileged {
                    let detail = "Bidirectional mount propagation is available only to privileged containers";
                    found.forbidden(&path, detail);
                }
                let name = mount.name.as_str();
                if surroundings.volumes.contains(name) && !surroundings.empty_dirs.contains(name) {
                    found.add(&path, format_args!("{propagation:?} is {ONLY_EMPTY_DIRS}"));
                }
            }
        }
        if let Some(recursive) = &mount.recursive_read_only {
            let path = path.field("recursiveReadOnly");
            found.one_of(&path, recursive, &["Disabled", "Enabled", "IfPossible"]);
            if matches!(recursive.as_str(), "Enabled" | "IfPossible") {
                if mount.read_only != Some(true) {
                    found.forbidden(&path, "may only be specified when readOnly is true");
                }
                if mount
                    .mount_propagation
                    .as_deref()
                    .is_some_and(|propagation| propagation != "None")
                {
                    let detail = "may only be specified when mountPropagation is None or not specified";
                    found.forbidden(&path, detail);
                }
            }
        }
    }
}
