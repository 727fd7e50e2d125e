//! The kubelet's checks before it runs a valid Pod: whether this node can and may run it.

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, PodSpec, SecurityContext};

use super::error::FieldPath;
use super::sysctl::UnsafeSysctls;
use super::validation::Found;

/// Why the kubelet rejects a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Reason of the event and the status.
    pub reason: &'static str,
    /// Message of the event. That of the status begins with [`STATUS_PREFIX`].
    pub message: String,
}

/// The prefix of a rejection's message in the Pod's status (`rejectPod` in `pkg/kubelet/kubelet.go`).
pub const STATUS_PREFIX: &str = "Pod was rejected: ";

/// Why the kubelet would reject the Pod, if it would: the Pod sets forbidden sysctls, or has AppArmor profiles, which
/// the guest's kernel cannot enforce.
pub fn rejection(pod: &Pod, allowed: &UnsafeSysctls) -> Option<Rejection> {
    let spec = pod.spec.as_ref()?;
    let sysctls = spec
        .security_context
        .iter()
        .flat_map(|context| context.sysctls.iter().flatten());
    let is_forbidden = |name: &&str| !allowed.or_safe(name);
    if let Some(name) = sysctls.map(|sysctl| sysctl.name.as_str()).find(is_forbidden) {
        return Some(Rejection {
            reason: "SysctlForbidden",
            message: format!("forbidden sysctl: {name:?} not allowlisted"),
        });
    }
    has_app_armor(spec).then(|| Rejection {
        reason: "AppArmor",
        message: "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned(),
    })
}

/// Whether a container has an AppArmor profile other than `Unconfined`, its own or the Pod's.
fn has_app_armor(spec: &PodSpec) -> bool {
    let of_pod = spec
        .security_context
        .as_ref()
        .and_then(|context| context.app_armor_profile.as_ref());
    let is_confined = |profile: &AppArmorProfile| profile.type_ != "Unconfined";
    containers(spec).any(|(_, own)| {
        let own = own.and_then(|context| context.app_armor_profile.as_ref());
        own.or(of_pod).is_some_and(is_confined)
    })
}

/// The problems of a Pod on a node that does not allow privileged containers, with Kubernetes' messages
/// (`spec.containers[0].securityContext.privileged: Forbidden: …`). Empty if the Pod has none.
pub fn forbidden_privileges(pod: &Pod) -> Vec<String> {
    let mut found = Found::default();
    for (path, context) in pod.spec.iter().flat_map(containers) {
        if context.and_then(|context| context.privileged) == Some(true) {
            let path = path.field("securityContext").field("privileged");
            found.forbidden(&path, "disallowed by cluster policy");
        }
    }
    found.0.into_iter().map(|problem| problem.message).collect()
}

/// The security contexts of all containers of a Pod, with the containers' paths.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (FieldPath, Option<&SecurityContext>)> {
    let main = spec.containers.iter();
    let init = spec.init_containers.iter().flatten();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let path = |list, index| FieldPath::default().field("spec").field(list).index(index);
    let main = main.map(|container| container.security_context.as_ref()).enumerate();
    let init = init.map(|container| container.security_context.as_ref()).enumerate();
    let ephemeral = ephemeral
        .map(|container| container.security_context.as_ref())
        .enumerate();
    main.map(move |(index, context)| (path("containers", index), context))
        .chain(init.map(move |(index, context)| (path("initContainers", index), context)))
        .chain(ephemeral.map(move |(index, context)| (path("ephemeralContainers", index), context)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn rejected(spec: serde_json::Value, allowed: &[&str]) -> Option<(&'static str, String)> {
        let allowed = UnsafeSysctls::new(allowed.iter().copied()).unwrap();
        rejection(&pod(spec), &allowed).map(|rejection| (rejection.reason, rejection.message))
    }

    #[test]
    fn an_unsafe_sysctl_is_rejected_unless_it_is_allowed() {
        let spec = json!({
            "containers": [],
            "securityContext": { "sysctls": [
                { "name": "net.ipv4.tcp_syncookies", "value": "1" },
                { "name": "net.core.somaxconn", "value": "1024" },
            ] },
        });
        assert_eq!(
            rejected(spec.clone(), &[]),
            Some((
                "SysctlForbidden",
                "forbidden sysctl: \"net.core.somaxconn\" not allowlisted".to_owned()
            ))
        );
        assert_eq!(rejected(spec, &["net.core.*"]), None);
    }

    #[test]
    fn an_app_armor_profile_is_rejected_unless_it_is_unconfined() {
        let profile = |kind: &str| json!({ "appArmorProfile": { "type": kind } });
        let of_pod = |kind| json!({ "containers": [{ "name": "a" }], "securityContext": profile(kind) });
        assert_eq!(rejected(of_pod("Unconfined"), &[]), None);
        assert_eq!(
            rejected(of_pod("RuntimeDefault"), &[]),
            Some((
                "AppArmor",
                "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned()
            ))
        );
        let both = |of_pod, own| {
            json!({
                "containers": [{ "name": "a", "securityContext": profile(own) }],
                "securityContext": profile(of_pod),
            })
        };
        assert_eq!(rejected(both("RuntimeDefault", "Unconfined"), &[]), None);
        assert!(rejected(both("Unconfined", "Localhost"), &[]).is_some());
    }

    #[test]
    fn every_privileged_container_is_named() {
        let privileged = json!({ "name": "a", "securityContext": { "privileged": true } });
        let plain = json!({ "name": "a", "securityContext": { "privileged": false } });
        let found = forbidden_privileges(&pod(json!({
            "containers": [plain, privileged],
            "initContainers": [privileged, { "name": "b" }],
            "ephemeralContainers": [privileged],
        })));
        assert_eq!(
            found,
            [
                "spec.containers[1].securityContext.privileged: Forbidden: disallowed by cluster policy",
                "spec.initContainers[0].securityContext.privileged: Forbidden: disallowed by cluster policy",
                "spec.ephemeralContainers[0].securityContext.privileged: Forbidden: disallowed by cluster policy",
            ]
        );
        assert!(forbidden_privileges(&pod(json!({ "containers": [plain] }))).is_empty());
    }
}
