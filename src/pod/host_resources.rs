//! The host resources of a Pod's VM besides images: a network and a scratch disk, created concurrently.

use std::time::Instant;

use super::timings::Stage;
use crate::network::PodNetwork;
use crate::privileged::PodPrivileges;
use crate::state::{Lifetime, PodRecord};

/// A Pod's network and scratch disk.
#[derive(Debug)]
pub struct HostResources {
    pub net: PodNetwork,
    pub scratch: std::fs::File,
    /// How long creating the network took.
    pub stage: Stage,
}

/// Connects the Pod to the network and creates its scratch disk, or finds existing ones: a Pod whose VM was lost
/// keeps its address and its volumes.
///
/// # Errors
/// If one of the two fails. The other is released with the Pod.
pub async fn acquire(privileges: &PodPrivileges, record: &PodRecord) -> anyhow::Result<HostResources> {
    let start = Instant::now();
    let network = async {
        let net = privileges.connect().await?;
        anyhow::Ok((net, Stage::since("network", start)))
    };
    // A foreground Pod ends with its command line, so it cannot outlive a host restart.
    let lifetime = match record.detached {
        true => Lifetime::Pod,
        false => Lifetime::Boot,
    };
    // Wait for both even if one fails: a resource that is still being created cannot be released.
    let (network, scratch) = tokio::join!(network, privileges.scratch_disk(lifetime));
    let ((net, stage), scratch) = (network?, scratch?);
    Ok(HostResources { net, scratch, stage })
}
