//! `metadata.resourceVersion`.

use std::fmt;
use std::str::FromStr;

/// A moment in the history of all objects of the node. Each write of any object takes the next number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceVersion(pub(crate) u64);

impl ResourceVersion {
    /// The number itself.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not a resourceVersion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid resource version {0:?}")]
pub struct InvalidResourceVersion(String);

impl FromStr for ResourceVersion {
    type Err = InvalidResourceVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decimal(text)
            .map(Self)
            .ok_or_else(|| InvalidResourceVersion(text.chars().take(40).collect()))
    }
}

/// Parses a number as [`fmt::Display`] writes it, without sign or leading zeros.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_parsed_only_in_the_form_in_which_it_is_written() {
        for number in [0, 7, u64::MAX] {
            let text = ResourceVersion(number).to_string();
            assert_eq!(text.parse(), Ok(ResourceVersion(number)));
        }
        for text in ["", "+1", "-1", "01", "1 ", "x", "18446744073709551616"] {
            assert!(text.parse::<ResourceVersion>().is_err(), "{text}");
        }
    }
}
