//! The entropy device (section 5.4): the host's random numbers, so that a guest has good ones from its first moment.

pub mod device;
pub mod worker;
