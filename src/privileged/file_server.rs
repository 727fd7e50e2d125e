//! The file server of a Pod: one process, which the VMM passes the guest's FUSE messages to. It confines itself before it
//! reads the first one, and ends with the VMM, when its socket does.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::Stdio;

use microkube_base::child;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, setsockopt, socketpair, sockopt,
};
use serde::Deserialize;
use serde_json::json;
use tokio::process::Command;

use super::artifacts::{self, ArtifactError};

/// Where the file server has its sockets: to the VMM, and to the process that starts it.
const VMM_SOCKET: RawFd = 3;
const CONTROL_SOCKET: RawFd = 4;

/// Descriptors at or above this number are not overwritten while those of the server are put in their places.
const FIRST_SAFE_FD: RawFd = 16;

/// Room for the largest messages, so that each needs few system calls.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;

/// Limits of descriptors that a server may have. Each inode that the guest remembers takes one, and about 1 KiB of the
/// guest's memory; an honest guest with less memory than this forgets inodes in time.
const DESCRIPTORS: std::ops::RangeInclusive<u64> = 16_384..=1_048_576;

/// Maximum length of an answer.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// A directory or file of the host that the Pod gets.
#[derive(Debug)]
pub struct Share {
    /// The name of its volume.
    pub name: String,
    pub read_only: bool,
    /// A mount that is attached nowhere (`O_PATH`).
    pub root: OwnedFd,
}

/// The file server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum FileServerError {
    /// The program is missing.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error("cannot {action}")]
    System {
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// It ended before it accepted a share; its log has the reason.
    #[error("the Pod's file server ended early")]
    Ended,
    #[error("the Pod's file server refused the volume {volume:?}: {message}")]
    Refused { volume: String, message: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Answer {
    Ok {},
    Error { message: String },
}

fn system<E: Into<std::io::Error>>(action: &'static str) -> impl FnOnce(E) -> FileServerError {
    move |source| FileServerError::System {
        action,
        source: source.into(),
    }
}

/// The error of a start whose thread ended early.
pub fn ended(error: tokio::task::JoinError) -> FileServerError {
    system("start the Pod's file server")(error)
}

/// Starts the file server of a VM with this memory, with these shares. With `maps_users`, the guest can mount them for a
/// user namespace. Returns the socket for the VMM. Blocks until the server has confined itself and accepted the shares.
///
/// # Errors
/// See [`FileServerError`]. The server ends.
pub fn start(shares: Vec<Share>, maps_users: bool, mem_size_mib: u32) -> Result<OwnedFd, FileServerError> {
    let program = artifacts::file_server_binary()?;
    let sockets =
        |kind| socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).map_err(system("create a socket"));
    let (vmm, server) = sockets(SockType::Stream)?;
    let (control, server_control) = sockets(SockType::SeqPacket)?;
    for socket in [&vmm, &server] {
        // The limit of the host applies to other users than root; smaller buffers work as well.
        let _ = setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES);
    }
    let mut command = Command::new(program);
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // The log of the supervisor.
        .stderr(Stdio::inherit());
    if maps_users {
        command.arg("--map-users");
    }
    let places = [(safe(&server)?, VMM_SOCKET), (safe(&server_control)?, CONTROL_SOCKET)];
    let numbers = places.each_ref().map(|(from, to)| (from.as_raw_fd(), *to));
    let descriptors = descriptor_limit(mem_size_mib);
    // SAFETY: between fork and exec the closure only calls setrlimit(2) and dup2(2), which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // Fails if the host allows fewer (fs.nr_open); the limit of this process then applies.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors);
            for (from, to) in numbers {
                Errno::result(libc::dup2(from, to))?;
            }
            Ok(())
        });
    }
    child::pass_on(command.as_std_mut(), &[VMM_SOCKET, CONTROL_SOCKET]);
    let mut child = command.spawn().map_err(system("start microkube-file-server"))?;
    drop((places, server, server_control));
    tokio::spawn(async move { child.wait().await });
    for share in shares {
        add(&control, share)?;
    }
    Ok(vmm)
}

/// How many descriptors the server of a VM with this memory may have.
fn descriptor_limit(mem_size_mib: u32) -> u64 {
    let inodes = u64::from(mem_size_mib).saturating_mul(1024);
    inodes.clamp(*DESCRIPTORS.start(), *DESCRIPTORS.end())
}

fn safe(socket: &OwnedFd) -> Result<OwnedFd, FileServerError> {
    let copy = fcntl(socket, FcntlArg::F_DUPFD_CLOEXEC(FIRST_SAFE_FD)).map_err(system("copy a descriptor"))?;
    // SAFETY: fcntl has just created this descriptor, and nothing else owns it.
    Ok(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(copy) })
}

fn add(control: &OwnedFd, share: Share) -> Result<(), FileServerError> {
    let command = json!({ "addShare": { "name": share.name, "readOnly": share.read_only } }).to_string();
    let descriptors = [share.root.as_raw_fd()];
    let attached = [ControlMessage::ScmRights(&descriptors)];
    let sent = sendmsg::<()>(
        control.as_raw_fd(),
        &[IoSlice::new(command.as_bytes())],
        &attached,
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    match sent {
        Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(FileServerError::Ended),
        sent => sent.map_err(system("send a share to the file server"))?,
    };
    let mut answer = vec![0; MAX_ANSWER_BYTES];
    let mut slices = [IoSliceMut::new(&mut answer)];
    let length = match recvmsg::<()>(control.as_raw_fd(), &mut slices, None, MsgFlags::empty()) {
        Err(Errno::ECONNRESET) => 0,
        received => received.map_err(system("receive an answer of the file server"))?.bytes,
    };
    if length == 0 {
        return Err(FileServerError::Ended);
    }
    let refused = |message| FileServerError::Refused {
        volume: share.name.clone(),
        message,
    };
    match serde_json::from_slice(answer.get(..length).unwrap_or_default()) {
        Ok(Answer::Ok {}) => Ok(()),
        Ok(Answer::Error { message }) => Err(refused(message)),
        Err(error) => Err(refused(format!("its answer cannot be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::OpenOptionsExt;
    use std::thread;

    use nix::sys::socket::{recv, send};

    use super::*;

    fn share(name: &str) -> Share {
        let root = File::options().read(true).custom_flags(libc::O_PATH).open("/").unwrap();
        Share {
            name: name.to_owned(),
            read_only: true,
            root: root.into(),
        }
    }

    /// What adding a share returns if the server answers so; `None` if it ends instead.
    fn added(answer: Option<&'static str>) -> Result<(), String> {
        let (control, server) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let server = thread::spawn(move || {
            let mut command = [0; 1024];
            let length = recv(server.as_raw_fd(), &mut command, MsgFlags::empty()).unwrap();
            if let Some(answer) = answer {
                send(server.as_raw_fd(), answer.as_bytes(), MsgFlags::empty()).unwrap();
            }
            String::from_utf8(command[..length].to_vec()).unwrap()
        });
        let added = add(&control, share("data"));
        assert_eq!(
            server.join().unwrap(),
            r#"{"addShare":{"name":"data","readOnly":true}}"#
        );
        added.map_err(|error| error.to_string())
    }

    #[test]
    fn the_guest_finds_the_device_by_the_vmms_tag() {
        assert_eq!(microkube_protocol::SHARES_TAG, microkube_vmm::devices::fs::device::TAG);
    }

    #[test]
    fn a_server_may_have_as_many_descriptors_as_its_guest_can_remember_inodes() {
        assert_eq!(descriptor_limit(0), 16_384);
        assert_eq!(descriptor_limit(256), 262_144);
        assert_eq!(descriptor_limit(u32::MAX), 1_048_576);
    }

    #[test]
    fn a_share_is_added_refused_or_lost_with_the_server() {
        assert_eq!(added(Some(r#"{"ok":{}}"#)), Ok(()));
        assert_eq!(
            added(Some(r#"{"error":{"message":"no"}}"#)).unwrap_err(),
            "the Pod's file server refused the volume \"data\": no"
        );
        assert!(added(Some("x")).unwrap_err().contains("its answer cannot be read"));
        assert_eq!(added(None).unwrap_err(), "the Pod's file server ended early");
    }
}
