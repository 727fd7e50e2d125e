//! `microkube machine`: the emulated host.

use crate::machine::{self, ExecRequest, MachineError, Status};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

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
pub fn run(args: MachineArgs) -> ExitCode {
    let result = match args.verb {
        Verb::InsideInit => return machine::init(),
        Verb::InsideAgent => return machine::agent(),
        Verb::InsideSession { cwd, command } => return machine::session(&cwd, &command),
        Verb::Exec { command } => machine::exec(&ExecRequest {
            argv: command,
            start: true,
        })
        .map(|exit| ExitCode::from(exit.code())),
        Verb::Needed => {
            return match microkube_vmm::probe::check_kvm(std::path::Path::new("/dev/kvm")) {
                Ok(()) => {
                    println!("KVM of this machine runs guests");
                    ExitCode::FAILURE
                }
                Err(error) => {
                    println!("KVM of this machine cannot run guests: {}", chain(&error));
                    ExitCode::SUCCESS
                }
            };
        }
        Verb::Start => machine::start().map(|started| {
            if !started {
                println!("the emulated host is running already");
            }
            ExitCode::SUCCESS
        }),
        Verb::Stop => machine::stop().map(|stopped| {
            println!(
                "{}",
                if stopped {
                    "the emulated host is stopped"
                } else {
                    "the emulated host was not running"
                }
            );
            ExitCode::SUCCESS
        }),
        Verb::Status => machine::status().map(|status| show(&status)),
    };
    result.unwrap_or_else(|error: MachineError| {
        eprintln!("microkube: error: {}", chain(&error));
        ExitCode::from(machine::EXIT_MACHINE_FAILED)
    })
}

/// An error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn show(status: &Status) -> ExitCode {
    match status {
        Status::Stopped => {
            println!("stopped");
            // As `systemctl status` has it for a unit that does not run.
            ExitCode::from(3)
        }
        Status::Starting => {
            println!("starting");
            ExitCode::from(3)
        }
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
            println!(
                "running: QEMU (software emulation, AMD processor with SVM), pid {pid}, up {hours}:{minutes:02}:{seconds:02}"
            );
            println!("memory: {memory_mib} MiB, {resident_mib} MiB of it in use");
            ExitCode::SUCCESS
        }
    }
}
