//! Network errors.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use super::cidr::{CidrError, Ipv4Cidr, POD_CIDR_VARIABLE};
use super::lease::LeaseError;

/// Why a Pod could not be connected or disconnected.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The configured Pod network is not valid.
    #[error("the Pod network in {POD_CIDR_VARIABLE} is not usable")]
    Subnet(#[source] CidrError),
    /// Another interface has an address in the Pod network.
    #[error(
        "the Pod network {subnet} overlaps with the host's address {address}/{prefix_length}; choose another one with {POD_CIDR_VARIABLE}"
    )]
    SubnetInUse {
        subnet: Ipv4Cidr,
        address: Ipv4Addr,
        /// Prefix length of the host's network.
        prefix_length: u8,
    },
    /// The bridge has the address of another network.
    #[error(
        "bridge {bridge} has the address {found} instead of {wanted}; unset {POD_CIDR_VARIABLE}, or delete all Pods and then the bridge (`ip link del {bridge}`)"
    )]
    BridgeAddress {
        /// Name of the bridge.
        bridge: String,
        /// Its address.
        found: String,
        /// The configured address.
        wanted: String,
    },
    /// The bridge was deleted while it was in use.
    #[error("bridge {0} disappeared during setup; another program on this host may have deleted it")]
    BridgeGone(String),
    /// The TAP was deleted while it was in use.
    #[error("TAP {0} disappeared during setup; another program on this host may have deleted it")]
    TapGone(String),
    /// The TAP could not be created.
    #[error("cannot create TAP {name}{}", tap_remedy(source))]
    Tap {
        name: String,
        #[source]
        source: io::Error,
    },
    /// nftables refused the rules.
    #[error("cannot set up {what} in nftables; the kernel needs nf_tables, nft_masq and nf_tables_netdev")]
    Firewall {
        /// Which rules were refused.
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// The kernel lacks the hook for the anti-spoofing rules. No Pod is connected without them.
    #[error(
        "this kernel lacks the netdev ingress hook, without which Pods could use each other's addresses, so no Pod can start; boot a kernel with CONFIG_NETFILTER_INGRESS and CONFIG_NF_TABLES_NETDEV (distribution kernels have them)"
    )]
    NoIngressHook(#[source] io::Error),
    /// An address could not be leased or released.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error("cannot {action}")]
    System {
        /// The operation that failed.
        action: String,
        #[source]
        source: io::Error,
    },
}

impl NetworkError {
    /// The file or directory that the error is about, if any.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Lease(error) => error.path(),
            _ => None,
        }
    }

    /// Whether another process holds the Pod's TAP, and with it the Pod's lease.
    pub(super) fn is_already_connected(&self) -> bool {
        matches!(self, Self::Tap { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
    }
}

fn tap_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => ": /dev/net/tun is missing; load the kernel module tun",
        Some(libc::EPERM | libc::EACCES) => ": run microkube as root",
        Some(libc::EBUSY) => ": the Pod's VM is still running",
        _ => "",
    }
}
