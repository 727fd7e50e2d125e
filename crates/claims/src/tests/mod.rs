//! Tests of whole lives: objects and disks of a node that follows the rules.

mod binding;
mod classes;
mod deletion;
mod ephemeral;
mod expansion;
mod laws;
mod pods;
mod provisioning;
