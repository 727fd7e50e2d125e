//! `microkube cp`: copies files to and from containers, with `tar` in the container.
//!
//! It reaches the container through a `microkube exec` process, because the files are on this host even if the Pods run
//! in the emulated host.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use microkube_base::child;

use super::completion;
use super::failure::Failure;
use super::print::{EXIT_OUTPUT_CLOSED, for_terminal};
use crate::pod::operations::copy::{self, CommandRunner, CopyError, Streams};
use crate::stderr::say;

/// Copy files and directories to and from containers
///
/// Either the source or the target is in a Pod: POD:PATH or NAMESPACE/POD:PATH. Directories are copied recursively. The
/// container image must contain `tar`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube cp index.html web:/usr/share/nginx/html\n  microkube cp -c sidecar web:/var/log/app ./logs\n  microkube cp shop/web:/etc/hosts ./hosts"
)]
pub struct CpArgs {
    /// The file or directory to copy
    #[arg(value_name = "SOURCE", add = completion::files_and_pods())]
    source: OsString,
    /// The destination
    #[arg(value_name = "TARGET", add = completion::files_and_pods())]
    target: OsString,
    /// Container name [default: the kubectl.kubernetes.io/default-container annotation, or the first container]
    #[arg(short, long, value_name = "NAME", add = completion::containers())]
    container: Option<String>,
    /// Do not preserve ownership and permissions in the container
    #[arg(long)]
    no_preserve: bool,
    /// Namespace of the Pod, unless given as NAMESPACE/POD:PATH
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
}

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Local(PathBuf),
    Remote {
        namespace: Option<String>,
        pod: String,
        path: String,
    },
}

impl Place {
    /// Parses `PATH`, `POD:PATH` and `NAMESPACE/POD:PATH`. A local path with a colon needs a `/` before the colon.
    fn parse(text: &OsStr) -> anyhow::Result<Self> {
        if text.is_empty() {
            bail!("filepath can not be empty");
        }
        let local = || Self::Local(PathBuf::from(text));
        let Some(known) = text.to_str() else {
            return Ok(local());
        };
        let Some((pod, path)) = known.split_once(':') else {
            return Ok(local());
        };
        let pieces: Vec<&str> = pod.split('/').collect();
        let (namespace, pod) = match pieces.as_slice() {
            // ./a:b and /a/b:c are paths.
            ["" | "." | "..", _, ..] => return Ok(local()),
            [pod] if !pod.is_empty() => (None, *pod),
            [namespace, pod] if !pod.is_empty() => (Some((*namespace).to_owned()), *pod),
            _ => bail!("filespec must match the canonical format: [[namespace/]pod:]file/path"),
        };
        if path.is_empty() {
            bail!("filepath can not be empty");
        }
        Ok(Self::Remote {
            namespace,
            pod: pod.to_owned(),
            path: path.to_owned(),
        })
    }
}

pub(super) fn run(args: CpArgs) -> Result<ExitCode, Failure> {
    let place = |text: &OsStr| Place::parse(text).map_err(Failure::from);
    let (source, target) = (place(&args.source)?, place(&args.target)?);
    let remote = |namespace: Option<String>, pod: String| -> anyhow::Result<Remote> {
        Ok(Remote {
            program: std::env::current_exe().context("cannot find this program")?,
            namespace: namespace.unwrap_or_else(|| args.namespace.clone()),
            pod,
            container: args.container.clone(),
        })
    };
    let copied = match (source, target) {
        (Place::Local(local), Place::Remote { namespace, pod, path }) => {
            copy::send(&remote(namespace, pod)?, &local, &path, args.no_preserve, &mut warn)
        }
        (Place::Remote { namespace, pod, path }, Place::Local(local)) => {
            copy::fetch(&remote(namespace, pod)?, &path, &local, &mut warn)
        }
        _ => {
            let error = anyhow::anyhow!("one of src or dest must be a local file specification, the other of a Pod");
            return Err(Failure::from(error));
        }
    };
    match copied {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if is_explained(&error) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error.into_report().into()),
    }
}

/// Exit codes with which `microkube exec` ends without a message: its output was closed, or SIGHUP, SIGINT or SIGTERM
/// ended it.
const SILENT_EXIT_CODES: [i32; 4] = [
    EXIT_OUTPUT_CLOSED as i32,
    128 + libc::SIGHUP,
    128 + libc::SIGINT,
    128 + libc::SIGTERM,
];

/// Whether `microkube exec` has reported on standard error why copying failed.
fn is_explained(error: &CopyError) -> bool {
    match error {
        CopyError::Container { status } => status.code().is_some_and(|code| !SILENT_EXIT_CODES.contains(&code)),
        _ => false,
    }
}

fn warn(text: String) {
    say!("{}", for_terminal(&text));
}

/// The container to copy to or from.
#[derive(Debug)]
struct Remote {
    program: PathBuf,
    namespace: String,
    pod: String,
    container: Option<String>,
}

impl CommandRunner for Remote {
    /// `microkube exec` of this command in the container.
    fn command(&self, streams: Streams, command: &[&str]) -> Command {
        let mut exec = child::command(&self.program);
        exec.arg("exec");
        match streams {
            Streams::None => {
                exec.arg("--quiet");
            }
            Streams::Input => {
                exec.arg("--stdin");
            }
            Streams::Output => {}
        }
        exec.arg(format!("--namespace={}", self.namespace));
        if let Some(container) = &self.container {
            exec.arg(format!("--container={container}"));
        }
        exec.arg(format!("pod/{}", self.pod)).arg("--").args(command);
        exec
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn source_and_target_of_a_copy_are_parsed() {
        let parse = |text: &str| Place::parse(OsStr::new(text));
        let remote = |namespace: Option<&str>, pod: &str, path: &str| Place::Remote {
            namespace: namespace.map(str::to_owned),
            pod: pod.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(parse("p:/a:b").unwrap(), remote(None, "p", "/a:b"));
        assert_eq!(parse("n/p:rel").unwrap(), remote(Some("n"), "p", "rel"));
        for local in ["a", "./a:b", "/a/b:c", "../x:y"] {
            assert_eq!(parse(local).unwrap(), Place::Local(PathBuf::from(local)));
        }
        for wrong in ["", ":x", "p:", "a/b/c:d", "n/:x"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn errors_that_exec_has_reported_are_not_repeated() {
        let ended = |wait_status| CopyError::Container {
            status: ExitStatus::from_raw(wait_status),
        };
        // A Pod that does not exist, a `tar` that fails or is killed, a missing emulated host.
        for code in [1, 2, 137, 125] {
            assert!(is_explained(&ended(code << 8)), "{code}");
        }
        for silent in SILENT_EXIT_CODES {
            assert!(!is_explained(&ended(silent << 8)), "{silent}");
        }
        assert!(!is_explained(&ended(libc::SIGKILL)));
        assert!(!is_explained(&CopyError::NameNotText));
    }

    #[test]
    fn tar_commands_are_run_with_the_required_exec_flags() {
        let remote = Remote {
            program: PathBuf::from("microkube"),
            namespace: "shop".to_owned(),
            pod: "web".to_owned(),
            container: Some("main".to_owned()),
        };
        for (streams, option) in [
            (Streams::None, Some("--quiet")),
            (Streams::Input, Some("--stdin")),
            (Streams::Output, None),
        ] {
            let command = remote.command(streams, &["tar", "-x"]);
            let expected = ["exec"].into_iter().chain(option).chain([
                "--namespace=shop",
                "--container=main",
                "pod/web",
                "--",
                "tar",
                "-x",
            ]);
            assert!(command.get_args().eq(expected), "{command:?}");
        }
    }
}
