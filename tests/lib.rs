//! What the tests of this package share: where the programs lie that they run, manifests of Pods, chance that can be replayed.

pub mod built;
pub mod manifest;
pub mod random_life;
