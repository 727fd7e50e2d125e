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

/// Variable that says how many files a layer may have.
pub const MAX_FILES_VARIABLE: &str = "MICROKUBE_LAYER_MAX_FILES";
/// Variable that says how many bytes a layer may have.
pub const MAX_BYTES_VARIABLE: &str = "MICROKUBE_LAYER_MAX_BYTES";
