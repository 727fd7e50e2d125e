//! Why a Pod could not be connected or disconnected.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use super::cidr::{CidrError, Ipv4Cidr, POD_CIDR_VARIABLE};
use super::lease::LeaseError;

/// Why a Pod could not be connected or disconnected.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The configured network is not one.
    #[error("the Pod network in {POD_CIDR_VARIABLE} is not usable")]
    Subnet(#[source] CidrError),
    /// Another interface has the Pods' addresses.
    #[error(
        "the Pod network {subnet} overlaps with the host's address {address}/{prefix_length}; choose another one with {POD_CIDR_VARIABLE}"
    )]
    SubnetInUse {
        /// The Pod network.
        subnet: Ipv4Cidr,
        /// The host's address.
        address: Ipv4Addr,
        /// Prefix length of the host's network.
        prefix_length: u8,
    },
    /// The bridge was set up for another network.
    #[error(
        "bridge {bridge} has the address {found} instead of {wanted}; unset {POD_CIDR_VARIABLE}, or end all Pods and delete the bridge with `ip link del {bridge}`"
    )]
    BridgeAddress {
        /// The bridge.
        bridge: String,
        /// What it has.
        found: String,
        /// What the configuration says.
        wanted: String,
    },
    /// Somebody deleted the bridge under us.
    #[error("bridge {0} vanished while it was set up; something else on this host deletes it")]
    BridgeGone(String),
    /// Somebody deleted the TAP under us.
    #[error("TAP {0} vanished while it was set up; something else on this host deletes it")]
    TapGone(String),
    /// The TAP could not be made.
    #[error("cannot create TAP {name}{}", tap_remedy(source))]
    Tap {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// nftables refused the rules.
    #[error("cannot set up {what} in nftables; the kernel needs nf_tables, nft_masq and nf_tables_netdev")]
    Firewall {
        /// Which rules.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel has no hook for the rules that keep a Pod to its own addresses. No Pod is connected without them.
    #[error(
        "this kernel cannot keep Pods from using each other's addresses, so no Pod is started: it has no netdev ingress hook; boot a kernel that has (CONFIG_NETFILTER_INGRESS and CONFIG_NF_TABLES_NETDEV, as distributions' kernels do)"
    )]
    NoIngressHook(#[source] io::Error),
    /// An address could not be leased or released.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Another operation failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl NetworkError {
    /// The file or directory that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Lease(error) => error.path(),
            _ => None,
        }
    }

    /// Another process has the Pod's TAP, and with it the Pod's lease.
    pub(super) fn means_connected_already(&self) -> bool {
        matches!(self, Self::Tap { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
    }
}

fn tap_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => ": /dev/net/tun is missing, load the module tun",
        Some(libc::EPERM | libc::EACCES) => ": run microkube as root",
        Some(libc::EBUSY) => ": the Pod's virtual machine still runs",
        _ => "",
    }
}
