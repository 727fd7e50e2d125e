//! Kubernetes' rules for one container of a Pod; the counterpart of `validation` for the Pod itself.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EnvVarSource, ResourceRequirements, SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource;

use super::error::FieldPath;
use super::quantity::Quantity;
use super::validation::{Found, capabilities, ids, seccomp};
use super::{downward, names};

/// Checks a container; `volumes` are the names of the Pod's volumes.
pub(super) fn container(container: &Container, volumes: &HashSet<&str>, path: &FieldPath, found: &mut Found) {
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
    if let Some(policy) = &container.image_pull_policy {
        found.one_of(
            &path.field("imagePullPolicy"),
            policy,
            &["Always", "IfNotPresent", "Never"],
        );
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
    ports(
        container.ports.as_deref().unwrap_or_default(),
        &path.field("ports"),
        found,
    );
    environment(container.env.as_deref().unwrap_or_default(), &path.field("env"), found);
    volume_mounts(
        container.volume_mounts.as_deref().unwrap_or_default(),
        volumes,
        &path.field("volumeMounts"),
        found,
    );
    if let Some(needs) = &container.resources {
        resources(needs, &path.field("resources"), found);
    }
    if let Some(context) = &container.security_context {
        security_context(context, &path.field("securityContext"), found);
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
        if let Some(protocol) = &port.protocol {
            found.one_of(&path.field("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
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
    if let Some(field) = &source.field_ref {
        let path = path.field("fieldRef");
        if field.api_version.as_deref() != Some("v1") {
            found.one_of(
                &path.field("apiVersion"),
                field.api_version.as_deref().unwrap_or_default(),
                &["v1"],
            );
        }
        let path = path.field("fieldPath");
        if field.field_path.is_empty() {
            found.required(&path, "");
        } else if !downward::is_field(&field.field_path) {
            found.one_of(&path, &field.field_path, downward::FIELDS);
        }
    } else if *source == EnvVarSource::default() {
        found.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
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
        if let Some(sub_path) = mount.sub_path.as_deref() {
            let path = path.field("subPath");
            if sub_path.starts_with('/') {
                found.invalid(&path, sub_path, "must be a relative path");
            }
            if sub_path.split('/').any(|part| part == "..") {
                found.invalid(&path, sub_path, "must not contain '..'");
            }
            found.no_nul(&path, sub_path);
        }
    }
}

/// Checks a quantity that must not be negative.
pub(super) fn quantity(text: &str, path: &FieldPath, found: &mut Found) -> Option<Quantity> {
    match text.parse::<Quantity>() {
        Ok(quantity) if quantity.is_negative() => {
            found.invalid(path, text, "must be greater than or equal to 0");
            None
        }
        Ok(quantity) => Some(quantity),
        Err(error) => {
            found.invalid(path, text, error);
            None
        }
    }
}

fn resources(needs: &ResourceRequirements, path: &FieldPath, found: &mut Found) {
    let mut amounts = |field: &str, list: &Option<BTreeMap<String, resource::Quantity>>| {
        let mut amounts = BTreeMap::new();
        for (name, amount) in list.iter().flatten() {
            let path = path.field(field).key(name);
            if !["cpu", "memory", "ephemeral-storage"].contains(&name.as_str()) {
                found.add(
                    &path,
                    "not supported by microkube yet: the resources are cpu, memory and ephemeral-storage",
                );
            }
            if let Some(amount) = quantity(&amount.0, &path, found) {
                amounts.insert(name.clone(), amount);
            }
        }
        amounts
    };
    let limits = amounts("limits", &needs.limits);
    // A request that was copied from its limit has the same problem; it is reported once.
    let mut own_requests = needs.requests.clone();
    if let (Some(requests), Some(limits)) = (&mut own_requests, &needs.limits) {
        requests.retain(|name, request| limits.get(name) != Some(request));
    }
    let requests = amounts("requests", &own_requests);
    let shown = |list: &Option<BTreeMap<String, resource::Quantity>>, name: &str| {
        list.as_ref()
            .and_then(|list| list.get(name))
            .map(|amount| amount.0.clone())
            .unwrap_or_default()
    };
    for (name, request) in &requests {
        if limits.get(name).is_some_and(|limit| request > limit) {
            let limit = shown(&needs.limits, name);
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            found.invalid(&path.field("requests"), shown(&needs.requests, name).as_str(), detail);
        }
    }
}

fn security_context(context: &SecurityContext, path: &FieldPath, found: &mut Found) {
    ids(
        &[("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)],
        path,
        found,
    );
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), found);
    if let Some(list) = &context.capabilities {
        capabilities(list, &path.field("capabilities"), found);
    }
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let detail = "Invalid value: cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            found.add(path, detail);
        }
        let added = context
            .capabilities
            .as_ref()
            .and_then(|list| list.add.as_deref())
            .unwrap_or_default();
        // Kubernetes looks for this one spelling.
        if added.iter().any(|name| name == "CAP_SYS_ADMIN") {
            let detail =
                "Invalid value: cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            found.add(path, detail);
        }
    }
}
