//! TAP devices: the host's end of a Pod's network link.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Size of `struct virtio_net_hdr_v1`, which precedes every frame.
const VNET_HEADER_BYTES: libc::c_int = 12;

nix::ioctl_readwrite_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_ptr_bad!(tun_set_vnet_header_size, libc::TUNSETVNETHDRSZ, libc::c_int);

/// Creates the TAP `name` and returns its descriptor, non-blocking. The TAP is not persistent: the kernel removes it
/// with its last descriptor, however its owner ends. Frames carry a 12-byte virtio header.
///
/// Fails with `EBUSY` if another process has a TAP with that name.
pub fn create(name: &str) -> io::Result<OwnedFd> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let tap: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?
        .into();
    // SAFETY: TUNSETIFF takes a pointer to an ifreq; `request` is one, and is alive and writable during the call.
    unsafe { tun_set_iff(tap.as_raw_fd(), &raw mut request) }?;
    // SAFETY: TUNSETVNETHDRSZ reads one int through the pointer, which is valid during the call.
    unsafe { tun_set_vnet_header_size(tap.as_raw_fd(), &VNET_HEADER_BYTES) }?;
    Ok(tap)
}
