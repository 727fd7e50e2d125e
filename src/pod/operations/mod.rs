//! What is done with Pods from outside their supervisors, for command lines and whatever else serves users: an operation a file, with errors
//! of its own.
//!
//! An operation acts on records and asks supervisors. Arguments, output, signals and terminals are its caller's.

pub mod apply;
pub mod attach;
pub mod copy;
pub mod create;
pub mod delete;
pub mod exec;
pub mod foreground;
pub mod logs;
pub mod session;
