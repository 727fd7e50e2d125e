//! The Pod's vsock from the supervisor's side: stream sockets that the VMM hands over on a control socket
//! (`microkube_vmm::vsock_control`).

use std::fs::File;
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
    /// Wraps a connection to the VMM.
    ///
    /// # Errors
    /// If the descriptor cannot be polled.
    pub fn over(client: OwnedFd) -> std::io::Result<Self> {
        set_nonblocking(&client)?;
        // SAFETY: an `OwnedFd` refers to the same open file while it lives, and the `AsyncFd` owns it.
        let socket = unsafe { AsyncFd::register(client)? };
        Ok(Self {
            socket,
            complaints: Complaints::default(),
        })
    }

    /// For tests: the VMM's end of a connection, and the link on the other end.
    #[cfg(test)]
    pub fn pair() -> std::io::Result<(OwnedFd, Self)> {
        use nix::sys::socket::{AddressFamily, SockFlag, socketpair};
        let (vmm, client) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((vmm, Self::over(client)?))
    }

    /// Connects to a port of the guest. If the guest does not listen there, the connection is closed immediately.
    ///
    /// # Errors
    /// If the VMM is gone.
    pub async fn dial(&self, port: u32) -> std::io::Result<UnixStream> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        self.send(vsock_control::CONNECT, port, theirs.as_raw_fd()).await?;
        ours.set_nonblocking(true)?;
        UnixStream::from_std(ours)
    }

    /// Appends the first `length_bytes` of a file to the layers disk. The guest sees the larger disk soon afterwards.
    /// The VMM must use at least [`vsock_control::GROW_DISK_VERSION`].
    ///
    /// # Errors
    /// If the length is not a positive multiple of a block, or the VMM is gone.
    pub async fn grow_disk(&self, file: &File, length_bytes: u64) -> std::io::Result<()> {
        let blocks = length_bytes / vsock_control::BLOCK_BYTES;
        let blocks = u32::try_from(blocks).ok().filter(|blocks| *blocks > 0);
        let blocks = blocks.filter(|_| length_bytes.is_multiple_of(vsock_control::BLOCK_BYTES));
        let blocks = blocks.ok_or(std::io::ErrorKind::InvalidInput)?;
        self.send(vsock_control::GROW_DISK, blocks, file.as_raw_fd()).await
    }

    async fn send(&self, kind: u8, number: u32, descriptor: RawFd) -> std::io::Result<()> {
        let message = vsock_control::encode(kind, number);
        self.socket
            .async_io(Interest::WRITABLE, |fd| {
                let control = [ControlMessage::ScmRights(&[descriptor])];
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
        Ok(())
    }

    /// The next connection that the guest opens, with the host port it asked for; `None` when the VMM is gone.
    ///
    /// # Errors
    /// If the socket fails.
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
                    .say(format_args!("the VMM sent an invalid vsock message")),
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
    // One byte more than a message, to detect a longer one.
    let mut data = [0; vsock_control::MESSAGE_BYTES + 1];
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let (length, fds) = {
        let mut slices = [IoSliceMut::new(&mut data)];
        let message = recvmsg::<()>(socket, &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let mut fds = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = part {
                // SAFETY: the kernel has just installed these descriptors for this process, and nothing else uses them.
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

/// Checks the descriptor's type: a VMM controlled by its guest could pass any descriptor to make the supervisor read or
/// write it.
fn is_unix_stream(fd: &OwnedFd) -> bool {
    // Both calls fail for anything but a socket.
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
    async fn a_connection_from_the_guest_arrives_with_its_port() {
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
    async fn a_descriptor_that_is_not_a_stream_socket_is_refused() {
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
        assert_eq!(port, 5, "only the last one is a stream socket");
    }

    #[tokio::test]
    async fn a_guest_port_can_be_connected_to() {
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
    async fn a_file_is_passed_on_with_its_length_in_blocks() {
        let (vmm, link) = VsockLink::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        for length in [0, 1, 4097, !4095] {
            assert!(link.grow_disk(&file, length).await.is_err(), "{length}");
        }
        link.grow_disk(&file, 8192).await.unwrap();
        let mut data = [0; 16];
        let mut control = nix::cmsg_space!([RawFd; 4]);
        let mut slices = [IoSliceMut::new(&mut data)];
        let message = recvmsg::<()>(vmm.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty()).unwrap();
        let descriptors = message.cmsgs().unwrap().count();
        assert_eq!((message.bytes, descriptors), (vsock_control::MESSAGE_BYTES, 1));
        assert_eq!(vsock_control::decode(&data[..5]), Some((vsock_control::GROW_DISK, 2)));
    }

    #[tokio::test]
    async fn the_link_ends_with_the_vmm() {
        let (vmm, link) = VsockLink::pair().unwrap();
        drop(vmm);
        assert!(link.accept().await.unwrap().is_none());
    }
}
