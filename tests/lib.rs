//! Shared by several test packages: paths of the programs under test, Pod manifests, images, repeatable randomness. The
//! image store's tests use it as well, so it has few dependencies.

pub mod built;
pub mod database;
pub mod log_lines;
pub mod manifest;
pub mod oci_layout;
pub mod random_life;
