//! Moves the Pod's interface to the network namespace of a Pod with its own user namespace.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result, bail};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::{Configurator, Interface};

/// Moves the Pod's interface from the namespace of the calling thread to another one.
pub fn hand_over(interface: &Interface, namespace: BorrowedFd<'_>) -> Result<()> {
    /// `struct nlmsghdr`, `struct ifinfomsg` and one attribute, linux/netlink.h and linux/rtnetlink.h.
    #[repr(C)]
    #[derive(Default)]
    struct Request {
        length: u32,
        kind: u16,
        flags: u16,
        sequence: u32,
        port: u32,
        family: u8,
        padding: u8,
        device_type: u16,
        index: i32,
        device_flags: u32,
        change: u32,
        attribute_length: u16,
        attribute_kind: u16,
        namespace: i32,
    }
    const IFLA_NET_NS_FD: u16 = 28;
    let name = Configurator::new()?.find_by_mac(interface.mac)?;
    let index = if_nametoindex(name.as_str()).with_context(|| format!("cannot find {name}"))?;
    let request = Request {
        length: u32::try_from(size_of::<Request>()).context("the request is too long")?,
        kind: libc::RTM_NEWLINK,
        flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
        index: i32::try_from(index).context("the interface has no valid index")?,
        attribute_length: 8,
        attribute_kind: IFLA_NET_NS_FD,
        namespace: namespace.as_raw_fd(),
        ..Request::default()
    };
    let context = || format!("cannot move {name} to the Pod's network namespace");
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
    .with_context(context)?;
    // SAFETY: the structure has no padding, and the slice covers exactly the structure, which outlives it.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const request).cast::<u8>(), size_of::<Request>()) };
    send(socket.as_raw_fd(), bytes, MsgFlags::empty()).with_context(context)?;
    let mut answer = [0_u8; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).with_context(context)?;
    // The error number follows the header (netlink(7)); 0 acknowledges.
    let error = answer
        .get(16..20)
        .filter(|_| length >= 20)
        .and_then(|bytes| bytes.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())).with_context(context),
        None => bail!("{}: the kernel's answer is too short", context()),
    }
}
