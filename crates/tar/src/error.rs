//! Why a tar stream could not be read.

use std::io;

/// Why a tar stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream ended within an entry.
    #[error("the tar stream ends in the middle of an entry (at byte {offset})")]
    Truncated {
        /// Position in the stream in bytes.
        offset: u64,
    },
    /// A header or an extension record is invalid.
    #[error("not a valid tar stream: {what} (before byte {offset})")]
    Malformed {
        /// Position in the stream in bytes.
        offset: u64,
        /// The problem.
        what: Malformation,
    },
    /// Reading the underlying stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A problem with a header, an extension record or the map of a sparse file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformation {
    #[error("header without a checksum")]
    NoChecksum,
    #[error("wrong checksum in a header")]
    WrongChecksum,
    #[error("{what} is not a number")]
    NotANumber { what: &'static str },
    #[error("{what} is negative")]
    Negative { what: &'static str },
    #[error("{what} is too large")]
    TooLarge { what: &'static str },
    #[error("{what} {value} does not fit in 32 bits")]
    LargeId { what: &'static str, value: u64 },
    #[error("entry {path:?} has the unknown type {type_flag:?}")]
    UnknownType { path: String, type_flag: char },
    #[error("entry of {size} bytes is too large")]
    LargeEntry { size: u64 },
    #[error("extension header of {size} bytes exceeds the limit of {max}")]
    LargeExtension { size: u64, max: u64 },
    #[error("invalid PAX record")]
    BrokenPaxRecord,
    #[error("the PAX key {key} is not a number")]
    PaxNotANumber { key: String },
    #[error("the PAX key mtime is not a time")]
    PaxNotATime,
    #[error("PAX sparse length without an offset")]
    PaxLengthWithoutOffset,
    #[error("invalid PAX sparse map")]
    BrokenPaxMap,
    #[error("sparse file without a size")]
    SparseWithoutSize,
    #[error("sparse file with too many parts")]
    TooManyParts,
    #[error("invalid map of a sparse file")]
    BrokenMap,
    #[error("inconsistent map of a sparse file")]
    ContradictoryMap,
    #[error("the map of a sparse file does not match its content")]
    MapWithoutContent,
}
