//! Limits on the size of a layer.

/// Limits on the size of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and links, including replaced ones.
    pub files: u32,
    /// Bytes of content, including holes of sparse files.
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
