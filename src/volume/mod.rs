//! Storage of Pods on the host: the scratch disk, on which the guest keeps the containers' writable layers and
//! disk-backed `emptyDir` volumes.

mod scratch;

pub use scratch::{
    Lifetime, SCRATCH_DISK_BYTES, ScratchError, create_scratch_disk, open_scratch_disk, remove_scratch_disk,
};
