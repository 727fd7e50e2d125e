//! What tests share: where the programs lie that they run, manifests of Pods, images, chance that can be replayed. Tests of the image store
//! use it as well, so it has few dependencies.

pub mod built;
pub mod manifest;
pub mod oci_layout;
pub mod random_life;
