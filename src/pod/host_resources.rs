//! What a Pod's machine needs of the host beside images: a network and a scratch disk, both made at the same time.

use std::time::Instant;

use super::timings::Stage;
use crate::network::PodNetwork;
use crate::privileged::PodPrivileges;
use crate::state::{Lifetime, PodRecord};

/// A Pod's network and scratch disk.
#[derive(Debug)]
pub struct HostResources {
    /// Its TAP and address.
    pub net: PodNetwork,
    /// Its scratch disk.
    pub scratch: std::fs::File,
    /// How long the network took.
    pub stage: Stage,
}

/// Connects the Pod and makes its scratch disk, or finds both as they were: a Pod whose machine was lost keeps its address and its
/// volumes.
///
/// # Errors
/// When one of the two fails. The other is released with the Pod.
pub async fn acquire(privileges: &PodPrivileges, record: &PodRecord) -> anyhow::Result<HostResources> {
    let start = Instant::now();
    let network = async {
        let net = privileges.connect().await?;
        anyhow::Ok((net, Stage::since("network", start)))
    };
    // A Pod in the foreground ends with its command line, so at the latest with the host.
    let lifetime = match record.detached {
        true => Lifetime::Pod,
        false => Lifetime::Boot,
    };
    // Both are waited for, also when one fails: what is still being made cannot be released.
    let (network, scratch) = tokio::join!(network, privileges.scratch_disk(lifetime));
    let ((net, stage), scratch) = (network?, scratch?);
    Ok(HostResources { net, scratch, stage })
}
