//! The names that these rules read and write in objects: annotations, finalizers, phases, and microkube's provisioner.

/// The provisioner of StorageClasses whose volumes are disk images on the node. It is also the name of the plugin in
/// events and annotations.
pub const PROVISIONER: &str = "microkube.io/disk-image";
/// The CSI driver in PersistentVolumes that are disk images. A driver's name cannot contain `/`.
pub const DRIVER: &str = "disk-image.microkube.io";
/// Classes with this provisioner have only volumes that were created by hand
/// (`component-helpers/storage/volume/pv_helpers.go`).
pub(crate) const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The provisioners that are built into Kubernetes.
pub(crate) const BUILT_IN: &str = "kubernetes.io/";

/// A claim is in use while a Pod refers to it (`pkg/volume/util/finalizer.go`).
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// A volume is in use while it is bound (`pkg/volume/util/finalizer.go`).
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// A volume with the reclaim policy `Delete` stays until its disk is deleted
/// (`component-helpers/storage/volume/pv_helpers.go`).
pub const DISK_PROTECTION: &str = "kubernetes.io/pv-controller";

// component-helpers/storage/volume/pv_helpers.go
pub(crate) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub(crate) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub(crate) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub(crate) const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub(crate) const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// `pkg/volume/util/types/types.go`
pub(crate) const STORAGE_RESIZER: &str = "volume.kubernetes.io/storage-resizer";
/// The value of annotations whose value does not matter.
pub(crate) const YES: &str = "yes";

/// `BetaStorageClassAnnotation`, which takes precedence over the field.
pub(crate) const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// `pkg/volume/util/storageclass.go`
pub(crate) const DEFAULT_CLASS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

/// The resource in capacities and requests.
pub(crate) const STORAGE: &str = "storage";

/// Phases of claims and volumes.
pub(crate) mod phase {
    pub(crate) const PENDING: &str = "Pending";
    pub(crate) const AVAILABLE: &str = "Available";
    pub(crate) const BOUND: &str = "Bound";
    pub(crate) const LOST: &str = "Lost";
    pub(crate) const RELEASED: &str = "Released";
    pub(crate) const FAILED: &str = "Failed";
}
