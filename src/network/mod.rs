//! The built-in Pod network: a bridge on the host, a TAP per Pod, addresses from a directory of leases, and nftables
//! rules for masquerading and against spoofing. Everything uses netlink and ioctls; no other program is run.
//!
//! A Pod's resources on the host: its TAP disappears with the last file descriptor; [`release`] removes the lease and
//! the TAP's nftables chain, or the next [`sweep`] does if the owner died. The bridge stays.
//!
//! Only `privileged` calls functions that change the host. The virtual machine's side (virtio-net, the guest's
//! interface) is elsewhere.

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
pub use config::{DEFAULT_POD_CIDR, NetworkConfig};
pub use error::NetworkError;
pub use lease::{Lease, LeaseError, is_pod_uid};
pub use pod_files::{HostAlias, host_resolv_conf, pod_etc_hosts, pod_resolv_conf, with_dns_config};
pub use pod_network::PodNetwork;

/// Connects a Pod: leases an address, creates the bridge and its rules if they are missing, creates the TAP and
/// attaches it to the bridge.
///
/// `state` is the directory of the leases, shared by all microkube processes. The Pod's record must already exist, or a
/// concurrent [`sweep`] releases the lease. After an error, no resource of the Pod remains; after success the caller
/// must call [`release`].
pub async fn connect(state: &Path, pod_uid: &str, config: &NetworkConfig) -> Result<PodNetwork, NetworkError> {
    let result = try_connect(state, pod_uid, config).await;
    if let Err(error) = &result
        && !error.is_already_connected()
        && let Err(second) = release(state, pod_uid).await
    {
        tracing::warn!("cannot return the lease of Pod {pod_uid} after an error ({error}): {second}");
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

/// The steps that block briefly: leases, nftables and the TAP. The TAP is guarded before it is attached.
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

/// Guards a TAP and returns it. If that fails, the TAP is closed, which removes it.
fn guarded<T>(tap: T, guard: impl FnOnce() -> io::Result<()>) -> Result<T, NetworkError> {
    guard().map_err(unguarded)?;
    Ok(tap)
}

/// The error for a Pod that cannot be protected against spoofing, and is therefore not connected.
fn unguarded(source: io::Error) -> NetworkError {
    if firewall::lacks_netdev(&source) {
        return NetworkError::NoIngressHook(source);
    }
    NetworkError::Firewall {
        what: "anti-spoofing rules",
        source,
    }
}

/// Releases a Pod's resources other than its TAP's descriptor; having none is not an error. The virtual machine must
/// have ended: its address may belong to another Pod as soon as this returns.
pub async fn release(state: &Path, pod_uid: &str) -> Result<(), NetworkError> {
    let (state, pod_uid) = (state.to_owned(), pod_uid.to_owned());
    blocking(move || release_now(&state, &pod_uid)).await
}

fn release_now(state: &Path, pod_uid: &str) -> Result<(), NetworkError> {
    lease::check_uid(pod_uid)?;
    // Remove the chain first: once the lease is gone, nothing refers to it.
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

/// Releases what dead Pods left behind; returns their leases.
///
/// `is_live` is called after the leases were read. A Pod's record exists before its lease, so a live Pod is never
/// mistaken for a dead one.
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

/// Name of a Pod's TAP: `mk` and 11 characters of its UID (interface names have at most 15 bytes).
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
