//! The settings for what this node allows Pods to do.

use std::ffi::OsString;
use std::path::PathBuf;

use microkube_manifest::sysctl::UnsafeSysctls;

use crate::volume::{ALLOWED_HOST_PATHS, AllowedHostPaths};

const ALLOW_PRIVILEGED: &str = "MICROKUBE_ALLOW_PRIVILEGED";
const UNSAFE_SYSCTLS: &str = "MICROKUBE_ALLOWED_UNSAFE_SYSCTLS";
const SECCOMP_PROFILES: &str = "MICROKUBE_SECCOMP_PROFILES_DIR";

/// The default directory of seccomp profiles.
pub const DEFAULT_SECCOMP_PROFILES: &str = "/etc/microkube/seccomp";

/// The settings in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityPolicy {
    /// Whether containers may be privileged.
    pub allow_privileged: bool,
    pub unsafe_sysctls: UnsafeSysctls,
    /// The directory with the profiles of type Localhost.
    pub seccomp_profiles: PathBuf,
    pub allowed_host_paths: AllowedHostPaths,
}

/// A variable has a wrong value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecurityPolicyError {
    #[error("{ALLOW_PRIVILEGED}: expected true or false, found {0:?}")]
    Switch(OsString),
    #[error("{UNSAFE_SYSCTLS}: {0}")]
    Sysctls(String),
    #[error("{ALLOWED_HOST_PATHS}: {0}")]
    HostPaths(String),
}

impl SecurityPolicy {
    /// # Errors
    /// [`SecurityPolicyError`]. Commands that create Pods check this first.
    pub fn of_environment() -> Result<Self, SecurityPolicyError> {
        Self::of(|variable| std::env::var_os(variable))
    }

    fn of(value: impl Fn(&str) -> Option<OsString>) -> Result<Self, SecurityPolicyError> {
        let value = |variable| value(variable).filter(|value| !value.is_empty());
        let allow_privileged = match value(ALLOW_PRIVILEGED) {
            None => true,
            Some(text) => match text.to_str() {
                Some("1" | "yes" | "true") => true,
                Some("0" | "no" | "false") => false,
                _ => return Err(SecurityPolicyError::Switch(text)),
            },
        };
        let unsafe_sysctls = match value(UNSAFE_SYSCTLS) {
            None => UnsafeSysctls::default(),
            Some(text) => unsafe_sysctls(&text.to_string_lossy()).map_err(SecurityPolicyError::Sysctls)?,
        };
        let seccomp_profiles = value(SECCOMP_PROFILES).map_or_else(|| DEFAULT_SECCOMP_PROFILES.into(), PathBuf::from);
        let allowed_host_paths = match value(ALLOWED_HOST_PATHS) {
            None => AllowedHostPaths::default(),
            Some(text) => AllowedHostPaths::parse(&text.to_string_lossy()).map_err(SecurityPolicyError::HostPaths)?,
        };
        Ok(Self {
            allow_privileged,
            unsafe_sysctls,
            seccomp_profiles,
            allowed_host_paths,
        })
    }
}

/// Reads patterns of sysctls, separated by commas.
///
/// # Errors
/// Why a pattern is refused.
pub fn unsafe_sysctls(text: &str) -> Result<UnsafeSysctls, String> {
    UnsafeSysctls::new(text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<SecurityPolicy, String> {
        let value = |variable: &str| {
            let found = variables.iter().find(|(name, _)| *name == variable);
            found.map(|(_, value)| OsString::from(value))
        };
        SecurityPolicy::of(value).map_err(|error| error.to_string())
    }

    #[test]
    fn the_default_allows_what_kubernetes_allows() {
        let policy = SecurityPolicy {
            allow_privileged: true,
            unsafe_sysctls: UnsafeSysctls::default(),
            seccomp_profiles: "/etc/microkube/seccomp".into(),
            allowed_host_paths: AllowedHostPaths::default(),
        };
        assert_eq!(of(&[]), Ok(policy.clone()));
        assert_eq!(of(&[(ALLOW_PRIVILEGED, ""), (UNSAFE_SYSCTLS, "")]), Ok(policy));
    }

    #[test]
    fn variables_change_it() {
        let policy = of(&[
            (ALLOW_PRIVILEGED, "false"),
            (UNSAFE_SYSCTLS, "kernel.msg*, net.core.somaxconn,"),
            (SECCOMP_PROFILES, "/srv/profiles"),
            (ALLOWED_HOST_PATHS, "/srv/data"),
        ]);
        let expected = SecurityPolicy {
            allow_privileged: false,
            unsafe_sysctls: UnsafeSysctls::new(["kernel.msg*", "net.core.somaxconn"]).unwrap(),
            seccomp_profiles: "/srv/profiles".into(),
            allowed_host_paths: AllowedHostPaths::parse("/srv/data").unwrap(),
        };
        assert_eq!(policy, Ok(expected));
    }

    #[test]
    fn a_wrong_value_is_an_error_and_never_the_default() {
        assert_eq!(
            of(&[(ALLOW_PRIVILEGED, "never")]),
            Err("MICROKUBE_ALLOW_PRIVILEGED: expected true or false, found \"never\"".to_owned())
        );
        assert_eq!(
            of(&[(ALLOWED_HOST_PATHS, "data")]),
            Err("MICROKUBE_ALLOWED_HOST_PATHS: \"data\" is not an absolute path without \"..\"".to_owned())
        );
        assert_eq!(
            of(&[(UNSAFE_SYSCTLS, "net.*,vm.swappiness")]),
            Err(
                "MICROKUBE_ALLOWED_UNSAFE_SYSCTLS: the sysctls \"vm.swappiness\" are not known to be namespaced"
                    .to_owned()
            )
        );
    }
}
