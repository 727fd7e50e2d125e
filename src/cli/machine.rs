//! `microkube machine`: the emulated host.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use microkube_vmm::probe::{self, ProbeError};

use super::failure::Failure;
use super::print::emit;
use crate::emulated_host::{self, EmulatedHostError, ExecRequest, Status};

/// Manage the emulated host, where Pods run if this machine's KVM cannot run guests
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  microkube machine status\n  microkube machine exec -- microkube doctor")]
pub struct MachineArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start the emulated host, unless it is running (takes a few seconds)
    #[command(after_help = "Example:\n  microkube machine start")]
    Start,
    /// Shut down the emulated host
    ///
    /// Ends all processes, flushes the disks and powers off.
    #[command(after_help = "Example:\n  microkube machine stop")]
    Stop,
    /// Show the state of the emulated host (exit code 0: running, 3: stopped or starting)
    #[command(after_help = "Example:\n  microkube machine status")]
    Status,
    /// Check whether Pods need the emulated host here (exit code 0: yes, and why; 1: KVM works; 125: an error)
    #[command(after_help = "Example:\n  microkube machine needed && echo Pods run slowly here")]
    Needed,
    /// Execute a command in the emulated host
    ///
    /// The command runs as root, in the current directory, with this terminal and environment. It sees this machine's
    /// files under the same paths. Files that it writes are private to it and discarded when it ends, except below /run
    /// and /var/lib/microkube, which belong to the emulated host.
    #[command(after_help = "Example:\n  microkube machine exec -- ls -l /dev/kvm")]
    Exec {
        /// The command and its arguments
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    // The hidden verbs read no configuration file; `is_part_of_emulated_host` lists their names.
    /// PID 1 of the emulated host
    #[command(hide = true)]
    InsideInit,
    /// Receives commands in the emulated host
    #[command(hide = true)]
    InsideAgent,
    /// Starts one command in the emulated host
    #[command(hide = true)]
    InsideSession {
        #[arg(long)]
        cwd: PathBuf,
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
}

/// Whether these arguments start a part of the emulated host. It sees the outer machine's configuration file, but an
/// error in that file must not end its PID 1.
pub(super) fn is_part_of_emulated_host(mut arguments: impl Iterator<Item = OsString>) -> bool {
    const VERBS: [&str; 3] = ["inside-init", "inside-agent", "inside-session"];
    arguments.next().is_some_and(|verb| verb == "machine")
        && arguments
            .next()
            .is_some_and(|verb| VERBS.iter().any(|inside| verb == *inside))
}

pub(super) fn run(args: MachineArgs) -> Result<ExitCode, Failure> {
    let (said, exit_code) = match args.verb {
        Verb::InsideInit => return Ok(emulated_host::init()),
        Verb::InsideAgent => return Ok(emulated_host::agent()),
        Verb::InsideSession { cwd, command } => return Ok(emulated_host::session(&cwd, &command)),
        Verb::Exec { command } => {
            let request = ExecRequest {
                argv: command,
                reason: None,
            };
            return Ok(ExitCode::from(emulated_host::exec(&request).map_err(failed)?.code()));
        }
        Verb::Needed => {
            let (said, exit_code) = tell_whether_needed(probe::check_kvm(Path::new("/dev/kvm")))?;
            emit(&said).map_err(not_known)?;
            return Ok(exit_code);
        }
        Verb::Start => match emulated_host::start().map_err(failed)? {
            true => (String::new(), ExitCode::SUCCESS),
            false => ("the emulated host is already running\n".to_owned(), ExitCode::SUCCESS),
        },
        Verb::Stop => match emulated_host::stop().map_err(failed)? {
            true => ("the emulated host is stopped\n".to_owned(), ExitCode::SUCCESS),
            false => ("the emulated host was not running\n".to_owned(), ExitCode::SUCCESS),
        },
        Verb::Status => show(&emulated_host::status().map_err(failed)?),
    };
    emit(&said)?;
    Ok(exit_code)
}

impl MachineArgs {
    /// The exit code if the configuration is wrong.
    pub(super) fn exit_code_of_wrong_config(&self) -> u8 {
        match self.verb {
            Verb::Needed => emulated_host::EXIT_MACHINE_FAILED,
            _ => 1,
        }
    }
}

/// The output and the exit code of `needed`.
fn tell_whether_needed(checked: Result<(), ProbeError>) -> Result<(String, ExitCode), Failure> {
    match checked {
        Ok(()) => Ok(("this machine's KVM can run guests\n".to_owned(), ExitCode::FAILURE)),
        // The user can fix this, so no verb falls back to the emulated host.
        Err(error @ ProbeError::Permission { .. }) => Err(not_known(error)),
        Err(error) => {
            let error = anyhow::Error::from(error);
            let said = format!("this machine's KVM cannot run guests: {error:#}\n");
            Ok((said, ExitCode::SUCCESS))
        }
    }
}

/// A failure of `needed`, whose exit code 1 means that KVM works.
fn not_known(error: impl Into<anyhow::Error>) -> Failure {
    Failure {
        exit_code: emulated_host::EXIT_MACHINE_FAILED,
        error: error.into(),
    }
}

fn failed(error: EmulatedHostError) -> Failure {
    Failure {
        exit_code: emulated_host::EXIT_MACHINE_FAILED,
        error: error.into(),
    }
}

/// The description of the emulated host's state, and the exit code.
fn show(status: &Status) -> (String, ExitCode) {
    match status {
        Status::Stopped => {
            // As `systemctl status` for a stopped unit.
            ("stopped\n".to_owned(), ExitCode::from(3))
        }
        Status::Starting => ("starting\n".to_owned(), ExitCode::from(3)),
        Status::Running {
            pid,
            uptime,
            memory_mib,
            resident_mib,
        } => {
            let (hours, minutes, seconds) = (
                uptime.as_secs() / 3600,
                uptime.as_secs() / 60 % 60,
                uptime.as_secs() % 60,
            );
            let said = format!(
                "running: QEMU (software emulation, AMD processor with SVM), pid {pid}, up {hours}:{minutes:02}:{seconds:02}\n\
                 memory: {memory_mib} MiB, {resident_mib} MiB in use\n"
            );
            (said, ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_hidden_verbs_are_parts_of_the_emulated_host() {
        let is_part = |arguments: &[&str]| is_part_of_emulated_host(arguments.iter().map(OsString::from));
        let verbs = Verb::augment_subcommands(clap::Command::new("machine"));
        assert!(verbs.get_subcommands().any(clap::Command::is_hide_set));
        for verb in verbs.get_subcommands() {
            let name = verb.get_name();
            assert_eq!(is_part(&["machine", name, "--cwd=/"]), verb.is_hide_set(), "{name}");
            // They have no meaning as arguments of another verb.
            assert!(!is_part(&["machine", "exec", "--", "machine", name]));
            assert!(!is_part(&["get", name]) && !is_part(&[name]));
        }
        assert!(!is_part(&["machine"]) && !is_part(&[]));
    }

    #[test]
    fn needed_has_another_exit_code_for_errors_than_for_a_working_kvm() {
        let path = PathBuf::from("/dev/kvm");
        let exit_code = |checked| tell_whether_needed(checked).map(|(_, exit_code)| exit_code);
        assert_eq!(exit_code(Ok(())).unwrap(), ExitCode::from(1));
        let missing = ProbeError::Missing { path: path.clone() };
        assert_eq!(exit_code(Err(missing)).unwrap(), ExitCode::SUCCESS);
        for errno in [libc::EACCES, libc::EPERM] {
            let (path, why) = (path.clone(), std::io::Error::from_raw_os_error(errno));
            let failure = exit_code(Err(ProbeError::Permission { path, why })).unwrap_err();
            assert_eq!(failure.exit_code, 125);
            assert!(
                failure.error.to_string().starts_with("cannot open /dev/kvm: "),
                "{:#}",
                failure.error
            );
        }
        let needed = MachineArgs { verb: Verb::Needed };
        assert_eq!(needed.exit_code_of_wrong_config(), 125);
    }
}
