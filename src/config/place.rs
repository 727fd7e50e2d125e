//! Lines and columns of keys and values.
//!
//! `serde_yaml` reports positions only in its errors. To find the position of a key or a value, this module parses the
//! text again and makes the parser fail there.

use super::walk::{Number, Walk};

/// Line and column of a key or a value, both counted from 1.
pub(super) fn of(text: &str, number: Number) -> Option<(usize, usize)> {
    Walk::until(number).file(text).err().as_ref().and_then(of_error)
}

/// Line and column of an error.
pub(super) fn of_error(error: &serde_yaml::Error) -> Option<(usize, usize)> {
    error.location().map(|location| (location.line(), location.column()))
}
