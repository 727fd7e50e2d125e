//! Applies the rules of volume claims (`crates/claims`) to this node: reads all objects and disks, and writes what the
//! rules ask for until nothing is left to do.
//!
//! There is no controller. Verbs that change claims, volumes or classes call [`settle`], and so do supervisors before they
//! start a VM, and whoever removes a Pod. One lock of the node keeps them apart. The rules themselves, and how the volumes
//! get into a VM, do not belong here.

mod error;
mod events;
mod names;
mod node_state;
mod settle;
mod steps;

pub use names::{claim_names, has_claims};
pub use settle::{PodClaims, bind, settle_or_warn};

#[cfg(test)]
mod tests;
