//! The settings of the image store, from environment variables.

use microkube_erofs::{Compression, Limits};

/// Variable that limits the number of files in a layer.
pub(super) const MAX_FILES_VARIABLE: &str = "MICROKUBE_LAYER_MAX_FILES";
/// Variable that limits the bytes in a layer.
pub(super) const MAX_BYTES_VARIABLE: &str = "MICROKUBE_LAYER_MAX_BYTES";
/// Variable that says whether layers are also kept as they were transferred.
const KEEP_BLOBS_VARIABLE: &str = "MICROKUBE_KEEP_BLOBS";
/// Variable that says whether a Pod's layers are checked against their digests before use.
const VERIFY_VARIABLE: &str = "MICROKUBE_VERIFY_LAYERS";
/// Variable that says whether files in layers are compressed.
const COMPRESSION_VARIABLE: &str = "MICROKUBE_LAYER_COMPRESSION";

/// The maximum of `MICROKUBE_LAYER_MAX_FILES`: one inode number is needed for the root.
pub const LARGEST_MAX_FILES: u64 = u32::MAX as u64 - 2;
/// The maximum of `MICROKUBE_LAYER_MAX_BYTES`.
pub const LARGEST_MAX_BYTES: u64 = 16 << 40;

/// The store's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Limits on the size of a layer.
    pub limits: Limits,
    /// Whether the files of newly converted layers are compressed.
    pub compression: Compression,
    /// Keep layers as they were transferred: for `save`, and to rebuild a damaged layer without the registry.
    pub keep_blobs: bool,
    /// Check layers against their digests before use.
    pub verify: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            compression: Compression::default(),
            keep_blobs: true,
            verify: false,
        }
    }
}

/// A variable has an invalid value.
#[derive(Debug, thiserror::Error)]
#[error("invalid value {variable}={value:?}: expected {expected}")]
pub struct OptionError {
    variable: &'static str,
    value: String,
    expected: &'static str,
}

impl Options {
    /// Reads the settings from this process's environment.
    pub fn from_env() -> Result<Self, OptionError> {
        Self::from(|name| std::env::var(name).ok())
    }

    fn from(value_of: impl Fn(&str) -> Option<String>) -> Result<Self, OptionError> {
        let given = |variable: &'static str| value_of(variable).filter(|value| !value.is_empty());
        let mut options = Self::default();
        let number = |variable, max: u64| {
            let Some(value) = given(variable) else { return Ok(None) };
            match value.parse() {
                Ok(number) if (1..=max).contains(&number) => Ok(Some(number)),
                _ => Err(OptionError {
                    variable,
                    value,
                    expected: "a positive integer",
                }),
            }
        };
        let switch = |variable, default| match given(variable) {
            None => Ok(default),
            Some(value) => match value.as_str() {
                "1" | "yes" | "true" => Ok(true),
                "0" | "no" | "false" => Ok(false),
                _ => Err(OptionError {
                    variable,
                    value,
                    expected: "yes or no",
                }),
            },
        };
        if let Some(files) = number(MAX_FILES_VARIABLE, LARGEST_MAX_FILES)? {
            options.limits.files = u32::try_from(files).unwrap_or(u32::MAX - 2);
        }
        if let Some(bytes) = number(MAX_BYTES_VARIABLE, LARGEST_MAX_BYTES)? {
            options.limits.bytes = bytes;
        }
        options.compression = match given(COMPRESSION_VARIABLE) {
            None => options.compression,
            Some(value) => match value.as_str() {
                "none" => Compression::None,
                "lz4" => Compression::Lz4,
                _ => {
                    return Err(OptionError {
                        variable: COMPRESSION_VARIABLE,
                        value,
                        expected: "none or lz4",
                    });
                }
            },
        };
        options.keep_blobs = switch(KEEP_BLOBS_VARIABLE, options.keep_blobs)?;
        options.verify = switch(VERIFY_VARIABLE, options.verify)?;
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variable: &str, value: &str) -> Result<Options, OptionError> {
        Options::from(|name| (name == variable).then(|| value.to_owned()))
    }

    #[test]
    fn unset_options_have_their_defaults() {
        assert_eq!(Options::from(|_| None).unwrap(), Options::default());
        assert_eq!(parse(KEEP_BLOBS_VARIABLE, "").unwrap(), Options::default());
    }

    #[test]
    fn values_are_parsed_or_refused_with_their_variable() {
        assert_eq!(parse(MAX_FILES_VARIABLE, "7").unwrap().limits.files, 7);
        assert_eq!(parse(MAX_BYTES_VARIABLE, "1000000").unwrap().limits.bytes, 1_000_000);
        let compression = |value| parse(COMPRESSION_VARIABLE, value).unwrap().compression;
        assert_eq!(
            (compression("lz4"), compression("none")),
            (Compression::Lz4, Compression::None)
        );
        assert!(!parse(KEEP_BLOBS_VARIABLE, "no").unwrap().keep_blobs);
        assert!(parse(VERIFY_VARIABLE, "1").unwrap().verify);
        for (variable, value) in [
            (MAX_FILES_VARIABLE, "0"),
            (MAX_BYTES_VARIABLE, "1G"),
            (VERIFY_VARIABLE, "maybe"),
            (COMPRESSION_VARIABLE, "zstd"),
        ] {
            let error = parse(variable, value).unwrap_err().to_string();
            assert!(error.contains(variable) && error.contains(value), "{error}");
        }
    }
}
