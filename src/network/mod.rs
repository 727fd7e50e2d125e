//! The built-in Pod network: a bridge on the host, a TAP for every Pod, addresses from a directory of leases, masquerading and
//! protection against spoofing in nftables. Everything over netlink and ioctl; no other program is needed or started.
//!
//! What a Pod has on the host, and who releases it: the TAP goes with its last file descriptor; the lease and the TAP's
//! nftables chain go with [`release`], or with the next [`sweep`] if the owner died. The bridge stays.
//!
//! Only `privileged` calls what changes the host. The virtual machine's side (virtio-net, the guest's interface) is not here.

use std::io;
use std::path::Path;

mod cidr;
mod config;
mod error;
mod firewall;
mod lease;
mod link;
mod nftables;
mod pod_files;
mod pod_network;
mod tap;

pub use cidr::{CidrError, Ipv4Cidr, POD_CIDR_VARIABLE};
pub use config::NetworkConfig;
pub use error::NetworkError;
pub use lease::{Lease, LeaseError, is_pod_uid};
pub use pod_files::{HostAlias, host_resolv_conf, pod_etc_hosts, pod_resolv_conf, with_dns_config};
pub use pod_network::PodNetwork;

/// Connects a Pod: leases an address, creates the bridge and its rules if they are missing, creates the TAP and plugs it in.
///
/// `state` is the directory of the leases, shared by all microkube processes. The Pod's own record must exist before, or a concurrent
/// [`sweep`] takes its lease away. On an error nothing of the Pod's is left; the caller ends a success with [`release`].
pub async fn connect(state: &Path, pod_uid: &str, config: &NetworkConfig) -> Result<PodNetwork, NetworkError> {
    let result = try_connect(state, pod_uid, config).await;
    if let Err(error) = &result
        && !error.means_connected_already()
        && let Err(second) = release(state, pod_uid).await
    {
        tracing::warn!("after a failure ({error}) the lease of Pod {pod_uid} could not be returned: {second}");
    }
    result
}

async fn try_connect(state: &Path, pod_uid: &str, config: &NetworkConfig) -> Result<PodNetwork, NetworkError> {
    let links = link::Links::connect()?;
    let bridge_index = links.ensure_bridge(config).await?;
    let network = blocking({
        let (state, pod_uid, config) = (state.to_owned(), pod_uid.to_owned(), config.clone());
        move || lease_and_create_tap(&state, &pod_uid, &config)
    })
    .await?;
    links
        .add_to_bridge(&network.tap_name, bridge_index, network.mtu)
        .await?;
    Ok(network)
}

/// The steps that block for a moment: leases, nftables and the TAP, guarded before it is plugged in.
fn lease_and_create_tap(state: &Path, pod_uid: &str, config: &NetworkConfig) -> Result<PodNetwork, NetworkError> {
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
    let mac = link::mac_of(address);
    let tap = guarded(tap, || firewall::guard_tap(&tap_name, mac, address))?;
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

/// A TAP once it is guarded. One that cannot be is closed, which removes it.
fn guarded<T>(tap: T, guard: impl FnOnce() -> io::Result<()>) -> Result<T, NetworkError> {
    guard().map_err(unguarded)?;
    Ok(tap)
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

/// Releases what a Pod has beyond its TAP's descriptor; having nothing is no error. The virtual machine must be gone: its
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

#[cfg(test)]
mod tests;
