//! Durations on the command line, in kubectl's format.

use std::time::Duration;

use anyhow::anyhow;

/// kubectl's value for a negative timeout.
const ONE_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timeout(pub(super) Duration);

/// Parses a duration in Go's notation, or seconds.
pub(super) fn duration(text: &str) -> anyhow::Result<Timeout> {
    let invalid = || anyhow!("invalid duration {text:?}: use a value such as 30s, 5m or 1h30m");
    if text.starts_with('-') {
        duration(text.trim_start_matches('-'))?;
        return Ok(Timeout(ONE_WEEK));
    }
    let mut total = 0_f64;
    let mut rest = text;
    if rest.parse::<f64>().is_ok() {
        // Seconds without a unit.
        total = rest.parse().map_err(|_| invalid())?;
        rest = "";
    } else if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let units = [
            ("ms", 0.001),
            ("us", 1e-6),
            ("ns", 1e-9),
            ("h", 3600.0),
            ("m", 60.0),
            ("s", 1.0),
        ];
        let (unit, seconds) = units
            .into_iter()
            .find(|(unit, _)| after.starts_with(unit))
            .ok_or_else(invalid)?;
        total += number * seconds;
        rest = after.strip_prefix(unit).unwrap_or_default();
    }
    // A year is effectively forever.
    let seconds = if total.is_finite() {
        total.clamp(0.0, 366.0 * 86_400.0)
    } else {
        return Err(invalid());
    };
    Ok(Timeout(Duration::from_secs_f64(seconds)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_parsed_as_in_go() {
        for (text, expected) in [
            ("30s", 30.0),
            ("1h30m", 5400.0),
            ("1.5m", 90.0),
            ("250ms", 0.25),
            ("0", 0.0),
            ("5", 5.0),
        ] {
            assert_eq!(duration(text).unwrap().0, Duration::from_secs_f64(expected), "{text}");
        }
        assert_eq!(duration("-1s").unwrap().0, ONE_WEEK);
        for text in ["", "s", "1x", "1h30", "-", "nan", "inf", "1..2s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_duration_is_parsed_or_refused(time in "[0-9.hmsue-]{0,12}") {
            let _ = duration(&time);
        }
    }
}
