//! The network device (section 5.1): frames between the guest and a TAP of the host, with checksum and segmentation offload.

pub mod device;
pub mod tap;
pub mod worker;
