//! `microkube supervise`: the process that `run` starts for a Pod. Not for users.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::failure::Failure;
use crate::pod::{self, Supervisor};
use crate::state::{LockedFile, Paths, PodRecords};

/// Supervises one Pod until it ends.
#[derive(Debug, clap::Args)]
pub struct SuperviseArgs {
    /// UID of the Pod
    #[arg(long)]
    uid: String,
    /// Descriptor of the Pod's lock
    #[arg(long)]
    lock_fd: RawFd,
    /// Descriptor of the socket of the attached client; none for a detached Pod
    #[arg(long)]
    client_fd: Option<RawFd>,
    /// Pass the guest's log on to the client
    #[arg(long)]
    debug: bool,
}

pub(super) fn run(args: SuperviseArgs) -> Result<ExitCode, Failure> {
    let lock = LockedFile::from_inherited(inherit(args.lock_fd)?);
    let client = args.client_fd.map(inherit).transpose()?;
    let paths = Paths::from_env();
    let record = PodRecords::new(paths.clone())
        .get(&args.uid)?
        .context("the Pod has no record")?;
    let is_journal = super::log::of_supervisor(pod::supervisor_log(&paths, &record), &record.uid);
    let supervisor = Supervisor {
        paths,
        record,
        lock,
        client: client.map(Into::into),
        debug: args.debug,
    };
    // One thread: the VMM must die with its supervisor, and the kernel sends the death signal when the thread that
    // started the VMM ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(supervisor.run())
        .inspect_err(|error| log_failure(error, is_journal))?;
    Ok(ExitCode::SUCCESS)
}

/// Adds the error that ends a supervisor to its journal. Without a journal, its log is standard error, where every
/// command reports its error.
fn log_failure(error: &anyhow::Error, is_journal: bool) {
    if is_journal {
        tracing::error!("{error:#}");
    }
}

/// Takes over a descriptor that the parent process left open.
fn inherit(fd: RawFd) -> anyhow::Result<OwnedFd> {
    if fd <= 2 {
        bail!("descriptor {fd} is a standard stream, not an inherited descriptor");
    }
    // SAFETY: fcntl(2) with integer arguments touches no memory; an invalid descriptor gives an error.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("descriptor {fd} is not open"));
    }
    // SAFETY: the call above shows that it is open. This process has only just started, so nothing else in it uses the
    // number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::cli::journal::Journal;

    #[test]
    fn the_error_that_ends_a_supervisor_is_in_its_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        journald.set_nonblocking(true).unwrap();
        let error = anyhow::anyhow!("the disk is full").context("cannot write the status");
        let logged = |is_journal| {
            let journal = Journal::open(&path, Some("uid-1")).unwrap();
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(journal).finish();
            tracing::subscriber::with_default(subscriber, || log_failure(&error, is_journal));
            let mut buffer = [0; 1024];
            assert_eq!(journald.recv(&mut buffer).unwrap(), 0, "the first entry is empty");
            let length = journald.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        let entry = logged(true).unwrap();
        assert!(entry.contains("cannot write the status: the disk is full"), "{entry:?}");
        assert!(entry.contains("uid-1"), "{entry:?}");
        assert_eq!(logged(false), None);
    }
}
