//! Versions of the formats of records. A record says in which version of its format it was written; what an older build wrote is read, what
//! a newer one wrote is refused, never taken for damaged. `docs/decisions/versions.md` says when a version is raised.
//!
//! Files are not touched here: that is `record`'s.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of all records of a Pod. It is one for all of them: a supervisor that takes a Pod over writes `pod.json` before the others, so
/// whoever knows the version of that file may act on the Pod.
pub const POD_RECORDS_VERSION: u32 = 1;

/// A JSON object that is written to a file for other processes to read, perhaps of another build. Fields that a reader does not know are ignored.
pub trait RecordFormat: Serialize + DeserializeOwned {
    /// The version that is written. It is read, and so are all before it.
    const VERSION: u32;

    /// Understands a record of a version up to [`Self::VERSION`]. 0 is what builds wrote before records had versions.
    ///
    /// # Errors
    /// When it is not what was written in that version.
    fn decode(version: u32, content: &[u8]) -> serde_json::Result<Self> {
        let _ = version;
        serde_json::from_slice(content)
    }
}

/// Why a record is not understood.
#[derive(Debug)]
pub(super) enum FormatError {
    /// Its version is a later one than this build knows.
    Newer { found: u64, known: u32 },
    /// It is not what was written.
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

/// The record with its version, in as few bytes as possible.
///
/// # Errors
/// When it is no JSON object.
pub fn encode<T: RecordFormat>(record: &T) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Versioned::of(record))
}

/// The record with its version, for people to read, too.
///
/// # Errors
/// When it is no JSON object.
pub(super) fn encode_pretty<T: RecordFormat>(record: &T) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec_pretty(&Versioned::of(record))
}

/// Understands a record of any version that is known.
pub(super) fn decode<T: RecordFormat>(content: &[u8]) -> Result<T, FormatError> {
    let version = version_of(content, T::VERSION)?;
    T::decode(version, content).map_err(FormatError::Damaged)
}

/// The version that a record says, 0 if it says none; an error if it is later than `known`.
pub(super) fn version_of(content: &[u8], known: u32) -> Result<u32, FormatError> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        version: u64,
    }
    // Lists were written before there were versions. As a `Head`, one would be taken for its fields.
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
    fn the_version_is_written_and_older_ones_are_read_in_their_own_form() {
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
    fn a_later_version_is_told_whatever_else_there_is_and_what_is_no_version_is_damage() {
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
