//! The process of a container, from the image's configuration and the manifest. Pure functions: the agent looks up
//! users in the image and starts processes.
//!
//! [`container_process`] returns the parts that are known before the container starts. [`arguments`] and
//! [`environment`] need the values of the manifest's variables, which come from other objects and are computed for each
//! start.

use std::collections::HashMap;
use std::hash::BuildHasher;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use super::expansion::{TooLong, expand};
use super::security;

/// The process settings in the image's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageProcess {
    /// `Entrypoint`
    pub entrypoint: Vec<String>,
    /// `Cmd`
    pub cmd: Vec<String>,
    /// `Env`, each `NAME=value`.
    pub env: Vec<String>,
    /// `WorkingDir`
    pub working_dir: String,
    /// `User`
    pub user: String,
    /// `StopSignal`, a name or number.
    pub stop_signal: Option<String>,
}

impl From<&oci_spec::image::Config> for ImageProcess {
    fn from(config: &oci_spec::image::Config) -> Self {
        Self {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone(),
        }
    }
}

/// The process that the agent starts, without its arguments and environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerProcess {
    /// Working directory; may be empty.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` … as in an image's `User`.
    pub user: String,
    /// Additional groups.
    pub supplemental_gids: Vec<u32>,
    /// Ignores the groups that the image gives its user (`supplementalGroupsPolicy: Strict`).
    pub without_image_groups: bool,
    /// Number of the signal that stops the process.
    pub stop_signal: u32,
}

/// Why a container cannot be created. Kubernetes' reason for it is `CreateContainerConfigError` (`CreateContainerError`
/// for [`ProcessError::NoCommand`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// Neither the image nor the manifest specifies a command.
    #[error("no command specified: the image has neither ENTRYPOINT nor CMD, set `command`")]
    NoCommand,
    /// An expanded string is too long.
    #[error("{field} is too long")]
    TooLong {
        /// The field.
        field: String,
        /// Why.
        #[source]
        source: TooLong,
    },
    /// All arguments together are too long.
    #[error("command and args are longer than {MAX_ARGUMENTS_BYTES} bytes together")]
    ArgumentsTooLarge,
    /// The manifest forbids root, and also sets it as user.
    #[error("container's runAsUser breaks non-root policy {0}")]
    RunAsRoot(Place),
    /// The manifest forbids root, which is the image's user.
    #[error("container has runAsNonRoot and image will run as root {0}")]
    ImageRunsAsRoot(Place),
    /// The manifest forbids root, and the image specifies a user by name.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {place}"
    )]
    NonNumericUser {
        /// The user.
        user: String,
        place: Place,
    },
    /// The container's or the image's stop signal is invalid.
    #[error("invalid stop signal \"{0}\"")]
    StopSignal(String),
}

/// The Pod and the container in the kubelet's messages about users (`verifyRunAsNonRoot` in
/// `pkg/kubelet/kuberuntime/security_context.go`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(String);

impl Place {
    fn of(pod: &Pod, container: &Container) -> Self {
        let [name, namespace, uid] = [&pod.metadata.name, &pod.metadata.namespace, &pod.metadata.uid]
            .map(|part| part.as_deref().unwrap_or_default());
        Self(format!(
            "(pod: \"{name}_{namespace}({uid})\", container: {})",
            container.name
        ))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Maximum length of a command line: Linux starts no program with a longer one (`bprm_stack_limits` in `fs/exec.c`).
const MAX_ARGUMENTS_BYTES: usize = 6 << 20;

/// containerd's default if the image sets no PATH.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The process of a container of a validated and defaulted Pod.
pub fn container_process(
    pod: &Pod,
    container: &Container,
    image: &ImageProcess,
) -> Result<ContainerProcess, ProcessError> {
    let lists = [&container.command, &container.args];
    let is_written = lists.into_iter().flatten().any(|list| !list.is_empty());
    if !is_written && image.entrypoint.is_empty() && image.cmd.is_empty() {
        return Err(ProcessError::NoCommand);
    }
    Ok(ContainerProcess {
        working_dir: match container.working_dir.as_deref() {
            None | Some("") => image.working_dir.clone(),
            Some(directory) => directory.to_owned(),
        },
        user: user(pod, container, &image.user)?,
        supplemental_gids: supplemental_gids(pod),
        without_image_groups: pod
            .spec
            .as_ref()
            .and_then(|spec| spec.security_context.as_ref()?.supplemental_groups_policy.as_deref())
            == Some("Strict"),
        stop_signal: stop_signal(own_stop_signal(container).or(image.stop_signal.as_deref()))?,
    })
}

/// The command line. `command` replaces the image's ENTRYPOINT and drops its CMD; `args` replaces CMD. `$(NAME)` refers
/// to the manifest's variables (`ExpandContainerCommandAndArgs` in `pkg/kubelet/container/helpers.go`).
///
/// # Errors
/// If an expanded argument is too long.
pub fn arguments<S: BuildHasher>(
    container: &Container,
    image: &ImageProcess,
    variables: &HashMap<String, String, S>,
) -> Result<Vec<String>, ProcessError> {
    let mut bytes = 0_usize;
    let mut written = |arguments: &Option<Vec<String>>, field: &str| -> Result<Vec<String>, ProcessError> {
        let mut expanded = Vec::new();
        for argument in arguments.iter().flatten() {
            let argument = expand(argument, variables).map_err(|source| ProcessError::TooLong {
                field: field.to_owned(),
                source,
            })?;
            bytes = bytes.saturating_add(argument.len());
            if bytes > MAX_ARGUMENTS_BYTES {
                return Err(ProcessError::ArgumentsTooLarge);
            }
            expanded.push(argument);
        }
        Ok(expanded)
    };
    let mut args = written(&container.command, "command")?;
    let own_args = written(&container.args, "args")?;
    let replaced = !args.is_empty();
    if !replaced {
        args.clone_from(&image.entrypoint);
    }
    if !own_args.is_empty() {
        args.extend(own_args);
    } else if !replaced {
        args.extend_from_slice(&image.cmd);
    }
    Ok(args)
}

/// The environment: each `NAME=value`, each name once. PATH and HOSTNAME come first, then the image's variables, then
/// the manifest's. The last value for a name wins, at the position of the first. The agent sets HOME.
pub fn environment<'v>(
    hostname: &str,
    image: &ImageProcess,
    variables: impl IntoIterator<Item = (&'v str, &'v str)>,
) -> Vec<String> {
    let mut environment = Environment::default();
    environment.set(DEFAULT_PATH.to_owned());
    environment.set(format!("HOSTNAME={hostname}"));
    for variable in &image.env {
        environment.set(variable.clone());
    }
    for (name, value) in variables {
        environment.set(format!("{name}={value}"));
    }
    environment.variables
}

/// Variables in order, each name once.
#[derive(Default)]
struct Environment {
    variables: Vec<String>,
    /// The position of each name.
    positions: HashMap<String, usize>,
}

impl Environment {
    fn set(&mut self, variable: String) {
        let name = variable.split('=').next().unwrap_or_default();
        if let Some(existing) = self.positions.get(name).and_then(|at| self.variables.get_mut(*at)) {
            *existing = variable;
            return;
        }
        self.positions.insert(name.to_owned(), self.variables.len());
        self.variables.push(variable);
    }
}

/// The user and group, checked like `verifyRunAsNonRoot` (`pkg/kubelet/kuberuntime/security_context.go`).
fn user(pod: &Pod, container: &Container, image_user: &str) -> Result<String, ProcessError> {
    let own = container.security_context.as_ref();
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let uid = own
        .and_then(|context| context.run_as_user)
        .or_else(|| of_pod.and_then(|context| context.run_as_user));
    let gid = own
        .and_then(|context| context.run_as_group)
        .or_else(|| of_pod.and_then(|context| context.run_as_group));
    let non_root = own
        .and_then(|context| context.run_as_non_root)
        .or_else(|| of_pod.and_then(|context| context.run_as_non_root));
    let image_user_part = image_user.split(':').next().unwrap_or_default();
    let place = || Place::of(pod, container);
    if non_root == Some(true) {
        match (uid, image_user_part) {
            (Some(0), _) => return Err(ProcessError::RunAsRoot(place())),
            (Some(_), _) => {}
            (None, "") => return Err(ProcessError::ImageRunsAsRoot(place())),
            (None, name) => match name.parse::<u32>() {
                Ok(0) => return Err(ProcessError::ImageRunsAsRoot(place())),
                Ok(_) => {}
                Err(_) => {
                    let user = name.to_owned();
                    return Err(ProcessError::NonNumericUser { user, place: place() });
                }
            },
        }
    }
    Ok(match (uid, gid) {
        (None, None) => image_user.to_owned(),
        (Some(uid), None) => uid.to_string(),
        (Some(uid), Some(gid)) => format!("{uid}:{gid}"),
        (None, Some(gid)) if image_user_part.is_empty() => format!("0:{gid}"),
        (None, Some(gid)) => format!("{image_user_part}:{gid}"),
    })
}

/// The Pod's supplementary groups and its fsGroup (`convertToRuntimeSecurityContext` in
/// `pkg/kubelet/kuberuntime/security_context.go`).
fn supplemental_gids(pod: &Pod) -> Vec<u32> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let groups = context
        .and_then(|context| context.supplemental_groups.as_deref())
        .unwrap_or_default();
    let groups = groups.iter().filter_map(|gid| u32::try_from(*gid).ok());
    groups.chain(security::fs_group(pod)).collect()
}

/// `lifecycle.stopSignal`, which takes precedence over the image's.
fn own_stop_signal(container: &Container) -> Option<&str> {
    let signal = container.lifecycle.as_ref()?.stop_signal.as_deref();
    signal.filter(|signal| !signal.is_empty())
}

/// Parses `SIGTERM`, `TERM`, `15`, `RTMIN+3`; TERM if there is none.
fn stop_signal(text: Option<&str>) -> Result<u32, ProcessError> {
    const SIGRTMIN: u32 = 34;
    const SIGRTMAX: u32 = 64;
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(libc::SIGTERM.cast_unsigned());
    };
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        offset_of(offset, '+').and_then(|offset| SIGRTMIN.checked_add(offset))
    } else if let Some(offset) = name.strip_prefix("RTMAX") {
        offset_of(offset, '-').and_then(|offset| SIGRTMAX.checked_sub(offset))
    } else if let Ok(number) = name.parse() {
        Some(number)
    } else {
        // Other names of signals in Kubernetes' list.
        let name = match name {
            "CLD" => "CHLD",
            "IOT" => "ABRT",
            "POLL" => "IO",
            name => name,
        };
        let known: Result<nix::sys::signal::Signal, _> = format!("SIG{name}").parse();
        known.ok().map(|signal| (signal as i32).cast_unsigned())
    };
    let real_time = name.starts_with("RT");
    number
        .filter(|number| (if real_time { SIGRTMIN } else { 1 }..=SIGRTMAX).contains(number))
        .ok_or_else(|| ProcessError::StopSignal(text.to_owned()))
}

/// The number after a sign, or 0 for an empty text.
fn offset_of(text: &str, sign: char) -> Option<u32> {
    if text.is_empty() {
        Some(0)
    } else {
        text.strip_prefix(sign)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn image() -> ImageProcess {
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        ImageProcess {
            entrypoint: strings(&["/entry"]),
            cmd: strings(&["default"]),
            env: strings(&["PATH=/bin", "A=image"]),
            working_dir: "/srv".into(),
            user: "www-data".into(),
            stop_signal: Some("SIGQUIT".into()),
        }
    }

    fn process(container: Value, image: &ImageProcess) -> Result<ContainerProcess, ProcessError> {
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [container], "securityContext": {"supplementalGroups": [7]}}
        }))
        .unwrap();
        container_process(&pod, &pod.spec.as_ref().unwrap().containers[0], image)
    }

    fn arguments_of(container: Value, variables: &[(&str, &str)]) -> Result<Vec<String>, ProcessError> {
        let container: Container = serde_json::from_value(container).unwrap();
        let variables: HashMap<String, String> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        arguments(&container, &image(), &variables)
    }

    #[test]
    fn command_and_args_override_the_image() {
        for (container, expected) in [
            (json!({"name": "c"}), vec!["/entry", "default"]),
            (json!({"name": "c", "args": ["x"]}), vec!["/entry", "x"]),
            (json!({"name": "c", "command": ["sh"]}), vec!["sh"]),
            (
                json!({"name": "c", "command": ["sh"], "args": ["-c", "y"]}),
                vec!["sh", "-c", "y"],
            ),
            (
                json!({"name": "c", "command": [], "args": []}),
                vec!["/entry", "default"],
            ),
        ] {
            assert_eq!(arguments_of(container, &[]).unwrap(), expected);
        }
        assert_eq!(
            process(json!({"name": "c"}), &ImageProcess::default()),
            Err(ProcessError::NoCommand)
        );
    }

    #[test]
    fn any_command_is_enough() {
        let commands = [
            (json!({"name": "c", "command": ["x"]}), ImageProcess::default()),
            (json!({"name": "c", "args": ["x"]}), ImageProcess::default()),
            (json!({"name": "c", "command": [], "args": []}), image()),
        ];
        for (container, image) in commands {
            assert!(process(container, &image).is_ok());
        }
    }

    #[test]
    fn the_last_value_of_a_variable_wins_at_the_position_of_the_first() {
        let own = [("LATE", "1"), ("A", "<b>"), ("B", "2"), ("B", "3")];
        assert_eq!(
            environment("web", &image(), own),
            ["PATH=/bin", "HOSTNAME=web", "A=<b>", "LATE=1", "B=3"]
        );
        let own_host = [("HOSTNAME", "other"), ("PATH", "")];
        assert_eq!(
            environment("web", &ImageProcess::default(), own_host),
            ["PATH=", "HOSTNAME=other"]
        );
    }

    #[test]
    fn arguments_refer_to_the_manifests_variables_only() {
        let container = json!({"name": "c", "args": ["$(A)", "$(PATH)", "$$(A)", "$(B)-$(B)"]});
        let found = arguments_of(container, &[("A", "<$(B)>"), ("B", "2")]).unwrap();
        assert_eq!(found, ["/entry", "<$(B)>", "$(PATH)", "$(A)", "2-2"]);
    }

    #[test]
    fn the_image_supplies_values_missing_from_the_manifest() {
        let process = process(json!({"name": "c"}), &image()).unwrap();
        assert_eq!(
            (process.working_dir.as_str(), process.user.as_str(), process.stop_signal),
            ("/srv", "www-data", 3)
        );
    }

    #[test]
    fn the_strict_policy_leaves_the_groups_of_the_image_out() {
        for (policy, without) in [(Value::Null, false), (json!("Merge"), false), (json!("Strict"), true)] {
            let pod: Pod = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
                "spec": {"containers": [{"name": "c"}], "securityContext": {"supplementalGroupsPolicy": policy}}
            }))
            .unwrap();
            let container = &pod.spec.as_ref().unwrap().containers[0];
            let process = container_process(&pod, container, &image()).unwrap();
            assert_eq!(process.without_image_groups, without);
        }
    }

    #[test]
    fn the_fs_group_is_a_supplementary_group() {
        let pod = serde_json::from_value(json!({
            "spec": {"containers": [], "securityContext": {"supplementalGroups": [7], "fsGroup": 2000}}
        }));
        assert_eq!(supplemental_gids(&pod.unwrap()), [7, 2000]);
    }

    #[test]
    fn users_come_from_the_security_context_before_the_image() {
        let user = |context: Value, image_user: &str| {
            let image = ImageProcess {
                user: image_user.into(),
                ..image()
            };
            process(json!({"name": "c", "securityContext": context}), &image).map(|process| process.user)
        };
        assert_eq!(user(json!({"runAsUser": 5}), "a:b").unwrap(), "5");
        assert_eq!(user(json!({"runAsUser": 5, "runAsGroup": 6}), "").unwrap(), "5:6");
        assert_eq!(user(json!({"runAsGroup": 6}), "a:b").unwrap(), "a:6");
        assert_eq!(user(json!({"runAsGroup": 6}), "").unwrap(), "0:6");
        assert_eq!(user(json!({"runAsNonRoot": true}), "101:101").unwrap(), "101:101");
        let refused = |context: Value, image_user: &str| user(context, image_user).unwrap_err().to_string();
        let non_root = || json!({"runAsNonRoot": true});
        assert_eq!(
            refused(json!({"runAsNonRoot": true, "runAsUser": 0}), ""),
            "container's runAsUser breaks non-root policy (pod: \"p_n(u)\", container: c)"
        );
        for root in ["", "0"] {
            assert_eq!(
                refused(non_root(), root),
                "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"
            );
        }
        assert_eq!(
            refused(non_root(), "www"),
            "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: \"p_n(u)\", \
             container: c)"
        );
    }

    #[test]
    fn the_containers_stop_signal_overrides_the_images() {
        let own = json!({"name": "c", "lifecycle": {"stopSignal": "SIGUSR1"}});
        assert_eq!(process(own, &image()).unwrap().stop_signal, 10);
        let other = json!({"name": "c", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}});
        assert_eq!(process(other, &image()).unwrap().stop_signal, 3);
    }

    #[test]
    fn stop_signals_are_read_in_every_spelling() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGRTMIN", 34),
            ("SIGWINCH", 28),
            ("SIGCLD", 17),
            ("SIGIOT", 6),
            ("SIGPOLL", 29),
            ("SIGSTKFLT", 16),
            ("SIGRTMIN+15", 49),
            ("SIGRTMAX-14", 50),
        ] {
            assert_eq!(stop_signal(Some(text)), Ok(number), "{text}");
        }
        assert_eq!(stop_signal(None), Ok(15));
        assert_eq!(stop_signal(Some("")), Ok(15));
        for text in [
            "SIG",
            "0",
            "65",
            "-1",
            "RTMIN+99",
            "RTMAX-60",
            "SIGNAL",
            "RTMIN3",
            "99999999999",
        ] {
            assert!(stop_signal(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn exploding_arguments_are_an_error() {
        let long = "x".repeat(1 << 20);
        let container = json!({"name": "c", "args": ["$(A)".repeat(1 << 10)]});
        let error = arguments_of(container, &[("A", &long)]).unwrap_err();
        assert_eq!(error.to_string(), "args is too long");
        let long = "x".repeat(100_000);
        let container = json!({"name": "c", "args": vec!["$(A)"; 100]});
        let error = arguments_of(container, &[("A", &long)]).unwrap_err();
        assert_eq!(error, ProcessError::ArgumentsTooLarge);
    }
}
