//! The socket to the supervisor: messages of [`crate::vsock_control`], which carry the ends of socket pairs.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::vsock_control::{BLOCK_BYTES, CONNECT, GROW_DISK, INCOMING, MESSAGE_BYTES, decode, encode};

/// A client's request.
#[derive(Debug)]
pub enum Message {
    /// Connect this socket to a port of the guest.
    Connect {
        port: u32,
        /// The VMM's end.
        socket: OwnedFd,
    },
    /// Append this file to the disk that can grow.
    GrowDisk { file: File, length_bytes: u64 },
    /// An invalid message; ignored.
    Unknown,
}

/// A connected client.
#[derive(Debug)]
pub struct SupervisorSocket(OwnedFd);

impl ScmSocket for SupervisorSocket {
    fn socket_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl SupervisorSocket {
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        set_nonblocking(socket.as_raw_fd())?;
        Ok(Self(socket))
    }

    /// The next message; `None` when the client is gone.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = [0u8; MESSAGE_BYTES + 1];
        let (length, file) = self.recv_with_fd(&mut bytes).map_err(io::Error::from)?;
        if length == 0 {
            return Ok(None);
        }
        let message = bytes.get(..length).and_then(decode);
        Ok(Some(match (message, file) {
            (Some((CONNECT, port)), Some(file)) => {
                let socket = OwnedFd::from(file);
                set_nonblocking(socket.as_raw_fd())?;
                Message::Connect { port, socket }
            }
            (Some((GROW_DISK, blocks)), Some(file)) => Message::GrowDisk {
                file,
                length_bytes: u64::from(blocks).saturating_mul(BLOCK_BYTES),
            },
            _ => Message::Unknown,
        }))
    }

    /// Reports a connection of the guest to `port` to the client and returns our end of it. If this fails, the
    /// connection is refused.
    pub fn offer(&self, port: u32) -> io::Result<OwnedFd> {
        let (ours, theirs) = socket_pair()?;
        let message = encode(INCOMING, port);
        let sent = self
            .send_with_fd(message.as_slice(), theirs.as_raw_fd())
            .map_err(io::Error::from)?;
        if sent == MESSAGE_BYTES {
            Ok(ours)
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }
}

/// Accepts the next client of a listening socket.
pub fn accept(listener: &File) -> io::Result<SupervisorSocket> {
    // SAFETY: accept4 on an open descriptor; no address is asked for.
    let fd = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: accept4 gave us this descriptor.
    SupervisorSocket::new(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl on an open descriptor.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Also limits how many bytes the kernel buffers on their way to the host (twice as many with its bookkeeping).
pub fn limit_send_buffer(socket: &impl AsRawFd, bytes: u32) {
    let size = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let length = libc::socklen_t::try_from(size_of_val(&size)).unwrap_or(0);
    // SAFETY: reads an int. It fails for anything but a socket, which then has no limit here.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUF,
            (&raw const size).cast(),
            length,
        )
    };
}

/// A pair of stream sockets: ours is non-blocking, the client's blocks.
fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: socketpair writes two descriptors.
    if unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    } < 0
    {
        return Err(io::Error::last_os_error());
    }
    let [ours, theirs] = fds;
    // SAFETY: both are new and ours.
    let pair = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    set_nonblocking(ours)?;
    Ok(pair)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A client and the supervisor's end of its socket.
    pub fn client_pair() -> (SupervisorSocket, SupervisorSocket) {
        let mut fds = [-1; 2];
        // SAFETY: as in `socket_pair`.
        let made = unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()) };
        assert_eq!(made, 0);
        // SAFETY: as in `socket_pair`.
        let (one, two) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
        (SupervisorSocket::new(one).unwrap(), SupervisorSocket::new(two).unwrap())
    }

    #[test]
    fn an_offer_passes_the_other_end_of_the_connection() {
        use std::io::{Read, Write};
        let (vmm, supervisor) = client_pair();
        let ours = vmm.offer(1025).unwrap();
        let mut bytes = [0; MESSAGE_BYTES];
        let (length, theirs) = supervisor.recv_with_fd(&mut bytes).unwrap();
        assert_eq!(decode(&bytes[..length]), Some((INCOMING, 1025)));
        File::from(ours).write_all(b"x").unwrap();
        let mut byte = [0];
        theirs.unwrap().read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_message_without_a_descriptor_is_unknown_and_a_closed_client_is_gone() {
        let (vmm, supervisor) = client_pair();
        supervisor.send_with_fds(&[encode(CONNECT, 7).as_slice()], &[]).unwrap();
        assert!(matches!(vmm.receive(), Ok(Some(Message::Unknown))));
        drop(supervisor);
        assert!(matches!(vmm.receive(), Ok(None)));
    }
}
