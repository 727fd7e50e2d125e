//! Receives bytes from a socket together with a descriptor that is attached to them (`SCM_RIGHTS`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Reads some bytes without blocking; returns their number, 0 at the end, and the descriptor. If more than one is
/// attached, all are closed.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let descriptor = libc::c_uint::try_from(size_of::<RawFd>()).unwrap_or_default();
    // SAFETY: the macro only calculates.
    let length = unsafe { libc::CMSG_LEN(descriptor) };
    // Aligned as the kernel's header, and longer than it with one descriptor.
    let mut control = [0u64; 4];
    let mut iovec = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: zeros are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iovec;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // The kernel closes what does not fit. The type differs between C libraries.
    message.msg_controllen = length as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message describes `bytes` and `control`, which live through the call.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled the message and its control buffer.
    let descriptor = unsafe { descriptor_of(&message) };
    let is_whole = message.msg_flags & libc::MSG_CTRUNC == 0;
    Ok((count, descriptor.filter(|_| is_whole)))
}

/// The descriptor in the first control message.
///
/// # Safety
///
/// The message must be the result of recvmsg(2), with its control buffer, and the descriptor must not be taken twice.
unsafe fn descriptor_of(message: &libc::msghdr) -> Option<OwnedFd> {
    // SAFETY: the control buffer has the length that the message states; the result is null or lies in it.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
        return None;
    }
    // SAFETY: the kernel writes such a message only with at least one descriptor, which is now ours.
    unsafe {
        let number = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
        Some(OwnedFd::from_raw_fd(number))
    }
}
