//! The built-in Pod network: a bridge on the host, a TAP for every Pod, addresses from a directory of leases, masquerading and
//! protection against spoofing in nftables. Everything over netlink and ioctl; no other program is needed or started.
//!
//! What a Pod has on the host, and who releases it: the TAP goes with its last file descriptor; the lease and the TAP's
//! nftables chain go with [`release`], or with the next [`sweep`] if the owner died. The bridge stays.
//!
//! The virtual machine's side (virtio-net, the guest's interface) is not here.

use std::env;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

mod cidr;
mod firewall;
mod lease;
mod link;
mod nftables;
mod pod_files;
mod tap;

pub use cidr::{CidrError, Ipv4Cidr};
pub use lease::{Lease, LeaseError};
pub use pod_files::{HostAlias, host_resolv_conf, pod_etc_hosts, pod_resolv_conf, with_dns_config};

/// Environment variable that overrides the Pod network.
pub const POD_CIDR_VARIABLE: &str = "MICROKUBE_POD_CIDR";

/// How Pods are connected on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Name of the bridge, at most 15 bytes.
    pub bridge_name: String,
    /// Addresses of the Pods; the first is the bridge's and the Pods' gateway.
    pub subnet: Ipv4Cidr,
    /// Largest IP packet, bytes.
    pub mtu: u32,
}

impl NetworkConfig {
    /// The configuration of this host: bridge `microkube0`, network 10.88.0.0/16 or `MICROKUBE_POD_CIDR`, MTU of the default route.
    pub fn from_env() -> Result<Self, NetworkError> {
        let subnet = match env::var(POD_CIDR_VARIABLE) {
            Ok(text) => text,
            Err(env::VarError::NotPresent) => "10.88.0.0/16".to_owned(),
            Err(env::VarError::NotUnicode(text)) => text.to_string_lossy().into_owned(),
        };
        let subnet = subnet.parse().map_err(NetworkError::Subnet)?;
        Ok(Self {
            bridge_name: "microkube0".to_owned(),
            subnet,
            mtu: link::default_mtu(),
        })
    }
}

/// A Pod's place in the network.
#[derive(Debug)]
pub struct PodNetwork {
    /// The TAP, non-blocking, with 12-byte virtio headers. It exists as long as one copy of this descriptor does.
    pub tap: OwnedFd,
    /// Its name on the host.
    pub tap_name: String,
    /// MAC address of the guest's interface.
    pub mac: [u8; 6],
    /// The Pod's IP address.
    pub address: Ipv4Addr,
    /// Prefix length of the Pod network.
    pub prefix_length: u8,
    /// The Pod's default gateway, which is the host.
    pub gateway: Ipv4Addr,
    /// MTU of the guest's interface, bytes.
    pub mtu: u32,
}

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
    /// Another process has the Pod's TAP, and with it the Pod's lease.
    fn means_attached_already(&self) -> bool {
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

/// Connects a Pod: leases an address, makes sure of the bridge and its rules, creates the TAP and plugs it in.
///
/// `state` is the directory of the leases, shared by all microkube processes. The Pod's own record must exist before, or a concurrent
/// [`sweep`] takes its lease away. On an error nothing of the Pod's is left; the caller ends a success with [`release`].
pub async fn attach(state: &Path, pod_uid: &str, config: &NetworkConfig) -> Result<PodNetwork, NetworkError> {
    let result = connect(state, pod_uid, config).await;
    if let Err(error) = &result
        && !error.means_attached_already()
        && let Err(second) = release(state, pod_uid).await
    {
        tracing::warn!("after a failure ({error}) the lease of Pod {pod_uid} could not be returned: {second}");
    }
    result
}

async fn connect(state: &Path, pod_uid: &str, config: &NetworkConfig) -> Result<PodNetwork, NetworkError> {
    let links = link::Links::connect()?;
    let bridge_index = links.ensure_bridge(config).await?;
    let network = blocking({
        let (state, pod_uid, config) = (state.to_owned(), pod_uid.to_owned(), config.clone());
        move || prepare(&state, &pod_uid, &config)
    })
    .await?;
    links.attach(&network.tap_name, bridge_index, network.mtu).await?;
    Ok(network)
}

/// The steps that block for a moment: leases, nftables and the TAP, guarded before it is plugged in.
fn prepare(state: &Path, pod_uid: &str, config: &NetworkConfig) -> Result<PodNetwork, NetworkError> {
    let address = lease::LeaseStore::open(state)?.acquire(config.subnet, pod_uid)?;
    link::enable_forwarding()?;
    firewall::ensure_masquerade(config.subnet, &config.bridge_name).map_err(|source| NetworkError::Firewall {
        what: "masquerading",
        source,
    })?;
    let tap_name = tap_name(pod_uid);
    let tap = tap::create(&tap_name).map_err(|source| NetworkError::Tap {
        name: tap_name.clone(),
        source,
    })?;
    let mac = mac_of(address);
    firewall::guard_tap(&tap_name, mac, address).map_err(unguarded)?;
    Ok(PodNetwork {
        tap,
        tap_name,
        mac,
        address,
        prefix_length: config.subnet.prefix_length(),
        gateway: config.subnet.gateway(),
        mtu: config.mtu,
    })
}

/// Why a Pod without protection against spoofing is not connected.
fn unguarded(source: io::Error) -> NetworkError {
    if firewall::lacks_netdev(&source) {
        return NetworkError::NoIngressHook(source);
    }
    NetworkError::Firewall {
        what: "protection against spoofing",
        source,
    }
}

/// Returns what a Pod has beyond its TAP's descriptor. Having nothing is no error. The virtual machine must be gone: its
/// address may belong to another Pod the moment this returns.
pub async fn release(state: &Path, pod_uid: &str) -> Result<(), NetworkError> {
    let (state, pod_uid) = (state.to_owned(), pod_uid.to_owned());
    blocking(move || release_now(&state, &pod_uid)).await
}

fn release_now(state: &Path, pod_uid: &str) -> Result<(), NetworkError> {
    lease::check_uid(pod_uid)?;
    // The chain first: once the lease is gone nothing names it any more.
    firewall::forget_tap(&tap_name(pod_uid)).map_err(|source| NetworkError::Firewall {
        what: "the removal of a Pod's rules",
        source,
    })?;
    if state.exists() {
        lease::LeaseStore::open(state)?.release(pod_uid)?;
    }
    Ok(())
}

/// All leases, for display.
pub fn leases(state: &Path) -> Result<Vec<Lease>, NetworkError> {
    Ok(lease::list(state)?)
}

/// Releases what Pods left that no longer live; returns their leases.
///
/// `is_live` is asked after the leases were read, so that a Pod whose record exists before it attaches is never taken for dead.
pub async fn sweep(state: &Path, mut is_live: impl FnMut(&str) -> bool + Send) -> Result<Vec<Lease>, NetworkError> {
    let dead: Vec<Lease> = leases(state)?
        .into_iter()
        .filter(|lease| !lease.pod_uid.as_deref().is_some_and(&mut is_live))
        .collect();
    for lease in &dead {
        match &lease.pod_uid {
            Some(pod_uid) => release(state, pod_uid).await?,
            None => lease::LeaseStore::open(state)?.remove(lease.address)?,
        }
    }
    Ok(dead)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| NetworkError::System {
            action: "finish a network operation".to_owned(),
            source: io::Error::other(error),
        })?
}

/// Name of a Pod's TAP: `mk` and 11 characters of its uid (interface names have 15 bytes at most).
pub fn tap_name(pod_uid: &str) -> String {
    let hexadecimal = pod_uid
        .chars()
        .filter(char::is_ascii_hexdigit)
        .map(|digit| digit.to_ascii_lowercase());
    std::iter::once('m')
        .chain(std::iter::once('k'))
        .chain(hexadecimal.take(11))
        .collect()
}

/// The MAC address that belongs to an address of the Pod network: locally administered, with the IP address in it, as CNI's bridge
/// plugin makes it.
fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests;
