//! What the verbs that show or change Pods have in common: which Pods are meant, how they are read, followed and printed.

pub(super) mod arguments;
pub(super) mod format;
pub(super) mod selection;
pub(super) mod snapshot;
pub(super) mod status_column;

#[cfg(test)]
pub(super) use crate::pod::test_pods;
