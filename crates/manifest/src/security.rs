//! The confinement of a container (capabilities and more), from the security contexts of the Pod and the container.

use k8s_openapi::api::core::v1::{Container, Pod};
use microkube_protocol::CAPABILITIES;

/// The default capabilities in Docker and containerd.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// A capability as written in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    All,
    /// One capability, with the prefix `CAP_`.
    One(&'static str),
}

/// Parses `NET_ADMIN`, `CAP_NET_ADMIN` or `ALL`, in any case, like containerd.
pub(crate) fn capability(name: &str) -> Option<Capability> {
    let name = name.to_ascii_uppercase();
    let bare = name.strip_prefix("CAP_").unwrap_or(&name);
    if name == "ALL" {
        return Some(Capability::All);
    }
    CAPABILITIES
        .iter()
        .find(|known| known.strip_prefix("CAP_") == Some(bare))
        .map(|known| Capability::One(known))
}

/// Which system calls a container may make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seccomp {
    /// All calls.
    Unconfined,
    /// The calls in the runtime's profile.
    RuntimeDefault,
    /// The calls in a profile of the node, given by its path in the directory of profiles.
    Localhost(String),
}

/// The group of the Pod's volumes.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let gid = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(gid).ok()
}

/// How a container is confined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// Its capabilities, with the prefix `CAP_`.
    pub capabilities: Vec<&'static str>,
    /// Without a profile in the manifest the default filter applies.
    pub seccomp: Seccomp,
    /// Set-user-ID programs gain no privileges.
    pub no_new_privileges: bool,
    /// The root file system is read-only.
    pub read_only_rootfs: bool,
    /// The container has all devices, and no masked paths.
    pub privileged: bool,
    /// Nothing in its /proc and /sys is masked or read-only.
    pub unmasked_proc: bool,
}

/// The confinement of a container of a validated Pod.
pub fn confinement(pod: &Pod, container: &Container) -> Confinement {
    let own = container.security_context.as_ref();
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let privileged = own.and_then(|context| context.privileged) == Some(true);
    let profile = own
        .and_then(|context| context.seccomp_profile.as_ref())
        .or_else(|| of_pod.and_then(|context| context.seccomp_profile.as_ref()));
    let lists = own.and_then(|context| context.capabilities.as_ref());
    let add = lists.and_then(|lists| lists.add.as_deref()).unwrap_or_default();
    let drop = lists.and_then(|lists| lists.drop.as_deref()).unwrap_or_default();
    Confinement {
        capabilities: if privileged {
            CAPABILITIES.to_vec()
        } else {
            effective_capabilities(add, drop)
        },
        seccomp: match profile.map(|profile| (profile.type_.as_str(), &profile.localhost_profile)) {
            _ if privileged => Seccomp::Unconfined,
            Some(("Unconfined", _)) => Seccomp::Unconfined,
            Some(("Localhost", Some(path))) => Seccomp::Localhost(path.clone()),
            _ => Seccomp::RuntimeDefault,
        },
        no_new_privileges: own.and_then(|context| context.allow_privilege_escalation) == Some(false),
        read_only_rootfs: own.and_then(|context| context.read_only_root_filesystem) == Some(true),
        privileged,
        unmasked_proc: own.and_then(|context| context.proc_mount.as_deref()) == Some("Unmasked"),
    }
}

/// In containerd's order: `ALL` first, in `add` and then in `drop`; then single additions, then single removals.
fn effective_capabilities(add: &[String], drop: &[String]) -> Vec<&'static str> {
    let read = |names: &[String]| names.iter().filter_map(|name| capability(name)).collect::<Vec<_>>();
    let (add, drop) = (read(add), read(drop));
    let mut base = if add.contains(&Capability::All) {
        &CAPABILITIES[..]
    } else {
        DEFAULT_CAPABILITIES
    };
    if drop.contains(&Capability::All) {
        base = &[];
    }
    let has = |name: &&'static str| {
        let one = Capability::One(name);
        (base.contains(name) || add.contains(&one)) && !drop.contains(&one)
    };
    CAPABILITIES.iter().copied().filter(has).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(add: &[&str], drop: &[&str]) -> Vec<&'static str> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        effective_capabilities(&owned(add), &owned(drop))
    }

    #[test]
    fn capabilities_are_added_to_and_dropped_from_the_default() {
        assert_eq!(effective(&[], &[]).len(), DEFAULT_CAPABILITIES.len());
        assert!(DEFAULT_CAPABILITIES.iter().all(|name| CAPABILITIES.contains(name)));
        assert!(effective(&["NET_ADMIN"], &[]).contains(&"CAP_NET_ADMIN"));
        assert!(!effective(&[], &["net_raw"]).contains(&"CAP_NET_RAW"));
        assert_eq!(effective(&["NET_BIND_SERVICE"], &["ALL"]), ["CAP_NET_BIND_SERVICE"]);
        assert_eq!(effective(&["ALL"], &[]).len(), 41);
        assert_eq!(effective(&["ALL"], &["SYS_ADMIN"]).len(), 40);
    }

    #[test]
    fn the_seccomp_profile_is_the_containers_or_the_pods() {
        let seccomp = |of_pod: serde_json::Value, own: serde_json::Value| {
            let pod: Pod = serde_json::from_value(serde_json::json!({
                "spec": { "containers": [{ "name": "a", "securityContext": own }], "securityContext": of_pod },
            }))
            .unwrap();
            confinement(&pod, &pod.spec.as_ref().unwrap().containers[0]).seccomp
        };
        let profile =
            |kind: &str| serde_json::json!({ "seccompProfile": { "type": kind, "localhostProfile": "a/b.json" } });
        let none = || serde_json::json!({});
        assert_eq!(seccomp(none(), none()), Seccomp::RuntimeDefault);
        assert_eq!(seccomp(profile("Unconfined"), none()), Seccomp::Unconfined);
        assert_eq!(
            seccomp(profile("Unconfined"), profile("Localhost")),
            Seccomp::Localhost("a/b.json".to_owned())
        );
        let mut privileged = profile("Localhost");
        privileged["privileged"] = true.into();
        assert_eq!(seccomp(none(), privileged), Seccomp::Unconfined);
    }

    #[test]
    fn only_known_names_are_capabilities() {
        assert_eq!(capability("CAP_NET_ADMIN"), Some(Capability::One("CAP_NET_ADMIN")));
        assert_eq!(capability("all"), Some(Capability::All));
        for name in ["", "CAP_", "NET", "CAP_ALL", "CAP_CAP_NET_ADMIN"] {
            assert_eq!(capability(name), None, "{name}");
        }
    }
}
