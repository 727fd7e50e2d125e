//! The common part of the verbs that connect to a container: selecting the container, and the session with its
//! supervisor.

pub(super) mod arguments;
pub(super) mod detach_keys;
pub(super) mod running;
pub(super) mod session;
pub(super) mod target;
#[cfg(test)]
pub(super) mod tests;
