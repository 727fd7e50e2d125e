//! Standard output, and making external text harmless for the terminal.

use std::io::{IsTerminal, Write};

use microkube_image::is_unprintable;

/// Exit code when the output is closed: that of SIGPIPE, which ends kubectl in this case.
pub(super) const EXIT_OUTPUT_CLOSED: u8 = 128 + libc::SIGPIPE as u8;

/// Writing to standard output failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    /// The reader has closed it (`| head`).
    #[error("standard output was closed")]
    Closed,
    /// For example, its disk is full.
    #[error("cannot write to standard output")]
    Failed(#[source] std::io::Error),
}

impl From<std::io::Error> for OutputError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(error),
        }
    }
}

/// Whether the error means that standard output is closed.
pub(super) fn is_output_closed(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(OutputError::Closed))
}

/// Prints to standard output immediately; a closed output is not an error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match write(text) {
        Err(OutputError::Closed) => Ok(()),
        result => Ok(result?),
    }
}

/// Prints to standard output immediately. The error is an [`OutputError`], which ends the verb.
pub(super) fn emit(text: &str) -> anyhow::Result<()> {
    Ok(write(text)?)
}

fn write(text: &str) -> Result<(), OutputError> {
    let mut out = std::io::stdout();
    let shown = if out.is_terminal() {
        std::borrow::Cow::Owned(for_terminal(text))
    } else {
        std::borrow::Cow::Borrowed(text)
    };
    out.write_all(shown.as_bytes())?;
    Ok(out.flush()?)
}

/// Messages may quote external text: from images, registries, manifests, containers. Control characters are made
/// visible.
pub(super) fn for_terminal(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if is_unprintable(character) && !matches!(character, '\n' | '\t') {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// [`for_terminal`], on a single line.
pub(super) fn on_one_line(text: &str) -> String {
    for_terminal(text).replace('\n', "\\n").replace('\t', " ")
}

/// Pretty-printed JSON without characters that control a terminal.
pub(super) fn json_text(value: &serde_json::Value) -> String {
    let mut text = escaped(&format!("{value:#}"));
    text.push('\n');
    text
}

/// Escapes characters in JSON that would control a terminal.
pub(super) fn escaped(json: &str) -> String {
    let mut text = String::new();
    for character in json.chars() {
        // JSON itself escapes the other control characters in its strings.
        if is_unprintable(character) && character != '\n' {
            text += &format!("\\u{:04x}", u32::from(character));
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_escapes_control_characters_without_changing_its_value() {
        let value = serde_json::json!({ "Labels": { "a": "\u{1b}[31m\u{9b}2J\u{202e}\u{7f}é" } });
        let text = json_text(&value);
        assert!(text.chars().all(|c| c == '\n' || !is_unprintable(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn control_characters_are_escaped_except_line_ends() {
        assert_eq!(for_terminal("a\u{1b}[2J\tb\n"), "a\\u{1b}[2J\tb\n");
        assert_eq!(on_one_line("a\u{1b}\tb\nc"), "a\\u{1b} b\\nc");
    }
}
