//! The network device (section 5.1): passes frames between the guest and a host TAP, with checksum
//! and segmentation offload.

pub mod device;
pub mod tap;
pub mod worker;
