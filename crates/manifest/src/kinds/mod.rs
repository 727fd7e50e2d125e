//! The table of types: one entry a kind of object.
//!
//! An entry has the names of the kind, what its API has, the columns that `get` prints, and the functions that read,
//! default and validate its objects. How the fields of a kind merge in patches is in `microkube_patch::kinds`, under the
//! same [`Kind::api_version`] and [`Kind::kind`].

mod document;
mod json;
mod object;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use document::valid_documents;
pub use document::{Document, read_documents, read_objects};
pub use object::Object;
pub use table::{Column, Kind, all, find, named};
