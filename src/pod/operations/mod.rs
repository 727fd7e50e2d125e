//! Operations on Pods, for the command line and other front ends: one file each, with typed errors.
//!
//! An operation works with records and supervisors. Its caller handles arguments, output, signals and terminals.

pub mod apply;
pub mod attach;
pub mod claims;
pub mod copy;
pub mod create;
pub mod delete;
pub mod dependents;
pub mod ephemeral;
pub mod exec;
pub mod foreground;
pub mod logs;
pub mod namespaces;
pub mod port_forward;
pub mod session;
pub mod update;
