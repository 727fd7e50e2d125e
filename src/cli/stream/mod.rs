//! What the verbs have in common that connect to a container: which container is meant, and the conversation with its
//! supervisor.

pub(super) mod arguments;
pub(super) mod detach_keys;
pub(super) mod running;
pub(super) mod session;
pub(super) mod target;
#[cfg(test)]
pub(super) mod tests;
