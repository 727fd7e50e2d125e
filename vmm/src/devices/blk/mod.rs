//! The block device (section 5.2): one disk made of one or more host files.

pub mod device;
pub mod disk;
pub mod growth;
pub mod request;
pub mod worker;
