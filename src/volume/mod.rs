//! Storage of Pods on the host: the scratch disk, on which the guest keeps the containers' writable layers and
//! disk-backed `emptyDir` volumes, the files of the host that Pods share, and the disks of PersistentVolumes.

mod allowed_host_paths;
mod claim_disk;
mod host_path;
mod loop_device;
mod mount_api;
mod ownership;
mod scratch;

pub use allowed_host_paths::{ALLOWED_HOST_PATHS, AllowedHostPaths, HostPathType, NO_HOST_PATHS};
pub use claim_disk::{ClaimDiskError, ClaimDiskSize, ClaimDisks};
pub use host_path::{HostPathError, clone_for_share, open_host_path};
pub use ownership::{ChangePolicy, give_to_group};
pub use scratch::{
    Lifetime, SCRATCH_DISK_BYTES, ScratchError, create_scratch_disk, open_scratch_disk, remove_scratch_disk,
};
