//! The node's Kubernetes objects: opens the store, and reads and writes objects of any kind by Kubernetes' rules, for
//! the command line and for Pods.
//!
//! `crates/store` changes the files, and `crates/manifest` defines valid objects. User-facing text and the life of Pods
//! do not belong here.

mod apply;
mod claim_admission;
mod deletion;
mod error;
#[cfg(test)]
mod kinds_page;
mod namespace_conditions;
mod namespace_deletion;
mod namespaces;
mod node_store;
mod operations;
mod patch;
mod pods;
mod standard_class;
#[cfg(test)]
pub(crate) mod test_store;
#[cfg(test)]
mod tests;

pub use apply::{Applied, Merged, Outcome, Overwrite, merge};
pub use deletion::wait_until_gone;
pub use error::{ObjectError, Overwritten};
pub use namespace_conditions::note_remaining;
pub use namespace_deletion::{begin_namespace_deletion, delete_content, end_namespace, is_empty};
pub use namespaces::{
    DEFAULT_ACCOUNT, DEFAULT_NAMESPACE, ensure_account, ensure_namespace, is_ending, namespace_resource, remove_account,
};
pub use node_store::{PODS, key, open, resource};
pub use operations::{Objects, Part, match_request, read};
pub use patch::Patch;
pub use pods::pod_object;
pub use standard_class::ensure_standard_class;
