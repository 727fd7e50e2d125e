//! The common part of the verbs for objects of all kinds: parses the names on a command line, reads the objects, and
//! shows them in tables.

pub(super) mod arguments;
mod cells;
pub(super) mod dry_run;
pub(super) mod field_selector;
pub(super) mod listing;
pub(super) mod manifests;
pub(super) mod name;
pub(super) mod table;
pub(super) mod volumes;
