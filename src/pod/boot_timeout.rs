//! The setting for how long a guest may take to boot.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

const VARIABLE: &str = "MICROKUBE_BOOT_TIMEOUT_SECONDS";

/// The longest boot timeout: a day.
pub const MAX_BOOT_TIMEOUT_SECONDS: u64 = 86_400;

/// The variable has a wrong value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE}: expected a whole number of seconds from 1 to {MAX_BOOT_TIMEOUT_SECONDS}, found {found:?}")]
pub struct BootTimeoutError {
    found: OsString,
}

/// The time from the start of a guest until its agent answers. A guest needs a hundredth of the default; a guest that
/// exceeds the timeout hangs.
///
/// # Errors
/// [`BootTimeoutError`]. Commands that create Pods check this first.
pub fn boot_timeout() -> Result<Duration, BootTimeoutError> {
    of_variable(std::env::var_os(VARIABLE).as_deref())
}

/// The default boot timeout.
#[must_use]
pub fn default_boot_timeout() -> Duration {
    Duration::from_secs(if crate::emulated_host::is_inside() { 90 } else { 10 })
}

fn of_variable(text: Option<&OsStr>) -> Result<Duration, BootTimeoutError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(default_boot_timeout());
    };
    text.to_str()
        .and_then(|text| text.parse::<u64>().ok())
        .filter(|seconds| (1..=MAX_BOOT_TIMEOUT_SECONDS).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| BootTimeoutError { found: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_seconds_up_to_a_day_are_a_boot_timeout() {
        let of = |text: &str| of_variable(Some(text.as_ref()));
        assert_eq!(of_variable(None), Ok(default_boot_timeout()));
        assert_eq!(of(""), Ok(default_boot_timeout()));
        for seconds in [1, 30, MAX_BOOT_TIMEOUT_SECONDS] {
            assert_eq!(of(&seconds.to_string()), Ok(Duration::from_secs(seconds)));
        }
        for text in ["0", "-1", "1.5", "10s", " 10", "86401", "18446744073709551616", "soon"] {
            assert_eq!(
                of(text).unwrap_err().to_string(),
                format!(
                    "MICROKUBE_BOOT_TIMEOUT_SECONDS: expected a whole number of seconds from 1 to 86400, found {text:?}"
                )
            );
        }
    }
}
