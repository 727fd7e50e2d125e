//! The emulated host: a complete Linux machine with KVM, emulated in software by QEMU, for machines whose own KVM
//! cannot run guests.
//!
//! The outer host's files are visible in it under the same paths, so a command line means the same inside and outside:
//! [`run_inside`] runs one in it with this process's arguments, directory, terminal, signals and exit code. `/run` and
//! `/var/lib/microkube` belong to the emulated host. Everything else that a command writes is private to that command,
//! and is discarded when it ends.
//!
//! `host` starts and stops the emulated host. `client` talks to `inside`, which is the same program running in the
//! emulated host, and `protocol` defines their messages. This module does not depend on Pods.

mod client;
mod connection;
mod control;
mod host;
mod inside;
mod location;
mod protocol;
mod qemu;

pub use client::{ExecRequest, exec, run_inside};
pub use host::{Status, check, start, status, stop, was_ever_started};
pub use inside::{agent, init, session};
pub use location::files;

use std::path::PathBuf;

/// Exit code if the emulated host itself failed, as distinct from the command.
pub const EXIT_MACHINE_FAILED: u8 = 125;

/// Set in the environment of every command that runs in the emulated host.
pub const ENV_INSIDE: &str = "MICROKUBE_EMULATED_HOST";

/// A directory that only exists in the emulated host.
pub(crate) const INSIDE_DIR: &str = "/run/microkube-machine";

/// Whether this process runs in the emulated host.
pub fn is_inside() -> bool {
    std::path::Path::new(INSIDE_DIR).is_dir()
}

/// The latest protocol version that emulated hosts of this build support.
pub fn protocol_version() -> u16 {
    protocol::Version::NEWEST.number()
}

/// An error of the emulated host.
#[derive(Debug, thiserror::Error)]
pub enum EmulatedHostError {
    #[error("the emulated host needs QEMU, which is not installed: run `apt-get install qemu-system-x86`")]
    NoQemu,
    #[error(
        "cannot find the emulated host's files (vmlinuz, initramfs.cpio, modules) in {searched}: install the package microkube-emulated-host, or build them with `make build`"
    )]
    NoArtefacts { searched: String },
    #[error("cannot create the state disk {path}: {reason}")]
    Disk { path: PathBuf, reason: String },
    #[error("the emulated host failed to start; the end of its console ({console}):\n{tail}")]
    DiedStarting { console: PathBuf, tail: String },
    #[error("the emulated host was not ready within {seconds} s; the end of its console ({console}):\n{tail}")]
    NotReady {
        seconds: u64,
        console: PathBuf,
        tail: String,
    },
    #[error("the previous emulated host is still running: run `microkube machine stop`, then try again")]
    StillRunning,
    #[error("the emulated host does not answer: run `microkube machine stop`, then try again")]
    NoAnswer(#[source] std::io::Error),
    #[error(
        "the emulated host was started by another version of microkube: run `microkube machine stop`, then try again"
    )]
    OtherVersion,
    #[error("the emulated host ended while the command was running")]
    WentAway(#[source] std::io::Error),
    #[error("the emulated host violated the protocol")]
    Protocol(#[from] protocol::ProtocolError),
    #[error("the emulated host cannot run the command: {0}")]
    Refused(String),
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot {0}")]
    System(&'static str, #[source] std::io::Error),
}

pub(crate) type Result<T> = std::result::Result<T, EmulatedHostError>;
