//! A Pod's volumes that are files or directories of the host. `privileged` opens them; a file server shows them to the
//! guest.

use std::path::Path;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod};
use microkube_base::causes::with_causes;

use super::projected_volumes::FailedVolume;
use crate::privileged::{PodPrivileges, Share};
use crate::volume::HostPathType;

/// The hostPath volumes of a Pod: their names and sources.
fn host_paths(pod: &Pod) -> impl Iterator<Item = (&str, &HostPathVolumeSource)> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.as_deref().unwrap_or_default());
    volumes.filter_map(|volume| Some((volume.name.as_str(), volume.host_path.as_ref()?)))
}

/// Opens the Pod's volumes of the host. Returns the shares, and the volumes that failed.
pub async fn open(privileges: &PodPrivileges, pod: &Pod) -> (Vec<Share>, Vec<FailedVolume>) {
    let (mut shares, mut failed) = (Vec::new(), Vec::new());
    for (volume, source) in host_paths(pod) {
        match open_one(privileges, volume, source).await {
            Ok(share) => shares.push(share),
            Err(why) => failed.push(FailedVolume::not_set_up(volume, why)),
        }
    }
    (shares, failed)
}

async fn open_one(privileges: &PodPrivileges, volume: &str, source: &HostPathVolumeSource) -> Result<Share, String> {
    let type_ = source.type_.as_deref().unwrap_or_default();
    let kind = HostPathType::parse(type_).ok_or_else(|| format!("the hostPath type {type_} is not supported"))?;
    let (privileges, volume, path) = (privileges.clone(), volume.to_owned(), source.path.clone());
    // The path may be on a network file system.
    let opened =
        tokio::task::spawn_blocking(move || privileges.share_host_path(&volume, Path::new(&path), kind, false));
    match opened.await {
        Ok(opened) => opened.map_err(|error| with_causes(&error)),
        Err(error) => Err(error.to_string()),
    }
}
