//! Disk images, and the volumes that are disk images.

use k8s_openapi::api::core::v1::PersistentVolume;
use microkube_manifest::names;

use crate::fields::annotation;
use crate::keys::{DRIVER, PROVISIONED_BY, PROVISIONER};

/// A disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub bytes: u64,
    /// Whether its file system is smaller than the image, and grows when a Pod starts.
    pub has_smaller_file_system: bool,
}

/// The name of a volume's disk image, if the volume is one. Names that are not DNS subdomains name no disk, because a
/// disk's name is the name of a file.
#[must_use]
pub fn disk_of(volume: &PersistentVolume) -> Option<&str> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    let is_name = names::dns_subdomain(&source.volume_handle).is_empty();
    (source.driver == DRIVER && is_name).then_some(source.volume_handle.as_str())
}

/// Whether the volume was created for a claim by microkube.
pub(crate) fn is_provisioned(volume: &PersistentVolume) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY) == Some(PROVISIONER) && disk_of(volume).is_some()
}

#[cfg(test)]
mod tests {
    use crate::testing::disk_volume;

    use super::*;

    #[test]
    fn only_the_driver_and_the_name_of_a_file_make_a_disk() {
        assert_eq!(disk_of(&disk_volume("pv", "disk-1", "1Gi")), Some("disk-1"));
        for handle in ["", ".", "..", "a/b", "../a", "/a", "A", "a\0", "a b"] {
            assert_eq!(disk_of(&disk_volume("pv", handle, "1Gi")), None, "{handle:?}");
        }
        let mut other = disk_volume("pv", "disk-1", "1Gi");
        other.spec.as_mut().unwrap().csi.as_mut().unwrap().driver = "example.com".to_owned();
        assert_eq!(disk_of(&other), None);
    }
}
