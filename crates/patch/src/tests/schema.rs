//! A schema with every kind of field.

use std::sync::LazyLock;

use crate::{Merge, Schema};

const TABLE: &[(&str, Merge)] = &[
    ("items", Merge::by("name")),
    ("items[].items", Merge::by("name")),
    ("items[].tags", Merge::Set),
    ("numbered", Merge::by("number")),
    ("tags", Merge::Set),
    ("union", Merge::Map { retain_keys: true }),
    ("union.tags", Merge::Set),
    ("unions", Merge::by_retaining_keys("name")),
    ("whole", Merge::Replace),
];

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::new(TABLE));

pub(super) fn schema() -> &'static Schema {
    &SCHEMA
}
