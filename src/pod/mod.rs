//! The life of a Pod: from a validated manifest to the last resource released.

pub mod lifecycle;
