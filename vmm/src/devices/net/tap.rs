//! The host side of the network device: a TAP.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use virtio_bindings::virtio_net::virtio_net_hdr_v1;

/// Bytes of the header that precedes every frame, on the TAP and in the queues.
pub const VNET_HEADER_BYTES: usize = size_of::<virtio_net_hdr_v1>();

/// Why a TAP cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error("{0:?} is not an interface name: it must have 1 to 15 bytes without NUL")]
    Name(String),
    #[error("cannot {what}")]
    Step {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

/// An attached TAP.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Attaches to the TAP `name` and creates it if it does not exist. For diagnosis only: a
    /// supervisor passes an attached TAP.
    pub fn attach(name: &str) -> Result<Self, TapError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.bytes().any(|byte| byte == 0) {
            return Err(TapError::Name(name.to_owned()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(|source| TapError::Step {
                what: "open /dev/net/tun",
                source,
            })?;
        // SAFETY: zeros are a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).expect("the flags are bits of a short");
        // SAFETY: the ioctl reads and writes an ifreq.
        let attached = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        check(attached, "attach to the TAP (TUNSETIFF)")?;
        Self::new(file)
    }

    /// Takes over an attached TAP: sets its header size and turns offloads off.
    pub fn new(file: File) -> Result<Self, TapError> {
        set_nonblocking(&file).map_err(|source| TapError::Step {
            what: "make the TAP non-blocking",
            source,
        })?;
        let size = libc::c_int::try_from(VNET_HEADER_BYTES).expect("a header is small");
        // SAFETY: the ioctl reads an int.
        let sized = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
        check(sized, "set the TAP's header size")?;
        let tap = Self(file);
        tap.set_offloads(false, false, false)?;
        Ok(tap)
    }

    /// A socket whose packets are frames.
    #[cfg(test)]
    pub(super) fn of_socket(socket: File) -> Self {
        set_nonblocking(&socket).unwrap();
        Self(socket)
    }

    /// Sets which frames may be passed to the guest: without checksum, unsegmented TCP over IPv4,
    /// unsegmented TCP over IPv6.
    pub fn set_offloads(&self, checksum: bool, tso4: bool, tso6: bool) -> Result<(), TapError> {
        let mut flags: libc::c_uint = 0;
        for (wanted, flag) in [
            (checksum, libc::TUN_F_CSUM),
            (checksum && tso4, libc::TUN_F_TSO4),
            (checksum && tso6, libc::TUN_F_TSO6),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        // SAFETY: the ioctl takes flags, no pointer.
        check(
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) },
            "set the TAP's offloads",
        )
    }

    #[must_use]
    pub fn file(&self) -> &File {
        &self.0
    }
}

fn check(returned: libc::c_int, what: &'static str) -> Result<(), TapError> {
    if returned < 0 {
        Err(TapError::Step {
            what,
            source: io::Error::last_os_error(),
        })
    } else {
        Ok(())
    }
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    // SAFETY: fcntl on an open descriptor.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
