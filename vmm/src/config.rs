//! The configuration of one virtual machine, as the supervisor passes it to `microkube-vmm supervised`.
//!
//! In that mode the VMM opens nothing by path: every file is an inherited file descriptor, named here by its number.
//! This allows the jail to remove the file system before the first guest instruction runs.
//!
//! Supervisor and VMM may be different builds: a supervisor that has run since before an upgrade starts the newly
//! installed program. The configuration therefore states the version of this protocol. The VMM uses that version in its
//! events and on the vsock's control socket ([`crate::vsock_control`]), or refuses the configuration: it must not
//! ignore an unknown limit. Every change to this file raises the version.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

/// The protocol version that a supervisor of this build uses. A VMM of this build also supports all earlier versions.
pub const PROTOCOL_VERSION: u32 = 3;

/// Everything the VMM needs to run one virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// The version of the protocol; 0 if the supervisor predates versions.
    #[serde(default)]
    pub version: u32,
    /// Guest RAM in MiB.
    pub mem_size_mib: u32,
    /// Number of virtual CPUs, 1 to [`MAX_VCPU_COUNT`].
    pub vcpu_count: u8,
    /// `/dev/kvm`, opened read-write.
    pub kvm_fd: RawFd,
    /// The guest kernel, an ELF `vmlinux`.
    pub kernel_fd: RawFd,
    pub initramfs_fd: Option<RawFd>,
    /// Kernel command line; the VMM appends the `virtio_mmio.device=` parameters.
    pub cmdline: String,
    /// Block devices, in the order of their names in the guest: `vda`, `vdb`, …
    pub disks: Vec<DiskConfig>,
    /// The Pod's network interface.
    pub net: Option<NetConfig>,
    pub vsock: Option<VsockConfig>,
    /// Directories of the host in the guest. Since version 3.
    #[serde(default)]
    pub fs: Option<FsConfig>,
    /// Where the serial console's output goes.
    pub console_fd: RawFd,
    /// A pipe or socket for [`VmmEvent`]s, one JSON object per line.
    pub event_fd: Option<RawFd>,
    /// The jail that the process enters before it runs the guest. `None` only for diagnosis.
    pub jail: Option<JailConfig>,
    /// Whether the VM keeps running when its supervisor ends, until another one connects to
    /// [`VsockConfig::listener_fd`]. Otherwise the kernel kills it together with its supervisor.
    #[serde(default)]
    pub outlives_supervisor: bool,
}

impl VmConfig {
    /// All descriptors that the configuration names; the process needs no other inherited ones.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        // List every field, so that the compiler reports a new one here.
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
            fs,
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
        named.extend(fs.iter().map(|fs| fs.server_fd));
        named
    }
}

/// Maximum number of virtual CPUs of a VM.
pub const MAX_VCPU_COUNT: u8 = 32;

/// One virtio block device: byte ranges of host files, concatenated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The parts in guest order; the length of each is a multiple of 4096 bytes.
    pub segments: Vec<DiskSegment>,
    pub read_only: bool,
}

/// A host file as one part of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSegment {
    /// The file; opened read-only for a read-only disk.
    pub fd: RawFd,
    /// Bytes of the file that belong to the disk; a multiple of 4096.
    pub length_bytes: u64,
}

/// The virtio network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// An attached TAP (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`).
    pub tap_fd: RawFd,
    /// MAC address of the guest's interface.
    pub mac: [u8; 6],
}

/// The virtio vsock device, and the socket through which its connections reach the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// Context id of the guest, 3 or more. It need not be unique: each VMM has its own vsock space.
    pub guest_cid: u32,
    /// A listening `AF_UNIX` `SOCK_SEQPACKET` socket. The VMM serves one client at a time (the newest wins) and
    /// exchanges [`crate::vsock_control`] messages with it.
    pub listener_fd: RawFd,
    /// A client that is already connected, so that no guest connection can arrive without a client.
    pub client_fd: Option<RawFd>,
}

/// The virtio file system device, with the tag `microkube`. Files are the business of another process, the file server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FsConfig {
    /// A connected `AF_UNIX` `SOCK_STREAM` socket to the file server, which carries FUSE messages. When it reaches its
    /// end, the guest's requests fail and the VM continues.
    pub server_fd: RawFd,
}

/// The identity that the VMM changes to before the guest runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailConfig {
    /// User and group that the process changes to; it keeps no supplementary groups.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
}

/// An event that the VMM reports about its virtual machine: one JSON object per line on [`VmConfig::event_fd`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum VmmEvent {
    /// The virtual CPUs are about to run for the first time.
    Started {
        /// CLOCK_MONOTONIC in nanoseconds.
        monotonic_ns: u64,
    },
    /// The host failed a request to a writable disk; reported once per disk. The VM keeps running, and the guest
    /// handles the error.
    DiskFailed {
        /// The host's error.
        message: String,
    },
    /// The guest reset or powered off its VM; the process then exits with code 0.
    GuestStopped {
        /// Whether it was a triple fault; a healthy guest does not end with one.
        triple_fault: bool,
    },
    /// The VMM failed; the process then exits with code 1.
    Failed {
        /// The error chain.
        message: String,
    },
}
