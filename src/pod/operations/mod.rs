//! Operations on Pods, for the command line and other front ends: a file each, with typed errors.
//!
//! An operation works on records and asks supervisors. Arguments, output, signals and terminals belong to its caller.

pub mod apply;
pub mod attach;
pub mod copy;
pub mod create;
pub mod delete;
pub mod exec;
pub mod foreground;
pub mod logs;
pub mod session;
