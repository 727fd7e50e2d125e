//! The entropy device (section 5.4): passes the host's random numbers to the guest, so that the guest has entropy from
//! the start.

pub mod device;
pub mod worker;
