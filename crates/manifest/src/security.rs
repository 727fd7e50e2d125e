//! What a container may do: its capabilities and switches, from the Pod's and its own security context.

use k8s_openapi::api::core::v1::{Container, Pod};
use microkube_protocol::CAPABILITIES;

/// What Docker and containerd give every container.
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

/// What a manifest's word for a capability means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    /// `ALL`
    All,
    /// One, with `CAP_` before it.
    One(&'static str),
}

/// Reads `NET_ADMIN`, `CAP_NET_ADMIN` or `ALL`, in any case as containerd does.
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

/// How a container is confined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// Its capabilities, with `CAP_`.
    pub capabilities: Vec<&'static str>,
    /// No seccomp filter. Without a profile in the manifest the default one applies.
    pub seccomp_unconfined: bool,
    /// Set-user-id programs give nothing.
    pub no_new_privileges: bool,
    /// The root file system cannot be written.
    pub read_only_rootfs: bool,
    /// All devices, nothing masked.
    pub privileged: bool,
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
        seccomp_unconfined: privileged || profile.is_some_and(|profile| profile.type_ == "Unconfined"),
        no_new_privileges: own.and_then(|context| context.allow_privilege_escalation) == Some(false),
        read_only_rootfs: own.and_then(|context| context.read_only_root_filesystem) == Some(true),
        privileged,
    }
}

/// containerd's order: `ALL` first, in `add` and then in `drop`; after it the single ones that are added, then those dropped.
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
    fn only_known_names_are_capabilities() {
        assert_eq!(capability("CAP_NET_ADMIN"), Some(Capability::One("CAP_NET_ADMIN")));
        assert_eq!(capability("all"), Some(Capability::All));
        for name in ["", "CAP_", "NET", "CAP_ALL", "CAP_CAP_NET_ADMIN"] {
            assert_eq!(capability(name), None, "{name}");
        }
    }
}
