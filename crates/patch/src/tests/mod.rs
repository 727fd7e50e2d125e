//! Tests of patches against tables and laws.

mod large;
mod laws;
mod schema;
mod tables;
