//! A Pod's volumes that are files of the host: hostPath volumes, and PersistentVolumes behind its claims. `privileged`
//! opens them; a file server shows them to the guest.

use std::path::Path;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, PersistentVolume, Pod};
use microkube_base::causes::with_causes;
use microkube_claims::{BoundVolume, disk_of};
use microkube_manifest::security;

use super::projected_volumes::FailedVolume;
use crate::privileged::{PodPrivileges, Share, VolumeGroup};
use crate::volume::{ChangePolicy, HostPathType};

/// The hostPath volumes of a Pod: their names and sources.
fn host_paths(pod: &Pod) -> impl Iterator<Item = (&str, &HostPathVolumeSource)> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.as_deref().unwrap_or_default());
    volumes.filter_map(|volume| Some((volume.name.as_str(), volume.host_path.as_ref()?)))
}

/// Opens the Pod's volumes of the host, and those of its claims. Returns the shares, and the volumes that failed.
pub async fn open(privileges: &PodPrivileges, pod: &Pod, bound: &[BoundVolume]) -> (Vec<Share>, Vec<FailedVolume>) {
    let group = group(pod);
    let host_paths = host_paths(pod).map(|(volume, source)| (volume, None, host_path(source), false));
    let claims = bound.iter().map(|bound| {
        let source = source(&bound.volume, group);
        let persistent_volume = bound.volume.metadata.name.as_deref();
        (bound.name.as_str(), persistent_volume, source, bound.read_only)
    });
    let (mut shares, mut failed) = (Vec::new(), Vec::new());
    for (volume, persistent_volume, source, read_only) in host_paths.chain(claims) {
        let opened = match source {
            Ok(source) => open_one(privileges, volume, source, read_only).await,
            Err(why) => Err(why),
        };
        match opened {
            Ok(share) => shares.push(share),
            Err(why) => failed.push(FailedVolume::not_set_up(volume, persistent_volume, why)),
        }
    }
    (shares, failed)
}

/// What a share shows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Path { path: String, kind: HostPathType },
    Disk { name: String, group: Option<VolumeGroup> },
}

async fn open_one(privileges: &PodPrivileges, volume: &str, source: Source, read_only: bool) -> Result<Share, String> {
    let (privileges, volume) = (privileges.clone(), volume.to_owned());
    // The path may be on a network file system, and a disk's files may be many.
    let opened = tokio::task::spawn_blocking(move || match source {
        Source::Path { path, kind } => privileges
            .share_host_path(&volume, Path::new(&path), kind, read_only)
            .map_err(|error| with_causes(&error)),
        Source::Disk { name, group } => privileges
            .share_claim_disk(&volume, &name, read_only, group)
            .map_err(|error| with_causes(&error)),
    });
    opened.await.unwrap_or_else(|error| Err(error.to_string()))
}

fn host_path(source: &HostPathVolumeSource) -> Result<Source, String> {
    let type_ = source.type_.as_deref().unwrap_or_default();
    let kind = HostPathType::parse(type_).ok_or_else(|| format!("the hostPath type {type_} is not supported"))?;
    let path = source.path.clone();
    Ok(Source::Path { path, kind })
}

/// What a PersistentVolume shows.
fn source(volume: &PersistentVolume, group: Option<VolumeGroup>) -> Result<Source, String> {
    let spec = volume.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("volumeMode Block is not supported".to_owned());
    }
    if let Some(name) = disk_of(volume) {
        let name = name.to_owned();
        return Ok(Source::Disk { name, group });
    }
    if let Some(source) = &spec.host_path {
        return host_path(source);
    }
    if let Some(local) = spec.local {
        // The kubelet does not create such paths.
        let kind = HostPathType::Directory;
        return Ok(Source::Path { path: local.path, kind });
    }
    if let Some(csi) = spec.csi {
        let driver = csi.driver;
        return Err(format!(
            "driver name {driver} not found in the list of registered CSI drivers"
        ));
    }
    Err(format!(
        "PersistentVolumes of the type {} are not supported",
        type_of(volume)
    ))
}

/// The field of the volume's source.
fn type_of(volume: &PersistentVolume) -> String {
    const OTHERS: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let spec = serde_json::to_value(&volume.spec).unwrap_or_default();
    let mut fields = spec.as_object().into_iter().flat_map(serde_json::Map::keys);
    let source = fields.find(|field| !OTHERS.contains(&field.as_str()));
    source.map_or_else(|| "unknown".to_owned(), Clone::clone)
}

/// The group that gets the files of the Pod's disks.
fn group(pod: &Pod) -> Option<VolumeGroup> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    let policy = match context.fs_group_change_policy.as_deref() {
        Some("OnRootMismatch") => ChangePolicy::OnRootMismatch,
        _ => ChangePolicy::Always,
    };
    let id = security::fs_group(pod)?;
    Some(VolumeGroup { id, policy })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(spec: Value) -> PersistentVolume {
        let metadata = json!({ "name": "pv" });
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn disks_and_paths_of_the_host_can_be_shared() {
        let policy = ChangePolicy::OnRootMismatch;
        let group = Some(VolumeGroup { id: 7, policy });
        let disk = volume(json!({ "csi": { "driver": microkube_claims::DRIVER, "volumeHandle": "disk-1" } }));
        let name = "disk-1".to_owned();
        assert_eq!(source(&disk, group), Ok(Source::Disk { name, group }));
        let path = |kind: &str| Source::Path {
            path: "/data".to_owned(),
            kind: HostPathType::parse(kind).unwrap(),
        };
        let host_path = volume(json!({ "hostPath": { "path": "/data", "type": "DirectoryOrCreate" } }));
        assert_eq!(source(&host_path, group), Ok(path("DirectoryOrCreate")));
        let local = volume(json!({ "local": { "path": "/data" } }));
        assert_eq!(source(&local, group), Ok(path("Directory")));
    }

    #[test]
    fn other_volumes_are_refused_by_their_type() {
        for (spec, message) in [
            (
                json!({ "capacity": { "storage": "1Gi" }, "nfs": { "server": "s", "path": "/" } }),
                "PersistentVolumes of the type nfs are not supported",
            ),
            (
                json!({ "csi": { "driver": "example.com", "volumeHandle": "a" } }),
                "driver name example.com not found in the list of registered CSI drivers",
            ),
            (
                json!({ "volumeMode": "Block", "local": { "path": "/dev/sda" } }),
                "volumeMode Block is not supported",
            ),
        ] {
            assert_eq!(source(&volume(spec), None), Err(message.to_owned()));
        }
    }

    #[test]
    fn the_group_of_a_pod_gets_its_disks() {
        let of = |context: Value| {
            let pod = json!({ "metadata": {}, "spec": { "containers": [], "securityContext": context } });
            group(&serde_json::from_value(pod).unwrap())
        };
        assert_eq!(of(json!({ "fsGroupChangePolicy": "Always" })), None);
        let group = |id, policy| Some(VolumeGroup { id, policy });
        assert_eq!(of(json!({ "fsGroup": 7 })), group(7, ChangePolicy::Always));
        assert_eq!(
            of(json!({ "fsGroup": 7, "fsGroupChangePolicy": "OnRootMismatch" })),
            group(7, ChangePolicy::OnRootMismatch)
        );
    }
}
