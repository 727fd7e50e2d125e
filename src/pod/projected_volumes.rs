//! The files of a Pod's configMap, secret, downwardAPI and projected volumes, on their way into its VM. `projection`
//! computes them, and the agent writes them.

use std::hash::{BuildHasher, RandomState};

use k8s_openapi::api::core::v1::{Pod, Volume};
use microkube_manifest::security;
use microkube_projection::{
    BoundPod, File, Objects, ProjectionError, failed_mount_message, is_projected, volume_files,
};
use microkube_protocol::messages::{FileProjection, FileVolume};

const PAGE_BYTES: u64 = 4096;
/// The inode and the link of a file.
const FILE_OVERHEAD_BYTES: u64 = 2048;
const MIB: u64 = 1 << 20;
/// Maximum memory that volumes add to a VM. A Pod with larger volumes needs a memory limit that leaves room for them.
const MAX_MEMORY_MIB: u32 = 1024;

/// The files of one volume. `Debug` does not show their content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFiles {
    pub volume: String,
    files: Vec<File>,
}

/// A volume whose files cannot be computed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedVolume {
    pub volume: String,
    /// The PersistentVolume behind it.
    persistent_volume: Option<String>,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error(transparent)]
    Projection(Box<ProjectionError>),
    #[error("its files cannot be computed: internal error")]
    Internal,
    /// A volume of the host.
    #[error("{0}")]
    Host(String),
}

impl FailedVolume {
    /// Of a volume whose computation has panicked.
    #[must_use]
    pub fn not_computed(volume: &str) -> Self {
        Self {
            volume: volume.to_owned(),
            persistent_volume: None,
            why: Why::Internal,
        }
    }

    /// Of a volume of the host, which may be a PersistentVolume.
    #[must_use]
    pub fn not_set_up(volume: &str, persistent_volume: Option<&str>, why: String) -> Self {
        Self {
            volume: volume.to_owned(),
            persistent_volume: persistent_volume.map(str::to_owned),
            why: Why::Host(why),
        }
    }

    /// The message of the kubelet's event `FailedMount`. It names the PersistentVolume of a claim (`volume.Spec.Name`).
    #[must_use]
    pub fn message(&self) -> String {
        failed_mount_message(self.persistent_volume.as_ref().unwrap_or(&self.volume), &self.why)
    }
}

/// The volumes with computed files.
pub fn projected(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| is_projected(volume))
}

/// Computes the files of all volumes. Lookups of objects may block.
pub fn compute(pod: &BoundPod<'_>, objects: &dyn Objects) -> Vec<Result<VolumeFiles, FailedVolume>> {
    let of_volume = |volume: &Volume| {
        let name = volume.name.clone();
        match volume_files(pod, volume, objects) {
            Ok(files) => Ok(VolumeFiles { volume: name, files }),
            Err(error) => Err(FailedVolume {
                volume: name,
                persistent_volume: None,
                why: Why::Projection(Box::new(error)),
            }),
        }
    };
    projected(pod.pod).map(of_volume).collect()
}

/// How the sandbox declares a volume with computed files.
#[must_use]
pub fn declaration(pod: &Pod) -> FileVolume {
    FileVolume {
        fs_group: security::fs_group(pod),
        ..Default::default()
    }
}

impl VolumeFiles {
    /// A keyed hash of the content, for comparison with others of the same [`RandomState`].
    #[must_use]
    pub fn fingerprint(&self, keys: &RandomState) -> u64 {
        let files = self.files.iter();
        let parts: Vec<_> = files
            .map(|file| (&file.path, file.content.as_bytes(), file.mode, file.owner))
            .collect();
        keys.hash_one(parts)
    }

    /// The files for the agent.
    #[must_use]
    pub fn into_messages(self) -> Vec<FileProjection> {
        let message = |file: File| FileProjection {
            path: file.path,
            content: file.content.into_vec(),
            mode: file.mode,
            fs_user: file.owner.and_then(|owner| u32::try_from(owner).ok()),
            ..Default::default()
        };
        self.files.into_iter().map(message).collect()
    }

    /// The guest memory that the files use. During an update, old and new files exist at the same time.
    fn memory_bytes(&self) -> u64 {
        let of_file = |file: &File| {
            let length_bytes = u64::try_from(file.content.as_bytes().len()).unwrap_or(u64::MAX);
            length_bytes
                .div_ceil(PAGE_BYTES)
                .saturating_mul(PAGE_BYTES)
                .saturating_add(FILE_OVERHEAD_BYTES)
        };
        let once = self.files.iter().map(of_file).fold(0, u64::saturating_add);
        once.saturating_mul(2)
    }
}

/// The memory that a VM needs for the files of these volumes, in MiB, in addition to that of the containers: the agent
/// writes the files.
#[must_use]
pub fn memory_mib(volumes: &[VolumeFiles]) -> u32 {
    let bytes = volumes
        .iter()
        .map(VolumeFiles::memory_bytes)
        .fold(0, u64::saturating_add);
    u32::try_from(bytes.div_ceil(MIB)).map_or(MAX_MEMORY_MIB, |mib| mib.min(MAX_MEMORY_MIB))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use microkube_projection::{Content, LookupError};
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::pod_on_node::PodOnNode;
    use crate::state::PodRecord;

    /// Every object exists and has one key with this value, unless its name is `no`.
    struct Everything(&'static str);

    impl Objects for Everything {
        fn config_map(&self, _: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, LookupError> {
            let found = json!({ "data": { "key": self.0 } });
            Ok((name != "no").then(|| Arc::new(serde_json::from_value(found).unwrap())))
        }

        fn secret(&self, _: &str, name: &str) -> Result<Option<Arc<Secret>>, LookupError> {
            let data = [("key".to_owned(), k8s_openapi::ByteString(self.0.into()))];
            Ok((name != "no").then(|| {
                Arc::new(Secret {
                    data: Some(data.into()),
                    ..Default::default()
                })
            }))
        }

        fn token(&self, _: Option<&str>, _: i64) -> Result<Content, LookupError> {
            Ok(Content::from(b"token".to_vec()))
        }

        fn env_file(&self, _: &str, _: &str) -> Result<Option<Content>, LookupError> {
            Ok(None)
        }
    }

    fn record(security: &Value, volumes: &Value) -> PodRecord {
        serde_json::from_value(json!({
            "uid": "u", "namespace": "shop", "name": "web", "client": null, "supervisor": null, "vmm": null,
            "pod": {
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": "shop" },
                "spec": { "containers": [], "securityContext": security, "volumes": volumes },
            },
        }))
        .unwrap()
    }

    fn volumes(volumes: &Value, objects: &Everything) -> Vec<Result<VolumeFiles, FailedVolume>> {
        let record = record(&json!({}), volumes);
        let on_node = PodOnNode::new("u-1", &record.pod, None, None);
        compute(&on_node.bound(), objects)
    }

    #[test]
    fn the_volume_of_a_claim_has_the_name_of_its_persistent_volume() {
        let why = || "hostPath type check failed: /x is not a directory".to_owned();
        for (persistent_volume, expected) in [(None, "data"), (Some("pvc-1"), "pvc-1")] {
            let failed = FailedVolume::not_set_up("data", persistent_volume, why());
            assert_eq!(failed.volume, "data");
            assert_eq!(
                failed.message(),
                format!("MountVolume.SetUp failed for volume \"{expected}\" : {}", why())
            );
        }
    }

    #[test]
    fn each_volume_is_computed_for_itself() {
        let found = volumes(
            &json!([
                { "name": "scratch", "emptyDir": {} },
                { "name": "config", "configMap": { "name": "a", "defaultMode": 0o400 } },
                { "name": "gone", "secret": { "secretName": "no" } },
                { "name": "all", "projected": { "sources": [{ "secret": { "name": "b" } }] } },
            ]),
            &Everything("hunter2"),
        );
        let [Ok(config), Err(gone), Ok(all)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(
            gone.message(),
            r#"MountVolume.SetUp failed for volume "gone" : secret "no" not found"#
        );
        assert_eq!((config.volume.as_str(), all.volume.as_str()), ("config", "all"));
        assert!(!format!("{found:?}").contains("hunter2"));
        let [file] = &config.clone().into_messages()[..] else {
            panic!("{config:?}");
        };
        assert_eq!(
            (file.path.as_str(), file.content.as_slice(), file.mode, file.fs_user),
            ("key", &b"hunter2"[..], 0o400, None)
        );
    }

    #[test]
    fn a_fingerprint_changes_with_the_files() {
        let keys = RandomState::new();
        let volume = |mode: i32, value| {
            let config = json!([{ "name": "v", "configMap": { "name": "a", "defaultMode": mode } }]);
            let files = volumes(&config, &Everything(value)).remove(0).unwrap();
            files.fingerprint(&keys)
        };
        assert_eq!(volume(0o644, "x"), volume(0o644, "x"));
        assert_ne!(volume(0o644, "x"), volume(0o600, "x"));
        assert_ne!(volume(0o644, "x"), volume(0o644, "y"));
    }

    #[test]
    fn the_group_of_the_pod_owns_its_files() {
        let group = |security: Value| declaration(&record(&security, &json!([])).pod).fs_group;
        assert_eq!(group(json!({})), None);
        assert_eq!(group(json!({ "fsGroup": 2000 })), Some(2000));
    }

    #[test]
    fn files_add_to_the_memory_of_the_vm() {
        let of_bytes = |length: usize| VolumeFiles {
            volume: "v".to_owned(),
            files: vec![File {
                path: "a".to_owned(),
                content: Content::from(vec![0; length]),
                mode: 0o644,
                owner: None,
            }],
        };
        assert_eq!(memory_mib(&[]), 0);
        assert_eq!(memory_mib(&[of_bytes(1)]), 1);
        assert_eq!(memory_mib(&[of_bytes(1 << 20), of_bytes(1 << 20)]), 5);
        let many: Vec<_> = (0..2000).map(|_| of_bytes(1 << 20)).collect();
        assert_eq!(memory_mib(&many), 1024);
    }
}
