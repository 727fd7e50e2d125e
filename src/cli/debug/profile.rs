//! The debugging profiles of `kubectl debug` (`pkg/cmd/debug/profiles.go`): what a container may do.

use k8s_openapi::api::core::v1::{Capabilities, Pod, SeccompProfile, SecurityContext};

/// The values of `--profile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Profile {
    /// General purpose: may trace processes
    General,
    /// The Pod Security Standard "baseline"
    Baseline,
    /// The Pod Security Standard "restricted": not root, no capabilities
    Restricted,
    /// May administer the network
    Netadmin,
    /// Privileged
    Sysadmin,
    /// Sets nothing
    Legacy,
}

impl Profile {
    /// The security context of the debug container.
    pub(super) fn security_context(self, own: Option<SecurityContext>) -> Option<SecurityContext> {
        let mut context = match self {
            Self::Baseline | Self::Restricted => SecurityContext::default(),
            _ => own.clone().unwrap_or_default(),
        };
        match self {
            Self::Legacy => return own,
            Self::Baseline => return None,
            Self::General => add_capabilities(&mut context, &["SYS_PTRACE"]),
            Self::Netadmin => add_capabilities(&mut context, &["NET_ADMIN", "NET_RAW"]),
            Self::Sysadmin => context.privileged = Some(true),
            Self::Restricted => {
                context.run_as_non_root = Some(true);
                context.capabilities = Some(Capabilities {
                    drop: Some(vec!["ALL".to_owned()]),
                    ..Capabilities::default()
                });
                context.allow_privilege_escalation = Some(false);
                context.seccomp_profile = Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                });
            }
        }
        Some(context)
    }

    /// Applies the profile to the copy of a Pod, apart from the debug container.
    pub(super) fn change_copy(self, pod: &mut Pod) {
        if self == Self::Legacy {
            return;
        }
        pod.metadata.labels = None;
        pod.metadata.annotations = None;
        let Some(spec) = &mut pod.spec else { return };
        for container in &mut spec.containers {
            container.liveness_probe = None;
            container.readiness_probe = None;
            container.startup_probe = None;
        }
        spec.share_process_namespace.get_or_insert(true);
    }
}

fn add_capabilities(context: &mut SecurityContext, names: &[&str]) {
    let added = context.capabilities.get_or_insert_default().add.get_or_insert_default();
    for name in names {
        if !added.iter().any(|known| known == name) {
            added.push((*name).to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_profile_has_kubectls_security_context() {
        for (profile, expected) in [
            (Profile::General, json!({"capabilities": {"add": ["SYS_PTRACE"]}})),
            (Profile::Baseline, Value::Null),
            (
                Profile::Restricted,
                json!({
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
                    "seccompProfile": {"type": "RuntimeDefault"},
                }),
            ),
            (
                Profile::Netadmin,
                json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}),
            ),
            (Profile::Sysadmin, json!({"privileged": true})),
            (Profile::Legacy, Value::Null),
        ] {
            let context = serde_json::to_value(profile.security_context(None)).unwrap();
            assert_eq!(context, expected, "{profile:?}");
        }
    }

    #[test]
    fn an_existing_security_context_is_extended_or_replaced() {
        let own = || {
            Some(SecurityContext {
                run_as_user: Some(7),
                ..SecurityContext::default()
            })
        };
        let users = [
            Profile::General,
            Profile::Sysadmin,
            Profile::Restricted,
            Profile::Legacy,
        ]
        .map(|profile| profile.security_context(own()).and_then(|context| context.run_as_user));
        assert_eq!(users, [Some(7), Some(7), None, Some(7)]);
    }
}
