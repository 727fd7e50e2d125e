//! Kubernetes' rules for security contexts.

use k8s_openapi::api::core::v1::{AppArmorProfile, Capabilities, PodSecurityContext, SeccompProfile, SecurityContext};

use super::super::error::FieldPath;
use super::super::security::capability;
use super::super::sysctl;
use super::found::Found;

/// Longest name of an AppArmor profile, in bytes.
const MAX_APP_ARMOR_PROFILE_BYTES: usize = 4095;

/// Largest user and group ID in Kubernetes.
const MAX_ID: i64 = i32::MAX as i64;

/// Checks the Pod's security context.
pub(super) fn of_pod(context: &PodSecurityContext, path: &FieldPath, found: &mut Found) {
    let own = [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ];
    ids(&own, path, found);
    for (index, gid) in context.supplemental_groups.iter().flatten().enumerate() {
        found.between(&path.field("supplementalGroups").index(index), *gid, 0, MAX_ID);
    }
    for (field, value, allowed) in [
        (
            "fsGroupChangePolicy",
            &context.fs_group_change_policy,
            ["Always", "OnRootMismatch"],
        ),
        (
            "seLinuxChangePolicy",
            &context.se_linux_change_policy,
            ["MountOption", "Recursive"],
        ),
        (
            "supplementalGroupsPolicy",
            &context.supplemental_groups_policy,
            ["Merge", "Strict"],
        ),
    ] {
        if let Some(value) = value {
            found.one_of(&path.field(field), value, &allowed);
        }
    }
    let mut names = std::collections::HashSet::new();
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let path = path.field("sysctls").index(index).field("name");
        if sysctl.name.is_empty() {
            found.required(&path, "");
        } else if let Some(problem) = sysctl::name_problem(&sysctl.name) {
            found.invalid(&path, sysctl.name.as_str(), problem);
        } else if !names.insert(sysctl.name.as_str()) {
            found.duplicate(&path, sysctl.name.as_str());
        }
    }
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), found);
    app_armor(
        context.app_armor_profile.as_ref(),
        &path.field("appArmorProfile"),
        found,
    );
}

/// Checks a container's security context. `host_users` is the Pod's field: whether it has no user namespace.
pub(super) fn of_container(context: &SecurityContext, host_users: bool, path: &FieldPath, found: &mut Found) {
    let own = [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)];
    ids(&own, path, found);
    if let Some(mount) = &context.proc_mount {
        let path = path.field("procMount");
        found.one_of(&path, mount, &["Default", "Unmasked"]);
        if mount == "Unmasked" && host_users {
            found.invalid(&path, mount.as_str(), "`hostUsers` must be false to use `Unmasked`");
        }
    }
    app_armor(
        context.app_armor_profile.as_ref(),
        &path.field("appArmorProfile"),
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
        // Kubernetes checks only this spelling.
        if added.iter().any(|name| name == "CAP_SYS_ADMIN") {
            let detail =
                "Invalid value: cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            found.add(path, detail);
        }
    }
}

fn ids(ids: &[(&str, Option<i64>)], path: &FieldPath, found: &mut Found) {
    for (name, id) in ids {
        if let Some(id) = id {
            found.between(&path.field(name), *id, 0, MAX_ID);
        }
    }
}

fn seccomp(profile: Option<&SeccompProfile>, path: &FieldPath, found: &mut Found) {
    let Some(profile) = profile else { return };
    let type_path = path.field("type");
    if profile.type_.is_empty() {
        found.required(&type_path, "type is required when seccompProfile is set");
    } else {
        found.one_of(
            &type_path,
            &profile.type_,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        );
    }
    let path = path.field("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => found.required(&path, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(file)) => found.descending(&path, file),
        (_, Some(file)) => found.invalid(&path, file.as_str(), "can only be set when seccomp type is Localhost"),
        (_, None) => {}
    }
}

/// `validateAppArmorProfileField`
fn app_armor(profile: Option<&AppArmorProfile>, path: &FieldPath, found: &mut Found) {
    const MUST_BE_SET: &str = "must be set when AppArmor type is Localhost";
    let Some(profile) = profile else { return };
    let type_path = path.field("type");
    if profile.type_.is_empty() {
        return found.required(&type_path, "type is required when appArmorProfile is set");
    }
    found.one_of(
        &type_path,
        &profile.type_,
        &["Localhost", "RuntimeDefault", "Unconfined"],
    );
    let path = path.field("localhostProfile");
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None | Some("")) => found.required(&path, MUST_BE_SET),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                found.invalid(&path, name, "must not be padded with whitespace");
            }
            if name.len() > MAX_APP_ARMOR_PROFILE_BYTES {
                found.too_long(&path, MAX_APP_ARMOR_PROFILE_BYTES);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            found.invalid(&path, name, "can only be set when AppArmor type is Localhost");
        }
        _ => {}
    }
}

/// Capabilities must be known, so that a misspelt one is not silently missing.
fn capabilities(capabilities: &Capabilities, path: &FieldPath, found: &mut Found) {
    for (field, names) in [("add", &capabilities.add), ("drop", &capabilities.drop)] {
        for (index, name) in names.iter().flatten().enumerate() {
            if capability(name).is_none() {
                let detail = "must be ALL or the name of a Linux capability without CAP_, such as NET_ADMIN";
                found.invalid(&path.field(field).index(index), name.as_str(), detail);
            }
        }
    }
}
