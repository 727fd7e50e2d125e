//! Netlink messages with their attributes, and their exchange with the kernel. Independent of their content.

use std::io;
use std::os::fd::AsRawFd;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

// libc declares these as `int`; in a message each takes 16 bits.
pub const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
pub const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
pub const NLM_F_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub const NLM_F_ACK: u16 = libc::NLM_F_ACK as u16;
pub const NLM_F_CREATE: u16 = libc::NLM_F_CREATE as u16;
pub const NLM_F_APPEND: u16 = libc::NLM_F_APPEND as u16;
pub const NLM_F_DUMP: u16 = libc::NLM_F_DUMP as u16;
pub const NLA_F_NESTED: u16 = libc::NLA_F_NESTED as u16;
const NLMSG_HEADER_BYTES: usize = size_of::<libc::nlmsghdr>();

pub fn send(request: &[u8]) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    // The kernel has always answered when `send` returns; the timeout is only a safeguard.
    setsockopt(&BorrowedSocket(&socket), ReceiveTimeout, &TimeVal::seconds(10))?;
    socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
    Ok(socket)
}

/// The next datagram from the kernel. Datagrams from other processes are ignored.
pub fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    loop {
        let (datagram, sender) = socket.recv_from_full()?;
        if sender.port_number() == 0 {
            return Ok(datagram);
        }
    }
}

/// Lets `nix` set options on a `netlink_sys::Socket`, which exposes its descriptor only as a number.
struct BorrowedSocket<'a>(&'a Socket);

impl std::os::fd::AsFd for BorrowedSocket<'_> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: the socket is borrowed as long as the result, so the descriptor stays open.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// A message from the kernel.
pub struct Message<'a> {
    pub kind: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// The errno of an `NLMSG_ERROR`; 0 means success.
    pub fn errno(&self) -> i32 {
        match self.payload {
            [a, b, c, d, ..] => i32::from_ne_bytes([*a, *b, *c, *d]).saturating_neg(),
            _ => libc::EBADMSG,
        }
    }
}

/// The messages in a datagram, up to the first damaged one.
pub fn messages(mut datagram: &[u8]) -> Vec<Message<'_>> {
    let mut messages = Vec::new();
    while let Some(&[a, b, c, d, e, f, _, _, g, h, i, j, ..]) = datagram.get(..NLMSG_HEADER_BYTES) {
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(payload) = datagram.get(NLMSG_HEADER_BYTES..length) else {
            break;
        };
        messages.push(Message {
            kind: u16::from_ne_bytes([e, f]),
            sequence: u32::from_ne_bytes([g, h, i, j]),
            payload,
        });
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

/// The (sequence number, errno) pairs of the acknowledgements in a datagram; errno 0 is success.
pub fn parse_answers(datagram: &[u8]) -> Vec<(u32, i32)> {
    let answers = messages(datagram)
        .into_iter()
        .filter(|message| message.kind == NLMSG_ERROR);
    answers.map(|message| (message.sequence, message.errno())).collect()
}

/// Appends netlink attributes (`struct nlattr`: length, type, value, padding to 4 bytes).
pub struct Attributes<'a> {
    pub bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(&mut Attributes { bytes: self.bytes });
        // A rule takes a few hundred bytes, far below 64 KiB.
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.attribute(kind | NLA_F_NESTED, fill);
    }

    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |attributes| attributes.bytes.extend_from_slice(value));
    }

    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn string(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |attributes| {
            attributes.bytes.extend_from_slice(value.as_bytes());
            attributes.bytes.push(0);
        });
    }
}
