//! The table of types, with one entry per kind of object.
//!
//! An entry contains the names of the kind, the features of its API, the columns that `get` prints, and the functions
//! that read, default and validate its objects. `microkube_patch::kinds` defines how the fields of a kind merge in
//! patches, under the same [`Kind::api_version`] and [`Kind::kind`].

mod document;
mod json;
mod object;
mod table;
#[cfg(test)]
mod tests;

pub use document::{Document, read_documents, read_documents_with, read_objects};
pub(crate) use document::{valid_documents, written};
pub use object::Object;
pub use table::{Column, Kind, all, find, named};
