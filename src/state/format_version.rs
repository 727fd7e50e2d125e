//! Versions of record formats. Each record contains the version in which it was written. Records of older builds are
//! read; those of newer builds are refused, and never treated as damaged. `docs/decisions/versions.md` says when a
//! version is raised.
//!
//! This module does not access files; `record` does.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of all records of a Pod. There is one for all of them: a supervisor that takes over a Pod writes
/// `pod.json` before the others, so a process that supports the version of that file may act on the Pod.
pub const POD_RECORDS_VERSION: u32 = 1;

/// A JSON object that is written to a file and read by other processes, perhaps of another build. Readers ignore
/// unknown fields.
pub trait RecordFormat: Serialize + DeserializeOwned {
    /// The version that is written. It and all earlier ones can be read.
    const VERSION: u32;

    /// Decodes a record of a version up to [`Self::VERSION`]. Version 0 is the format from before records had versions.
    ///
    /// # Errors
    /// If it is not a valid record of that version.
    fn decode(version: u32, content: &[u8]) -> serde_json::Result<Self> {
        let _ = version;
        serde_json::from_slice(content)
    }
}

/// Why a record could not be decoded.
#[derive(Debug)]
pub(super) enum FormatError {
    /// Its version is later than the latest one known to this build.
    Newer { found: u64, known: u32 },
    /// The content is not valid.
    Damaged(serde_json::Error),
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    record: &'a T,
}

impl<'a, T: RecordFormat> Versioned<'a, T> {
    fn of(record: &'a T) -> Self {
        Self {
            version: T::VERSION,
            record,
        }
    }
}

/// Encodes the record with its version, in compact form.
///
/// # Errors
/// If it is not a JSON object.
pub fn encode<T: RecordFormat>(record: &T) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Versioned::of(record))
}

/// Encodes the record with its version, in readable form.
///
/// # Errors
/// If it is not a JSON object.
pub(super) fn encode_pretty<T: RecordFormat>(record: &T) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec_pretty(&Versioned::of(record))
}

/// Decodes a record of any known version.
pub(super) fn decode<T: RecordFormat>(content: &[u8]) -> Result<T, FormatError> {
    let version = version_of(content, T::VERSION)?;
    T::decode(version, content).map_err(FormatError::Damaged)
}

/// The version in a record, 0 if it has none; an error if it is later than `known`.
pub(super) fn version_of(content: &[u8], known: u32) -> Result<u32, FormatError> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        version: u64,
    }
    // Lists predate versions. Decoding a list as a `Head` would treat its elements as fields.
    if content.trim_ascii_start().first() != Some(&b'{') {
        return Ok(0);
    }
    let Head { version: found } = serde_json::from_slice(content).map_err(FormatError::Damaged)?;
    match u32::try_from(found) {
        Ok(version) if version <= known => Ok(version),
        _ => Err(FormatError::Newer { found, known }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Name {
        name: String,
    }

    impl RecordFormat for Name {
        const VERSION: u32 = 2;

        fn decode(version: u32, content: &[u8]) -> serde_json::Result<Self> {
            match version {
                0 => serde_json::from_slice(content).map(|[name]: [String; 1]| Self { name }),
                _ => serde_json::from_slice(content),
            }
        }
    }

    fn name(content: &str) -> Result<String, FormatError> {
        decode::<Name>(content.as_bytes()).map(|record| record.name)
    }

    #[test]
    fn the_version_is_written_and_older_versions_are_read() {
        let record = Name { name: "web".to_owned() };
        let text = encode(&record).unwrap();
        assert_eq!(text, br#"{"version":2,"name":"web"}"#);
        for content in [
            r#" ["web"]"#,
            r#"{"name":"web","version":1}"#,
            r#"{"version":2,"name":"web","later":[{}]}"#,
        ] {
            assert_eq!(name(content).unwrap(), "web");
        }
        assert_eq!(decode::<Name>(&encode_pretty(&record).unwrap()).unwrap(), record);
    }

    #[test]
    fn a_newer_version_is_reported_despite_other_content_and_an_invalid_one_is_damage() {
        for (version, found) in [("3", 3), ("18446744073709551615", u64::MAX)] {
            let later = format!("{{\"names\":[\"web\"],\"version\":{version}}}");
            assert!(matches!(name(&later), Err(FormatError::Newer { found: said, known: 2 }) if said == found));
        }
        for content in [
            r#"{"version":"2","name":"web"}"#,
            r#"{"version":-1,"name":"web"}"#,
            r#"{"version":1e30,"name":"web"}"#,
            r#"{"version":2,"version":2,"name":"web"}"#,
            r#"{"version":2"#,
            r#"{"name":"web"}"#,
            "[3]",
            "",
        ] {
            assert!(matches!(name(content), Err(FormatError::Damaged(_))), "{content}");
        }
    }
}
