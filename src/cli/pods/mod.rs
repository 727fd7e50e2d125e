//! The common part of the verbs that show or change Pods: selecting, reading, following and printing Pods.

pub(super) mod arguments;
pub(super) mod format;
pub(super) mod output;
pub(super) mod selection;
pub(super) mod snapshot;
pub(super) mod status_column;

#[cfg(test)]
pub(super) use crate::pod::test_pods;
