//! `microkube supervise`: the process that `run` starts for a Pod. Not for people.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::failure::Failure;
use crate::pod::{self, Supervisor};
use crate::state::{LockedFile, Paths, PodRecords};

/// Drives one Pod to its end.
#[derive(Debug, clap::Args)]
pub struct SuperviseArgs {
    /// UID of the Pod
    #[arg(long)]
    uid: String,
    /// Descriptor of the Pod's lock
    #[arg(long)]
    lock_fd: RawFd,
    /// Descriptor of the socket of the attached client; none of a detached Pod
    #[arg(long)]
    client_fd: Option<RawFd>,
    /// Pass the guest's log on to the client
    #[arg(long)]
    debug: bool,
}

/// Runs the verb.
pub(super) fn run(args: SuperviseArgs) -> Result<ExitCode, Failure> {
    let lock = LockedFile::from_inherited(inherit(args.lock_fd)?);
    let client = args.client_fd.map(inherit).transpose()?;
    let paths = Paths::from_env();
    let record = PodRecords::new(paths.clone())
        .get(&args.uid)?
        .context("the Pod has no record")?;
    super::log::to_file(pod::supervisor_log(&paths, &record));
    let supervisor = Supervisor {
        paths,
        record,
        lock,
        client: client.map(Into::into),
        debug: args.debug,
    };
    // One thread: the VMM is to die with its supervisor, which the kernel understands as the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervisor.run())?;
    Ok(ExitCode::SUCCESS)
}

/// Takes over a descriptor that the parent process left open for this one.
fn inherit(fd: RawFd) -> anyhow::Result<OwnedFd> {
    if fd <= 2 {
        bail!("descriptor {fd} is not one that is inherited");
    }
    // SAFETY: fcntl(2) on a number touches no memory; an invalid one gives an error.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("descriptor {fd} is not open"));
    }
    // SAFETY: it is open, as just seen, and this process has only just started: nothing else in it knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
