//! Lines and columns of keys and values.
//!
//! `serde_yaml` has places only in its errors. To find the place of a key or a value, the text is read again, and this
//! reading is made to fail there.

use super::walk::{Number, Walk};

/// Line and column of a key or a value, both counted from 1.
pub(super) fn of(text: &str, number: Number) -> Option<(usize, usize)> {
    Walk::until(number).file(text).err().as_ref().and_then(of_error)
}

/// Line and column of an error.
pub(super) fn of_error(error: &serde_yaml::Error) -> Option<(usize, usize)> {
    error.location().map(|location| (location.line(), location.column()))
}
