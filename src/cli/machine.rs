//! `microkube machine`: the emulated host.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::print::emit;
use crate::emulated_host::{self, EmulatedHostError, ExecRequest, Status};

/// The emulated host, in which Pods run where KVM cannot run guests
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  microkube machine status\n  microkube machine exec -- microkube doctor")]
pub struct MachineArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start the emulated host (a few seconds); does nothing if it runs
    #[command(after_help = "Example:\n  microkube machine start")]
    Start,
    /// Stop it: processes are ended, disks written, power off
    #[command(after_help = "Example:\n  microkube machine stop")]
    Stop,
    /// Show whether it runs (exit code 0: running, 3: stopped)
    #[command(after_help = "Example:\n  microkube machine status")]
    Status,
    /// Say whether Pods need it here (exit code 0: KVM cannot run guests, and why; 1: KVM works)
    #[command(after_help = "Example:\n  microkube machine needed && echo Pods run slowly here")]
    Needed,
    /// Run a command in it, as root, in this directory, with this terminal and environment
    ///
    /// Files of this machine are visible under the same paths. What the command writes is private to it and lost with it, except
    /// below /run and /var/lib/microkube, which belong to the emulated host.
    #[command(after_help = "Example:\n  microkube machine exec -- ls -l /dev/kvm")]
    Exec {
        /// Command and arguments
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
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

/// Runs the verb.
pub(super) fn run(args: MachineArgs) -> Result<ExitCode, Failure> {
    let (said, exit_code) = match args.verb {
        Verb::InsideInit => return Ok(emulated_host::init()),
        Verb::InsideAgent => return Ok(emulated_host::agent()),
        Verb::InsideSession { cwd, command } => return Ok(emulated_host::session(&cwd, &command)),
        Verb::Exec { command } => {
            let request = ExecRequest {
                argv: command,
                start: true,
            };
            return Ok(ExitCode::from(emulated_host::exec(&request).map_err(failed)?.code()));
        }
        Verb::Needed => match microkube_vmm::probe::check_kvm(std::path::Path::new("/dev/kvm")) {
            Ok(()) => ("KVM of this machine runs guests\n".to_owned(), ExitCode::FAILURE),
            Err(error) => {
                let error = anyhow::Error::from(error);
                let said = format!("KVM of this machine cannot run guests: {error:#}\n");
                (said, ExitCode::SUCCESS)
            }
        },
        Verb::Start => match emulated_host::start().map_err(failed)? {
            true => (String::new(), ExitCode::SUCCESS),
            false => ("the emulated host is running already\n".to_owned(), ExitCode::SUCCESS),
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

fn failed(error: EmulatedHostError) -> Failure {
    Failure {
        exit_code: emulated_host::EXIT_MACHINE_FAILED,
        error: error.into(),
    }
}

/// What is said of the emulated host, and the exit code that says so.
fn show(status: &Status) -> (String, ExitCode) {
    match status {
        Status::Stopped => {
            // As `systemctl status` has it for a unit that does not run.
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
                 memory: {memory_mib} MiB, {resident_mib} MiB of it in use\n"
            );
            (said, ExitCode::SUCCESS)
        }
    }
}
