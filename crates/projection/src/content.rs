//! Bytes that may be secret.

use std::fmt;

/// The content of a file. `Debug` shows only its length.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Content(Vec<u8>);

impl Content {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}
