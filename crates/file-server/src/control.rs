//! The control socket, through which the supervisor adds shares.
//!
//! Each packet is a JSON document of at most 64 KiB, and is answered with one:
//! `{"addShare":{"name":"data","readOnly":false}}`, with an `O_PATH` descriptor of the directory or regular file attached
//! (`SCM_RIGHTS`), is answered with `{"ok":{}}` or `{"error":{"message":"…"}}`.

use std::error::Error;
use std::io::{IoSliceMut, PipeReader};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send};
use serde::{Deserialize, Serialize};

use crate::share::{ShareError, Shares};

/// Maximum length of a packet.
const MAX_PACKET_BYTES: usize = 64 * 1024;

/// Room for more descriptors than a command has, so that a packet with too many is noticed.
const MAX_DESCRIPTORS: usize = 4;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Command {
    AddShare { name: String, read_only: bool },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Ok {},
    Error { message: String },
}

#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("the command is longer than {MAX_PACKET_BYTES} bytes or has too many descriptors")]
    TooLong,
    #[error("the command cannot be read")]
    Json(#[from] serde_json::Error),
    #[error("the command needs one descriptor, but {0} are attached")]
    Descriptors(usize),
    #[error("cannot examine the descriptor of share {0:?}")]
    Flags(String, #[source] Errno),
    #[error("the descriptor of share {0:?} is not opened with O_PATH")]
    NotPath(String),
    #[error(transparent)]
    Share(#[from] ShareError),
}

/// Why commands can no longer be received.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the control socket")]
pub struct ControlError(#[source] Errno);

/// Serves commands until something can be read from `ended`. A supervisor that closes its end of the socket only has no
/// more commands: the virtual machine may outlive it.
pub fn serve(shares: &Shares, socket: OwnedFd, ended: &PipeReader) -> Result<(), ControlError> {
    serve_commands(shares, socket, ended)?;
    while !is_over(None, ended)? {}
    Ok(())
}

/// Waits for the supervisor, if there is one, or the end. Returns whether it is the end.
fn is_over(supervisor: Option<&OwnedFd>, ended: &PipeReader) -> Result<bool, ControlError> {
    let end = PollFd::new(ended, PollFlags::IN);
    let mut ready = vec![end];
    ready.extend(supervisor.map(|socket| PollFd::new(socket, PollFlags::IN)));
    match poll(&mut ready, None) {
        Ok(_) => Ok(ready.first().is_some_and(|end| !end.revents().is_empty())),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(ControlError(error)),
    }
}

/// Serves commands until the supervisor closes its end of the socket, or the end.
fn serve_commands(shares: &Shares, socket: OwnedFd, ended: &PipeReader) -> Result<(), ControlError> {
    let socket = &socket;
    let mut buffer = vec![0; MAX_PACKET_BYTES];
    loop {
        if is_over(Some(socket), ended)? {
            return Ok(());
        }
        let answer = match receive(socket, &mut buffer) {
            Ok(None) | Err(Errno::CONNRESET) => return Ok(()),
            Ok(Some(packet)) => answer(shares, packet),
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(error) => return Err(ControlError(error)),
        };
        match send(socket, &answer, SendFlags::NOSIGNAL) {
            Ok(_) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
            Err(error) => return Err(ControlError(error)),
        }
    }
}

/// A command and the descriptors attached to it.
struct Packet<'a> {
    bytes: &'a [u8],
    descriptors: Vec<OwnedFd>,
    is_truncated: bool,
}

/// Receives a packet; nothing if the supervisor has closed its end.
fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> Result<Option<Packet<'a>>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(attached) = message {
            descriptors.extend(attached);
        }
    }
    // A packet of no bytes looks like the end of the connection.
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some(Packet {
        bytes: buffer.get(..received.bytes).unwrap_or_default(),
        descriptors,
        is_truncated: received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC),
    }))
}

fn answer(shares: &Shares, packet: Packet<'_>) -> Vec<u8> {
    let answer = match perform(shares, packet) {
        Ok(()) => Answer::Ok {},
        Err(error) => Answer::Error {
            message: with_causes(&error),
        },
    };
    serde_json::to_vec(&answer).unwrap_or_default()
}

fn perform(shares: &Shares, packet: Packet<'_>) -> Result<(), CommandError> {
    if packet.is_truncated {
        return Err(CommandError::TooLong);
    }
    let Command::AddShare { name, read_only } = serde_json::from_slice(packet.bytes)?;
    let [descriptor] = <[OwnedFd; 1]>::try_from(packet.descriptors)
        .map_err(|descriptors| CommandError::Descriptors(descriptors.len()))?;
    let flags = fcntl_getfl(&descriptor).map_err(|source| CommandError::Flags(name.clone(), source))?;
    if !flags.contains(OFlags::PATH) {
        return Err(CommandError::NotPath(name));
    }
    Ok(shares.add(&name, descriptor, read_only)?)
}

/// The error and its causes, outermost first.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::IoSlice;
    use std::os::fd::{AsFd, BorrowedFd};
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SocketFlags, SocketType, recv, sendmsg, socketpair,
    };

    use super::*;
    use crate::protocol::name::Name;

    fn path_descriptor(path: &Path) -> OwnedFd {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_PATH);
        options.open(path).unwrap().into()
    }

    fn request(supervisor: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> String {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors)));
        sendmsg(supervisor, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
        let mut answer = vec![0; 4096];
        let (_, length) = recv(supervisor, answer.as_mut_slice(), RecvFlags::empty()).unwrap();
        answer.truncate(length);
        String::from_utf8(answer).unwrap()
    }

    /// Runs the control socket of a server; returns its shares at the end.
    fn with_server(act: impl FnOnce(&OwnedFd)) -> Shares {
        let shares = Shares::new(false);
        let flags = SocketFlags::CLOEXEC;
        let (supervisor, server) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (ended, writer) = std::io::pipe().unwrap();
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| serve(&shares, server, &ended));
            act(&supervisor);
            drop(supervisor);
            // The supervisor is gone, and the virtual machine ends later.
            drop(writer);
            serving.join().unwrap().unwrap();
        });
        shares
    }

    #[test]
    fn a_share_is_added_by_its_descriptor() {
        let directory = tempfile::tempdir().unwrap();
        let shares = with_server(|supervisor| {
            let descriptor = path_descriptor(directory.path());
            let command = br#"{"addShare":{"name":"data","readOnly":true}}"#;
            assert_eq!(request(supervisor, command, &[descriptor.as_fd()]), r#"{"ok":{}}"#);
            let again = request(supervisor, command, &[descriptor.as_fd()]);
            assert_eq!(again, r#"{"error":{"message":"there is a share \"data\" already"}}"#);
        });
        let share = shares.find(Name::new(c"data").unwrap()).unwrap();
        assert!(share.is_read_only());
    }

    #[test]
    fn wrong_commands_are_answered_and_do_not_end_the_server() {
        let directory = tempfile::tempdir().unwrap();
        let shares = with_server(|supervisor| {
            let descriptor = path_descriptor(directory.path());
            let open = File::open(directory.path()).unwrap();
            let one = [descriptor.as_fd()];
            let valid = br#"{"addShare":{"name":"data","readOnly":true}}"#.as_slice();
            let long = vec![b' '; MAX_PACKET_BYTES + 1];
            let cases = [
                (valid, [].as_slice(), "needs one descriptor"),
                (valid, &[descriptor.as_fd(), descriptor.as_fd()], "needs one descriptor"),
                (valid, &[descriptor.as_fd(); 8], "too many descriptors"),
                (valid, &[open.as_fd()], "not opened with O_PATH"),
                (&long, &one, "longer than"),
                (b"{", &one, "cannot be read"),
                (br#"{"addShare":{"name":"data"}}"#, &one, "cannot be read"),
                (
                    br#"{"addShare":{"name":"data","readOnly":true,"x":1}}"#,
                    &one,
                    "cannot be read",
                ),
                (br#"{"addShare":{"name":"..","readOnly":true}}"#, &one, "not the name"),
            ];
            for (bytes, descriptors, expected) in cases {
                let answer = request(supervisor, bytes, descriptors);
                assert!(answer.contains(expected), "{answer}");
            }
        });
        assert!(shares.all().is_empty());
    }

    #[test]
    fn the_end_of_the_virtual_machine_ends_the_server() {
        let flags = SocketFlags::CLOEXEC;
        let (_supervisor, server) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (ended, writer) = std::io::pipe().unwrap();
        drop(writer);
        serve(&Shares::default(), server, &ended).unwrap();
    }
}
