//! The user namespace of a Pod with `hostUsers: false`. Its root is an ordinary user of the VM, so a process that leaves
//! its container has no rights there. The Pod's network, IPC and UTS namespaces belong to it.
//!
//! Like the kubelet, maps 65,536 users and groups (`pkg/kubelet/userns`).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Pid, Uid, pipe2, setgroups, setresgid, setresuid};

use crate::reaper::Reaper;

/// The user of the VM that is the namespace's root.
pub const FIRST_ID: u32 = 65_536;

/// How many users and groups the namespace has.
const ID_COUNT: u32 = 65_536;

/// A user or group that the namespace does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a container of a Pod with hostUsers: false has only the users and groups 0 to {last}, not {0}", last = ID_COUNT - 1)]
pub struct UnmappedId(u32);

/// The VM's number of a user or group of the namespace.
pub fn mapped(id: u32) -> Result<u32, UnmappedId> {
    match id < ID_COUNT {
        true => Ok(FIRST_ID + id),
        false => Err(UnmappedId(id)),
    }
}

/// A user namespace, and the namespaces that belong to it.
#[derive(Debug)]
pub struct UserNamespace {
    user: OwnedFd,
    network: OwnedFd,
    ipc: OwnedFd,
    uts: OwnedFd,
}

impl UserNamespace {
    /// Creates the namespaces.
    pub fn create(reaper: &Reaper) -> Result<Self> {
        // The namespaces need a process until they are open. It ends when the pipe ends.
        let (held, hold) = pipe2(OFlag::O_CLOEXEC).context("cannot create a pipe")?;
        let (pid, (), _) = reaper
            .spawn(|| Ok((start_holder(held.as_fd(), hold.as_fd())?, ())))
            .context("cannot create the user namespace")?;
        let proc = |file: &str| format!("/proc/{pid}/{file}");
        for file in ["uid_map", "gid_map"] {
            let path = proc(file);
            fs::write(&path, format!("0 {FIRST_ID} {ID_COUNT}")).with_context(|| format!("cannot write {path}"))?;
        }
        let open = |name: &str| -> Result<OwnedFd> {
            let path = proc(&format!("ns/{name}"));
            Ok(File::open(&path).with_context(|| format!("cannot open {path}"))?.into())
        };
        Ok(Self {
            user: open("user")?,
            network: open("net")?,
            ipc: open("ipc")?,
            uts: open("uts")?,
        })
    }

    /// The user namespace.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.user.as_fd()
    }

    /// The network namespace.
    pub fn network(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }

    /// Moves the calling thread, and all processes that it starts from now on, to the network, IPC and UTS namespaces. It
    /// stays in its own user namespace, so it keeps its rights.
    pub fn enter_others(&self) -> Result<()> {
        for (namespace, kind, name) in [
            (&self.network, CloneFlags::CLONE_NEWNET, "network"),
            (&self.ipc, CloneFlags::CLONE_NEWIPC, "IPC"),
            (&self.uts, CloneFlags::CLONE_NEWUTS, "UTS"),
        ] {
            setns(namespace, kind).with_context(|| format!("cannot enter the Pod's {name} namespace"))?;
        }
        Ok(())
    }
}

/// Starts a process in new namespaces that ends when the pipe does.
fn start_holder(held: BorrowedFd<'_>, hold: BorrowedFd<'_>) -> io::Result<Pid> {
    let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: clone_args is plain data for which zero means "not used".
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.flags = namespaces as u64;
    clone.exit_signal = libc::SIGCHLD as u64;
    let (held, hold) = (held.as_raw_fd(), hold.as_raw_fd());
    // SAFETY: without CLONE_VM the child gets a copy of the memory and returns here as after fork. It only makes the
    // system calls below and never returns to the caller.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const clone, size_of::<libc::clone_args>()) };
    if result == 0 {
        // SAFETY: raw system calls; the byte is a local variable, and _exit never returns.
        unsafe {
            let mut byte = 0_u8;
            libc::close(hold);
            libc::read(held, (&raw mut byte).cast(), 1);
            libc::_exit(0);
        }
    }
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(i32::try_from(result).map_err(io::Error::other)?))
}

/// Makes the calling process, which has a single thread, the root of a user namespace.
pub fn become_root(user_namespace: BorrowedFd<'_>) -> Result<()> {
    setns(user_namespace, CloneFlags::CLONE_NEWUSER).context("cannot enter the user namespace")?;
    own_root()
}

/// Takes the IDs of the root of the user namespace that the process has just entered; until then its own are unmapped.
pub fn own_root() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[]).context("cannot leave the supplementary groups")?;
    setresgid(gid, gid, gid).context("cannot become the root group of the user namespace")?;
    setresuid(uid, uid, uid).context("cannot become the root of the user namespace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_as_a_block_and_others_are_refused() {
        assert_eq!(mapped(0), Ok(65_536));
        assert_eq!(mapped(65_535), Ok(131_071));
        assert_eq!(
            mapped(65_536).unwrap_err().to_string(),
            "a container of a Pod with hostUsers: false has only the users and groups 0 to 65535, not 65536"
        );
    }
}
