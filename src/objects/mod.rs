//! The node's Kubernetes objects: the store together with the table of kinds. What the command line and Pods do with
//! objects is here: opening the store, reading and writing objects of any kind by Kubernetes' rules.
//!
//! How files change is the business of `crates/store`, what a valid object is that of `crates/manifest`. Text for people
//! does not belong here, nor does the life of Pods.

mod apply;
mod deletion;
mod error;
#[cfg(test)]
mod kinds_page;
mod namespace_deletion;
mod namespaces;
mod node_store;
mod operations;
mod patch;
#[cfg(test)]
pub(crate) mod test_store;
#[cfg(test)]
mod tests;

pub use apply::{Applied, Outcome};
pub use deletion::{DeletionError, delete, wait_until_gone};
pub use error::ObjectError;
pub use namespace_deletion::{begin_namespace_deletion, delete_content, end_namespace, is_empty};
pub use namespaces::{DEFAULT_NAMESPACE, ensure_namespace, namespace_resource};
pub use node_store::{key, open, resource};
pub use operations::{Objects, Part, read};
pub use patch::Patch;
