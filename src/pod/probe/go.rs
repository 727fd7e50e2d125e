//! Formats parts of the kubelet's messages as Go does.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use microkube_base::causes;

/// A duration of whole seconds: `1s`, `1m30s`, `1h0m0s`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() > 0 {
        return format!("{}ms", duration.as_millis());
    }
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `%q`: in quotes, with control characters escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// An error of the operating system in Go's form: `connection refused`.
pub(super) fn io_error(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code).to_string(),
        None => error.to_string(),
    };
    // The standard library adds ` (os error 111)`.
    let bare = text.split(" (os error").next().unwrap_or_default();
    let mut characters = bare.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => text,
    }
}

/// The innermost I/O error in an error's chain, if there is one.
pub(super) fn io_error_below<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e io::Error> {
    causes::layers(error).filter_map(|error| error.downcast_ref()).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_quotes_and_errors_are_formatted_as_in_go() {
        let shown = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(
            [shown(1), shown(59), shown(60), shown(90), shown(3600)],
            ["1s", "59s", "1m0s", "1m30s", "1h0m0s"]
        );
        assert_eq!(duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(quoted("a\"b\\c\n\u{1b}[0m\u{e4}"), "\"a\\\"b\\\\c\\n\\x1b[0m\u{e4}\"");
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(io_error(&refused), "connection refused");
        let wrapped = io::Error::other(io::Error::from_raw_os_error(libc::EHOSTUNREACH));
        assert_eq!(io_error(io_error_below(&wrapped).unwrap()), "no route to host");
    }
}
