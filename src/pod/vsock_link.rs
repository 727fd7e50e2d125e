//! The Pod's vsock as the supervisor sees it: stream sockets handed over by the VMM on a control socket
//! (`microkube_vmm::vsock_control`).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use microkube_vmm::vsock_control;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockType, UnixAddr, getsockname, getsockopt, recvmsg, sendmsg,
    sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::guest_text::Complaints;

/// The client's end of the control socket.
#[derive(Debug)]
pub struct VsockLink {
    socket: AsyncFd<OwnedFd>,
    complaints: Complaints,
}

impl VsockLink {
    /// Over a connection to the VMM.
    ///
    /// # Errors
    /// When the descriptor cannot be waited for.
    pub fn over(client: OwnedFd) -> std::io::Result<Self> {
        set_nonblocking(&client)?;
        // SAFETY: an `OwnedFd` gives the same open descriptor as long as it lives, and it lives in the `AsyncFd`.
        let socket = unsafe { AsyncFd::register(client)? };
        Ok(Self {
            socket,
            complaints: Complaints::default(),
        })
    }

    /// For tests: the VMM's end of a connection, and the link over the other.
    #[cfg(test)]
    pub fn pair() -> std::io::Result<(OwnedFd, Self)> {
        use nix::sys::socket::{AddressFamily, SockFlag, socketpair};
        let (vmm, client) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((vmm, Self::over(client)?))
    }

    /// Connects to a port of the guest. The connection is closed at once if nobody listens there.
    ///
    /// # Errors
    /// When the VMM is gone.
    pub async fn dial(&self, port: u32) -> std::io::Result<UnixStream> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let message = vsock_control::encode(vsock_control::CONNECT, port);
        self.socket
            .async_io(Interest::WRITABLE, |fd| {
                let control = [ControlMessage::ScmRights(&[theirs.as_raw_fd()])];
                let slices = [IoSlice::new(&message)];
                Ok(sendmsg::<()>(
                    fd.as_raw_fd(),
                    &slices,
                    &control,
                    MsgFlags::MSG_NOSIGNAL,
                    None,
                )?)
            })
            .await?;
        ours.set_nonblocking(true)?;
        UnixStream::from_std(ours)
    }

    /// The next connection that the guest opens, with the port of the host it asked for; `None` when the VMM is gone.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn accept(&self) -> std::io::Result<Option<(u32, UnixStream)>> {
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, |fd| receive(fd.as_raw_fd()))
                .await?;
            match received {
                Received::Closed => return Ok(None),
                Received::Connection(port, stream) => {
                    stream.set_nonblocking(true)?;
                    return Ok(Some((port, UnixStream::from_std(stream)?)));
                }
                Received::NotUnderstood => self
                    .complaints
                    .say(format_args!("the VMM sent a vsock message that is not understood")),
            }
        }
    }
}

fn set_nonblocking(fd: &OwnedFd) -> std::io::Result<()> {
    let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL)?;
    let flags = nix::fcntl::OFlag::from_bits_retain(flags) | nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(flags))?;
    Ok(())
}

enum Received {
    Closed,
    Connection(u32, std::os::unix::net::UnixStream),
    NotUnderstood,
}

fn receive(socket: RawFd) -> std::io::Result<Received> {
    // One byte more than a message, so that a longer one is noticed.
    let mut data = [0; vsock_control::MESSAGE_BYTES + 1];
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let (length, fds) = {
        let mut slices = [IoSliceMut::new(&mut data)];
        let message = recvmsg::<()>(socket, &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let mut fds = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = part {
                // SAFETY: the kernel has just installed these descriptors for us; nobody else knows them.
                fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        (message.bytes, fds)
    };
    if length == 0 {
        return Ok(Received::Closed);
    }
    let mut fds = fds.into_iter();
    match (vsock_control::decode(&data[..length]), fds.next(), fds.next()) {
        (Some((vsock_control::INCOMING, port)), Some(fd), None) if is_unix_stream(&fd) => {
            Ok(Received::Connection(port, fd.into()))
        }
        _ => Ok(Received::NotUnderstood),
    }
}

/// A VMM that its guest has taken over could pass any descriptor, to have the supervisor read from or write to it.
fn is_unix_stream(fd: &OwnedFd) -> bool {
    // Both fail of what is no socket.
    getsockopt(fd, sockopt::SockType) == Ok(SockType::Stream) && getsockname::<UnixAddr>(fd.as_raw_fd()).is_ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn send(socket: &OwnedFd, message: &[u8], fds: &[RawFd]) {
        let control = [ControlMessage::ScmRights(fds)];
        sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(message)],
            &control,
            MsgFlags::empty(),
            None,
        )
        .unwrap();
    }

    #[tokio::test]
    async fn a_connection_of_the_guest_arrives_with_its_port() {
        let (vmm, link) = VsockLink::pair().unwrap();
        let (mut guest, theirs) = UnixStream::pair().unwrap();
        send(&vmm, &[9, 9], &[]);
        send(
            &vmm,
            &vsock_control::encode(vsock_control::INCOMING, 1025),
            &[theirs.as_raw_fd()],
        );
        drop(theirs);
        let (port, mut stream) = link.accept().await.unwrap().unwrap();
        assert_eq!(port, 1025);
        guest.write_all(b"hello").await.unwrap();
        drop(guest);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn a_descriptor_that_is_no_stream_socket_is_no_connection() {
        let (vmm, link) = VsockLink::pair().unwrap();
        let file = std::fs::File::open("/dev/zero").unwrap();
        let (read, _write) = std::io::pipe().unwrap();
        let datagrams = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let internet = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (_guest, stream) = UnixStream::pair().unwrap();
        let fds = [
            file.as_raw_fd(),
            read.as_raw_fd(),
            datagrams.as_raw_fd(),
            internet.as_raw_fd(),
            stream.as_raw_fd(),
        ];
        for (port, fd) in (1..).zip(fds) {
            send(&vmm, &vsock_control::encode(vsock_control::INCOMING, port), &[fd]);
        }
        let (port, _) = link.accept().await.unwrap().unwrap();
        assert_eq!(port, 5, "only the last one is one");
    }

    #[tokio::test]
    async fn a_port_of_the_guest_is_reached() {
        let (vmm, link) = VsockLink::pair().unwrap();
        let mut ours = link.dial(1024).await.unwrap();
        let mut data = [0; 16];
        let mut control = nix::cmsg_space!([RawFd; 4]);
        let mut slices = [IoSliceMut::new(&mut data)];
        let message = recvmsg::<()>(vmm.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty()).unwrap();
        let Some(ControlMessageOwned::ScmRights(fds)) = message.cmsgs().unwrap().next() else {
            panic!("no descriptor")
        };
        assert_eq!(message.bytes, vsock_control::MESSAGE_BYTES);
        // SAFETY: the kernel has just installed this descriptor for this test.
        let mut theirs = unsafe { std::os::unix::net::UnixStream::from_raw_fd(fds[0]) };
        std::io::Write::write_all(&mut theirs, b"hi").unwrap();
        drop(theirs);
        assert_eq!(vsock_control::decode(&data[..5]), Some((vsock_control::CONNECT, 1024)));
        let mut text = String::new();
        ours.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hi");
    }

    #[tokio::test]
    async fn the_end_of_the_vmm_ends_the_link() {
        let (vmm, link) = VsockLink::pair().unwrap();
        drop(vmm);
        assert!(link.accept().await.unwrap().is_none());
    }
}
