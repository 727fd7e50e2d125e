//! Names of sysctls, and which of them a Pod may set (`pkg/kubelet/sysctl/allowlist.go`).

/// Longest name of a sysctl, in bytes.
const MAX_NAME_BYTES: usize = 253;

/// The pattern for names, as in Kubernetes' message.
const NAME_PATTERN: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Sysctls that every Pod may set: they affect only the Pod itself.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Names of sysctls that belong to a namespace begin with one of these.
const NAMESPACED: [&str; 4] = ["kernel.shm", "kernel.msg", "fs.mqueue.", "net."];

/// The only such sysctl with another name.
const SEMAPHORES: &str = "kernel.sem";

/// Why a name is invalid, in Kubernetes' words.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let is_valid = name.len() <= MAX_NAME_BYTES && name.split(['.', '/']).all(is_segment);
    (!is_valid).then(|| format!("must have at most {MAX_NAME_BYTES} characters and match regex {NAME_PATTERN}"))
}

fn is_segment(segment: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = segment.as_bytes();
    bytes.first().is_some_and(is_alphanumeric)
        && bytes.last().is_some_and(is_alphanumeric)
        && bytes.iter().all(|byte| is_alphanumeric(byte) || b"-_".contains(byte))
}

/// The name with dots between its parts, as in `net.ipv4.conf.eth0/100.forwarding`: a slash stands for a dot in a part.
/// If the first separator is a slash, the two are swapped (`NormalizeName` in `k8s.io/component-helpers/node/util/sysctl`).
pub fn normalized(name: &str) -> String {
    if name.find(['.', '/']).is_none_or(|at| name[at..].starts_with('.')) {
        return name.to_owned();
    }
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

/// Sysctls that Pods may set although they may affect more than the Pod: names, or prefixes that end in `*`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnsafeSysctls(Vec<String>);

impl UnsafeSysctls {
    /// # Errors
    /// The kubelet's message about the first pattern that it would refuse.
    pub fn new<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Result<Self, String> {
        let checked = patterns.into_iter().map(|pattern| {
            let prefix = pattern.strip_suffix('*');
            let name = prefix.unwrap_or(pattern);
            let is_valid = match prefix {
                // The last segment may be incomplete.
                Some(prefix) => {
                    prefix.is_empty()
                        || (prefix.len() < MAX_NAME_BYTES && name_problem(&format!("{prefix}x")).is_none())
                }
                None => name_problem(name).is_none(),
            };
            let name = normalized(name);
            if !is_valid {
                Err(format!(
                    "{pattern:?} is neither the name of a sysctl nor the start of one with a *"
                ))
            } else if name != SEMAPHORES && !NAMESPACED.iter().any(|start| name.starts_with(start)) {
                Err(format!("the sysctls {pattern:?} are not known to be namespaced"))
            } else {
                Ok(match prefix {
                    Some(_) => format!("{name}*"),
                    None => name,
                })
            }
        });
        checked.collect::<Result<_, _>>().map(Self)
    }

    /// Whether a Pod may set the sysctl with this name.
    pub(super) fn or_safe(&self, name: &str) -> bool {
        let name = normalized(name);
        SAFE.contains(&name.as_str())
            || self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => *pattern == name,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_kernel() {
        for valid in [
            "kernel.shmmax",
            "net.ipv4.conf.eth0/100.forwarding",
            "net/core/somaxconn",
            "a",
            "1-_b.c",
        ] {
            assert_eq!(name_problem(valid), None, "{valid}");
        }
        let too_long = "a".repeat(254);
        for invalid in ["", ".a", "a.", "a..b", "A.b", "a.-b", "a.b_", "a b", &too_long] {
            assert_eq!(
                name_problem(invalid).as_deref(),
                Some(
                    r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
                ),
                "{invalid}"
            );
        }
    }

    #[test]
    fn separators_are_swapped_if_the_first_is_a_slash() {
        for (name, expected) in [
            ("net.ipv4.conf.eno2/100.rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
            ("net/ipv4/conf/eno2.100/rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
            ("kernel", "kernel"),
        ] {
            assert_eq!(normalized(name), expected);
        }
    }

    #[test]
    fn unsafe_sysctls_need_permission() {
        let none = UnsafeSysctls::default();
        assert!(SAFE.iter().all(|name| none.or_safe(name)));
        assert!(none.or_safe("net/ipv4/tcp_syncookies"));
        assert!(!none.or_safe("net.core.somaxconn"));
        let some = UnsafeSysctls::new(["kernel.msg*", "net/core/somaxconn"]).unwrap();
        assert!(some.or_safe("kernel.msgmax") && some.or_safe("net.core.somaxconn"));
        assert!(!some.or_safe("kernel.sem") && !some.or_safe("net.core.somaxconn2"));
        assert!(UnsafeSysctls::new(["net.*", "kernel.sem", "fs.mqueue.*", "kernel.shm*"]).is_ok());
    }

    #[test]
    fn patterns_of_sysctls_that_affect_the_whole_machine_are_refused() {
        let refused = |pattern| UnsafeSysctls::new([pattern]).unwrap_err();
        assert_eq!(
            refused("vm.swappiness"),
            "the sysctls \"vm.swappiness\" are not known to be namespaced"
        );
        assert_eq!(refused("*"), "the sysctls \"*\" are not known to be namespaced");
        assert_eq!(
            refused("kernel.*"),
            "the sysctls \"kernel.*\" are not known to be namespaced"
        );
        for pattern in ["net.**", "net.*.a", "", "NET.a", "net..*"] {
            assert_eq!(
                refused(pattern),
                format!("{pattern:?} is neither the name of a sysctl nor the start of one with a *")
            );
        }
    }
}
