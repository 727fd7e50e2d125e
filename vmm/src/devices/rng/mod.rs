//! The entropy device (section 5.4): passes the host's random numbers to the guest, so that it has
//! good ones from the start.

pub mod device;
pub mod worker;
