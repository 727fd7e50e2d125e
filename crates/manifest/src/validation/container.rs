//! Kubernetes' rules that are the same for every container of a Pod, whatever it is for.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, EnvVar, EnvVarSource, ResourceFieldSelector, VolumeMount,
};

use super::super::error::FieldPath;
use super::super::{downward, names};
use super::found::Found;
use super::surroundings::Surroundings;
use super::{resources, restart, security};

/// Checks a container.
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
    environment(container.env.as_deref().unwrap_or_default(), &path.field("env"), found);
    volume_mounts(
        container.volume_mounts.as_deref().unwrap_or_default(),
        surroundings.volumes,
        &path.field("volumeMounts"),
        found,
    );
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
        security::of_container(context, &path.field("securityContext"), found);
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

fn environment(variables: &[EnvVar], path: &FieldPath, found: &mut Found) {
    for (index, variable) in variables.iter().enumerate() {
        let path = path.index(index);
        if variable.name.is_empty() {
            found.required(&path.field("name"), "");
        } else {
            found.invalid_for_each(
                &path.field("name"),
                &variable.name,
                names::variable_name(&variable.name),
            );
        }
        let value = variable.value.as_deref().unwrap_or_default();
        found.no_nul(&path.field("value"), value);
        if let Some(source) = &variable.value_from {
            let path = path.field("valueFrom");
            if !value.is_empty() {
                found.invalid(&path, "", "may not be specified when `value` is not empty");
            }
            value_source(source, &path, found);
        }
    }
}

fn value_source(source: &EnvVarSource, path: &FieldPath, found: &mut Found) {
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        let path = path.field("fieldRef");
        let version = field.api_version.as_deref().unwrap_or_default();
        found.one_of(&path.field("apiVersion"), version, &["v1"]);
        let path = path.field("fieldPath");
        if field.field_path.is_empty() {
            found.required(&path, "");
        } else if !downward::is_field(&field.field_path) {
            found.one_of(&path, &field.field_path, downward::FIELDS);
        }
    }
    if let Some(field) = &source.resource_field_ref {
        sources += 1;
        resource_field(field, &path.field("resourceFieldRef"), found);
    }
    let config_map = source
        .config_map_key_ref
        .as_ref()
        .map(|own| ("configMapKeyRef", &own.name, &own.key));
    let secret = source
        .secret_key_ref
        .as_ref()
        .map(|own| ("secretKeyRef", &own.name, &own.key));
    for (field, name, key) in config_map.into_iter().chain(secret) {
        sources += 1;
        let path = path.field(field);
        found.invalid_for_each(&path.field("name"), name, names::dns_subdomain(name));
        if key.is_empty() {
            found.required(&path.field("key"), "");
        } else {
            found.invalid_for_each(&path.field("key"), key, names::config_map_key(key));
        }
    }
    sources += usize::from(source.file_key_ref.is_some());
    match sources {
        0 => found.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        1 => {}
        _ => found.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

fn resource_field(field: &ResourceFieldSelector, path: &FieldPath, found: &mut Found) {
    const RESOURCES: &[&str] = &[
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let path = path.field("resource");
    if field.resource.is_empty() {
        found.required(&path, "");
    } else if !["limits.hugepages-", "requests.hugepages-"]
        .iter()
        .any(|start| field.resource.starts_with(start))
    {
        found.one_of(&path, &field.resource, RESOURCES);
    }
}

fn volume_mounts(mounts: &[VolumeMount], volumes: &HashSet<&str>, path: &FieldPath, found: &mut Found) {
    let mut mount_points = HashSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let path = path.index(index);
        if mount.name.is_empty() {
            found.required(&path.field("name"), "");
        } else if !volumes.contains(mount.name.as_str()) {
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
            let allowed = ["Bidirectional", "HostToContainer", "None"];
            found.one_of(&path.field("mountPropagation"), propagation, &allowed);
        }
        if let Some(recursive) = &mount.recursive_read_only {
            let path = path.field("recursiveReadOnly");
            found.one_of(&path, recursive, &["Disabled", "Enabled", "IfPossible"]);
            if matches!(recursive.as_str(), "Enabled" | "IfPossible") && mount.read_only != Some(true) {
                found.forbidden(&path, "may only be specified when readOnly is true");
            }
        }
    }
}
