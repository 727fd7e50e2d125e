//! The configuration of one virtual machine, as the supervisor hands it to `microkube-vmm supervised`.
//!
//! The VMM opens nothing by path in that mode: every file is a file descriptor it inherits, named here by its number. That
//! is what lets the jail take the file system away before the first guest instruction runs.
//!
//! Supervisor and VMM may be of different builds: a supervisor that has run since before an upgrade starts the program that is installed now. So
//! the configuration says in which version of this protocol it is. The VMM speaks that version, in its events and on the vsock's control socket
//! ([`crate::vsock_control`]), or refuses the configuration: what bounds a machine must not be overlooked. Every change here raises the version.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

/// The version of this protocol that a supervisor of this build speaks. A VMM of this build speaks it, and those before it.
pub const PROTOCOL_VERSION: u32 = 1;

/// Everything the VMM needs to know to run one virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// The version of the protocol; 0 is that of supervisors that say none.
    #[serde(default)]
    pub version: u32,
    /// Guest RAM, MiB.
    pub mem_size_mib: u32,
    /// Number of virtual CPUs, 1 to [`MAX_VCPU_COUNT`].
    pub vcpu_count: u8,
    /// `/dev/kvm`, opened read-write.
    pub kvm_fd: RawFd,
    /// The guest kernel, an ELF `vmlinux`.
    pub kernel_fd: RawFd,
    /// The initial RAM file system.
    pub initramfs_fd: Option<RawFd>,
    /// Kernel command line; the VMM appends the `virtio_mmio.device=` parameters.
    pub cmdline: String,
    /// Block devices in the order in which the guest names them `vda`, `vdb`, …
    pub disks: Vec<DiskConfig>,
    /// The Pod's network interface.
    pub net: Option<NetConfig>,
    /// The vsock device.
    pub vsock: Option<VsockConfig>,
    /// Where the serial console's output goes.
    pub console_fd: RawFd,
    /// A pipe or socket on which the VMM reports [`VmmEvent`]s, one JSON object a line.
    pub event_fd: Option<RawFd>,
    /// What the process gives up before it runs the guest. `None` only for diagnosis.
    pub jail: Option<JailConfig>,
    /// Whether the machine goes on when its supervisor has ended, until another connects to [`VsockConfig::listener_fd`]. Otherwise
    /// the kernel kills it with the supervisor.
    #[serde(default)]
    pub outlives_supervisor: bool,
}

impl VmConfig {
    /// All descriptors that it names: what the process needs of those it inherited.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        // Field by field, so that a new one is not forgotten here.
        let Self {
            version: _,
            mem_size_mib: _,
            vcpu_count: _,
            kvm_fd,
            kernel_fd,
            initramfs_fd,
            cmdline: _,
            disks,
            net,
            vsock,
            console_fd,
            event_fd,
            jail: _,
            outlives_supervisor: _,
        } = self;
        let mut named = vec![*kvm_fd, *kernel_fd, *console_fd];
        named.extend(initramfs_fd.iter().chain(event_fd));
        named.extend(disks.iter().flat_map(|disk| &disk.segments).map(|segment| segment.fd));
        named.extend(net.iter().map(|net| net.tap_fd));
        if let Some(vsock) = vsock {
            named.push(vsock.listener_fd);
            named.extend(vsock.client_fd);
        }
        named
    }
}

/// Largest number of virtual CPUs of a VM.
pub const MAX_VCPU_COUNT: u8 = 32;

/// One virtio block device, the concatenation of byte ranges of host files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The parts in guest order; each is a whole number of 4096-byte blocks.
    pub segments: Vec<DiskSegment>,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A whole host file as a part of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSegment {
    /// The file; opened read-only for a read-only disk.
    pub fd: RawFd,
    /// Bytes of the file that belong to the disk, a multiple of 4096.
    pub length_bytes: u64,
}

/// The virtio network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// An attached TAP (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`).
    pub tap_fd: RawFd,
    /// MAC address of the guest's side.
    pub mac: [u8; 6],
}

/// The virtio vsock device and the socket on which its connections appear on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// Context id of the guest, 3 or more. Any number does: each VMM has its own vsock space.
    pub guest_cid: u32,
    /// A listening `AF_UNIX` `SOCK_SEQPACKET` socket. The VMM serves one client at a time (the newest wins) and exchanges
    /// [`crate::vsock_control`] messages with it.
    pub listener_fd: RawFd,
    /// A client that is connected already, so that no connection of the guest can come too early.
    pub client_fd: Option<RawFd>,
}

/// What the VMM gives up before the guest runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailConfig {
    /// User and group the process changes to, without further groups.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
}

/// What the VMM reports of its virtual machine, one JSON object a line on [`VmConfig::event_fd`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum VmmEvent {
    /// The virtual CPUs are about to run for the first time.
    Started {
        /// CLOCK_MONOTONIC, nanoseconds.
        monotonic_ns: u64,
    },
    /// The host failed a request of a writable disk; once a disk. The machine goes on, and what its guest makes of it is the guest's.
    DiskFailed {
        /// What the host said.
        message: String,
    },
    /// The guest reset or powered off its machine; the process exits with code 0 next.
    GuestStopped {
        /// It was a triple fault, which a healthy guest does not end with.
        triple_fault: bool,
    },
    /// The VMM gave up; the process exits with code 1 next.
    Failed {
        /// The error chain.
        message: String,
    },
}
