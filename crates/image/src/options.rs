//! What of the image store can be set, by environment variables.

use microkube_erofs::{Compression, Limits};

/// Variable that says how many files a layer may have.
pub(super) const MAX_FILES_VARIABLE: &str = "MICROKUBE_LAYER_MAX_FILES";
/// Variable that says how many bytes a layer may have.
pub(super) const MAX_BYTES_VARIABLE: &str = "MICROKUBE_LAYER_MAX_BYTES";
/// Variable that says whether layers are kept as they were transferred, too.
const KEEP_BLOBS_VARIABLE: &str = "MICROKUBE_KEEP_BLOBS";
/// Variable that says whether layers are read and compared with their digests before a Pod uses them.
const VERIFY_VARIABLE: &str = "MICROKUBE_VERIFY_LAYERS";
/// Variable that says whether the files of layers are compressed.
const COMPRESSION_VARIABLE: &str = "MICROKUBE_LAYER_COMPRESSION";

/// The settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What a layer may have at most.
    pub limits: Limits,
    /// Whether the files of layers that are converted from now on are compressed.
    pub compression: Compression,
    /// Keep layers as they were transferred: for `save`, and to make a damaged image again without the registry.
    pub keep_blobs: bool,
    /// Read layers and compare them with their digests before they are used.
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

/// A variable has a value that means nothing.
#[derive(Debug, thiserror::Error)]
#[error("{variable}={value:?} makes no sense: it is {expected}")]
pub struct OptionError {
    variable: &'static str,
    value: String,
    expected: &'static str,
}

impl Options {
    /// The settings of this process' environment.
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
                    expected: "a whole number, at least 1 and not astronomic",
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
        // Of the numbers that name an inode one is left for the root.
        if let Some(files) = number(MAX_FILES_VARIABLE, u64::from(u32::MAX - 2))? {
            options.limits.files = u32::try_from(files).unwrap_or(u32::MAX - 2);
        }
        if let Some(bytes) = number(MAX_BYTES_VARIABLE, 16 << 40)? {
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
    fn what_is_not_set_has_its_default() {
        assert_eq!(Options::from(|_| None).unwrap(), Options::default());
        assert_eq!(parse(KEEP_BLOBS_VARIABLE, "").unwrap(), Options::default());
    }

    #[test]
    fn values_are_taken_or_refused_by_name() {
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
