//! The network parameters of a connected Pod.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

#[derive(Debug)]
pub struct PodNetwork {
    /// The TAP, non-blocking, with 12-byte virtio headers. It exists as long as any copy of this descriptor.
    pub tap: OwnedFd,
    /// The TAP's name on the host.
    pub tap_name: String,
    /// MAC address of the guest's interface.
    pub mac: [u8; 6],
    /// The Pod's IP address.
    pub address: Ipv4Addr,
    /// Prefix length of the Pod network.
    pub prefix_length: u8,
    /// The Pod's default gateway: the host.
    pub gateway: Ipv4Addr,
    /// MTU of the guest's interface, in bytes.
    pub mtu: u32,
}
