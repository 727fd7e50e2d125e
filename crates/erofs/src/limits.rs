//! How large a layer may be.

/// What a layer may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories, links, replaced ones included.
    pub files: u32,
    /// Bytes of content, holes of sparse files included.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            files: 4_000_000,
            bytes: 64 << 30,
        }
    }
}
