//! The descriptors that the process starts with, and how many it may have.

use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::Errno;
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::{ConfinementError, Step};

/// Maximum number of descriptors (the kernel's default for `fs.nr_open`). A supervisor that leaves a lower limit bounds
/// how many inodes a guest can hold.
const MAX_DESCRIPTORS: u64 = 1 << 20;

/// With fewer, a guest could hardly use its shares.
const MIN_DESCRIPTORS: u64 = 4096;

/// Checks that the two descriptors are sockets of the right types.
pub fn check_sockets(stream: RawFd, packets: RawFd) -> Result<(), ConfinementError> {
    for (number, expected) in [(stream, SocketType::STREAM), (packets, SocketType::SEQPACKET)] {
        // SAFETY: only looks at the descriptor, which fails if it is not open.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let is_expected =
            socket_domain(descriptor) == Ok(AddressFamily::UNIX) && socket_type(descriptor) == Ok(expected);
        if !is_expected {
            return Err(ConfinementError::Socket(number));
        }
    }
    Ok(())
}

/// Closes all descriptors with higher numbers.
pub(super) fn close_after(last: RawFd) -> Result<(), ConfinementError> {
    // SAFETY: close_range(2) takes integers. Nothing in this process uses these descriptors: it has opened none.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, last + 1, libc::c_uint::MAX, 0) };
    let result = if closed < 0 {
        let error = std::io::Error::last_os_error();
        Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    } else {
        Ok(())
    };
    result.step("close inherited descriptors (close_range(2) needs Linux 5.9 or newer)")
}

/// Limits the number of descriptors, and forbids core dumps, which would contain files. Returns the number.
pub(super) fn limit() -> Result<usize, ConfinementError> {
    let fixed = |value| Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    setrlimit(Resource::Core, fixed(0)).step("forbid core dumps")?;
    let allowed = getrlimit(Resource::Nofile).maximum.unwrap_or(MAX_DESCRIPTORS);
    let limit = allowed.min(MAX_DESCRIPTORS);
    if limit < MIN_DESCRIPTORS {
        return Err(ConfinementError::Descriptors(limit));
    }
    setrlimit(Resource::Nofile, fixed(limit)).step("limit the number of descriptors")?;
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use rustix::net::{SocketFlags, socketpair};

    use super::*;

    #[test]
    fn only_the_sockets_of_a_supervisor_are_accepted() {
        let (stream, _) = UnixStream::pair().unwrap();
        let (datagrams, _) = UnixDatagram::pair().unwrap();
        let packets = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (packets, _) = packets.unwrap();
        let file = tempfile::tempfile().unwrap();
        let (stream, packets) = (stream.as_raw_fd(), packets.as_raw_fd());
        assert!(check_sockets(stream, packets).is_ok());
        for (stream, packets) in [
            (packets, stream),
            (stream, datagrams.as_raw_fd()),
            (file.as_raw_fd(), packets),
            (stream, 1 << 20),
        ] {
            assert!(check_sockets(stream, packets).is_err());
        }
    }
}
