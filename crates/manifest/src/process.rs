//! The process of a container: what the image says, what the manifest says, and what comes of both. Pure functions; looking up users in the
//! image and running anything is the agent's.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::downward::{self, PodStatusFields};
use super::expansion::{TooLong, expand};

/// What the image's configuration says about its process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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

/// The process as the agent starts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerProcess {
    /// The command line.
    pub args: Vec<String>,
    /// `NAME=value`, every name once. HOME is left to the agent.
    pub env: Vec<String>,
    /// Working directory; may be empty.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` … as in an image's `User`.
    pub user: String,
    /// Further groups.
    pub supplemental_gids: Vec<u32>,
    /// Whether the groups that the image gives its user are left out (`supplementalGroupsPolicy: Strict`).
    pub without_image_groups: bool,
    /// Number of the signal that asks it to end.
    pub stop_signal: u32,
}

/// Why a container cannot be created; Kubernetes shows it with the reason `CreateContainerConfigError` (`CreateContainerError` for
/// [`ProcessError::NoCommand`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// Neither the image nor the manifest says what to run.
    #[error("no command specified: the image has neither ENTRYPOINT nor CMD, set `command`")]
    NoCommand,
    /// An expanded string does not fit.
    #[error("{field} is too long")]
    TooLong {
        /// Which one.
        field: String,
        /// Why.
        #[source]
        source: TooLong,
    },
    /// The manifest forbids the user that it sets.
    #[error("container's runAsUser breaks non-root policy")]
    RunAsRoot,
    /// The manifest forbids root, which the image wants.
    #[error("container has runAsNonRoot and image will run as root")]
    ImageRunsAsRoot,
    /// The manifest forbids root, and the image gives a name.
    #[error("container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root")]
    NonNumericUser(String),
    /// The container's or the image's stop signal is none.
    #[error("the stop signal \"{0}\" is not a signal")]
    StopSignal(String),
}

/// What containerd sets where the image does not.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The process of a container of a validated and defaulted Pod.
///
/// `command` replaces the image's ENTRYPOINT and drops its CMD, `args` replaces CMD. Variables: PATH and HOSTNAME, the image's,
/// the manifest's; the last of a name wins and keeps the first one's place. `$(NAME)` refers to the manifest's variables only, in a variable
/// to those before it (`makeEnvironmentVariables` in `pkg/kubelet/kubelet_pods.go`, `ExpandContainerCommandAndArgs`).
pub fn container_process(
    pod: &Pod,
    container: &Container,
    image: &ImageProcess,
    hostname: &str,
    status: &PodStatusFields,
) -> Result<ContainerProcess, ProcessError> {
    let mut variables: HashMap<String, String> = HashMap::new();
    let mut env = Environment::default();
    env.set(DEFAULT_PATH.to_owned());
    env.set(format!("HOSTNAME={hostname}"));
    for variable in &image.env {
        env.set(variable.clone());
    }
    for variable in container.env.iter().flatten() {
        let field = variable
            .value_from
            .as_ref()
            .and_then(|source| source.field_ref.as_ref());
        let value = match field {
            Some(field) => downward::field(&field.field_path, pod, status).unwrap_or_default(),
            None => expand(variable.value.as_deref().unwrap_or_default(), &variables).map_err(|source| {
                ProcessError::TooLong {
                    field: format!("variable {}", variable.name),
                    source,
                }
            })?,
        };
        env.set(format!("{}={value}", variable.name));
        variables.insert(variable.name.clone(), value);
    }
    let written = |arguments: &Option<Vec<String>>, field: &str| -> Result<Vec<String>, ProcessError> {
        let expanded = arguments.iter().flatten().map(|argument| expand(argument, &variables));
        expanded
            .collect::<Result<_, _>>()
            .map_err(|source| ProcessError::TooLong {
                field: field.to_owned(),
                source,
            })
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
    if args.is_empty() {
        return Err(ProcessError::NoCommand);
    }
    Ok(ContainerProcess {
        args,
        env: env.0,
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

/// Variables in order, each name once.
#[derive(Default)]
struct Environment(Vec<String>);

impl Environment {
    fn set(&mut self, variable: String) {
        let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
        let wanted = name(&variable);
        match self.0.iter_mut().find(|existing| name(existing) == wanted) {
            Some(existing) => *existing = variable,
            None => self.0.push(variable),
        }
    }
}

/// The user and group, after `verifyRunAsNonRoot` (`pkg/kubelet/kuberuntime/security_context.go`).
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
    if non_root == Some(true) {
        match (uid, image_user_part) {
            (Some(0), _) => return Err(ProcessError::RunAsRoot),
            (Some(_), _) => {}
            (None, "") => return Err(ProcessError::ImageRunsAsRoot),
            (None, name) => match name.parse::<u32>() {
                Ok(0) => return Err(ProcessError::ImageRunsAsRoot),
                Ok(_) => {}
                Err(_) => return Err(ProcessError::NonNumericUser(name.to_owned())),
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

fn supplemental_gids(pod: &Pod) -> Vec<u32> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let groups = context
        .and_then(|context| context.supplemental_groups.as_deref())
        .unwrap_or_default();
    groups.iter().filter_map(|gid| u32::try_from(*gid).ok()).collect()
}

/// `lifecycle.stopSignal`, which comes before the image's.
fn own_stop_signal(container: &Container) -> Option<&str> {
    let signal = container.lifecycle.as_ref()?.stop_signal.as_deref();
    signal.filter(|signal| !signal.is_empty())
}

/// `SIGTERM`, `TERM`, `15`, `RTMIN+3`; TERM if there is none.
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
        // The other names that signals have in Kubernetes' list.
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

/// The number behind a sign, or 0 for nothing at all.
fn offset_of(text: &str, sign: char) -> Option<u32> {
    if text.is_empty() {
        Some(0)
    } else {
        text.strip_prefix(sign)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

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
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {"containers": [container], "securityContext": {"supplementalGroups": [7]}}
        }))
        .unwrap();
        let status = PodStatusFields {
            pod_ip: Some(Ipv4Addr::new(10, 88, 0, 2)),
            ..Default::default()
        };
        container_process(&pod, &pod.spec.as_ref().unwrap().containers[0], image, "web", &status)
    }

    #[test]
    fn command_and_args_replace_what_the_image_has() {
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
            assert_eq!(process(container, &image()).unwrap().args, expected);
        }
        assert_eq!(
            process(json!({"name": "c"}), &ImageProcess::default()),
            Err(ProcessError::NoCommand)
        );
    }

    #[test]
    fn variables_merge_in_order_and_refer_to_earlier_ones() {
        let container = json!({
            "name": "c",
            "env": [
                {"name": "LATE", "value": "$(B)"},
                {"name": "B", "value": "b"},
                {"name": "A", "value": "<$(B)>$(A)$$(B)"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "B", "value": "b2"}
            ],
            "args": ["$(A)", "$(IP)", "$(PATH)", "$(B)"]
        });
        let process = process(container, &image()).unwrap();
        assert_eq!(
            process.env,
            [
                "PATH=/bin",
                "HOSTNAME=web",
                "A=<b>$(A)$(B)",
                "LATE=$(B)",
                "B=b2",
                "IP=10.88.0.2"
            ]
        );
        assert_eq!(process.args, ["/entry", "<b>$(A)$(B)", "10.88.0.2", "$(PATH)", "b2"]);
        assert_eq!(process.supplemental_gids, [7]);
    }

    #[test]
    fn the_image_fills_in_what_the_manifest_leaves_open() {
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
            let process = container_process(&pod, container, &image(), "web", &PodStatusFields::default()).unwrap();
            assert_eq!(process.without_image_groups, without);
        }
    }

    #[test]
    fn users_come_from_the_security_context_first() {
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
        assert_eq!(
            user(json!({"runAsNonRoot": true, "runAsUser": 0}), "").unwrap_err(),
            ProcessError::RunAsRoot
        );
        assert_eq!(
            user(json!({"runAsNonRoot": true}), "").unwrap_err(),
            ProcessError::ImageRunsAsRoot
        );
        assert_eq!(
            user(json!({"runAsNonRoot": true}), "0").unwrap_err(),
            ProcessError::ImageRunsAsRoot
        );
        assert_eq!(
            user(json!({"runAsNonRoot": true}), "www").unwrap_err(),
            ProcessError::NonNumericUser("www".into())
        );
    }

    #[test]
    fn the_containers_stop_signal_comes_before_the_images() {
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
    fn exploding_variables_end_in_an_error() {
        let mut env = vec![json!({"name": "V0", "value": "x".repeat(1000)})];
        env.extend((1..40).map(|n| json!({"name": format!("V{n}"), "value": format!("$(V{0})$(V{0})", n - 1)})));
        let error = process(json!({"name": "c", "env": env}), &image()).unwrap_err();
        assert_eq!(error.to_string(), "variable V8 is too long");
    }
}
