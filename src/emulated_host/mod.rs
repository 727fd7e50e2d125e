//! The emulated host: a whole Linux machine with KVM, emulated in software by QEMU, for machines whose own KVM cannot run guests.
//!
//! The outer machine's files are visible in it under the same paths, so that a command line means the same inside and outside:
//! [`run_inside`] runs one there with this process's arguments, directory, terminal, signals and exit code.
//! `/run` and `/var/lib/microkube` are the machine's own; everything else that a command writes is private to that command and
//! goes away with it.
//!
//! `host` starts and stops it, `client` talks to `inside`, which is the same program running in the machine; `protocol` is what
//! they say. Nothing here knows of Pods.

mod client;
mod connection;
mod control;
mod host;
mod inside;
mod location;
mod protocol;
mod qemu;

pub use client::{ExecRequest, exec, run_inside};
pub use host::{Status, check, start, status, stop};
pub use inside::{agent, init, session};

use std::path::PathBuf;

/// Exit code when the emulated host itself failed, so that no exit code of the command is imitated.
pub const EXIT_MACHINE_FAILED: u8 = 125;

/// Set in the environment of every command that runs in the emulated host.
pub const ENV_INSIDE: &str = "MICROKUBE_EMULATED_HOST";

/// Directory that exists in the emulated host only.
pub(crate) const INSIDE_DIR: &str = "/run/microkube-machine";

/// Whether this process runs in the emulated host.
pub fn is_inside() -> bool {
    std::path::Path::new(INSIDE_DIR).is_dir()
}

/// What can go wrong with the emulated host.
#[derive(Debug, thiserror::Error)]
pub enum EmulatedHostError {
    #[error("the emulated host needs QEMU, which is not installed (apt-get install qemu-system-x86)")]
    NoQemu,
    #[error(
        "the emulated host's files (vmlinuz, initramfs.cpio, modules) were not found in {searched} (build them: make build)"
    )]
    NoArtefacts { searched: String },
    #[error("making the state disk {path} failed: {reason}")]
    Disk { path: PathBuf, reason: String },
    #[error("the emulated host stopped while starting; the end of its console ({console}):\n{tail}")]
    DiedStarting { console: PathBuf, tail: String },
    #[error("the emulated host was not ready after {seconds} s; the end of its console ({console}):\n{tail}")]
    NotReady {
        seconds: u64,
        console: PathBuf,
        tail: String,
    },
    #[error("the emulated host is not running (microkube machine start)")]
    NotRunning,
    #[error("the emulated host does not answer (microkube machine stop, then try again)")]
    NoAnswer(#[source] std::io::Error),
    #[error("the emulated host was started by another version of microkube (microkube machine stop, then try again)")]
    OtherVersion,
    #[error("the emulated host went away while the command was running")]
    WentAway(#[source] std::io::Error),
    #[error("the emulated host broke its protocol")]
    Protocol(#[from] protocol::ProtocolError),
    #[error("the emulated host cannot run the command: {0}")]
    Refused(String),
    #[error("{action} {path} failed")]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0} failed")]
    System(&'static str, #[source] std::io::Error),
}

pub(crate) type Result<T> = std::result::Result<T, EmulatedHostError>;
