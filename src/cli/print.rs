//! What goes to standard output, and how text from outside is kept from acting on the terminal.

use std::io::{IsTerminal, Write};

use microkube_image::is_unprintable;

/// Exit code of a program that ended because nobody reads its output: that of SIGPIPE, of which kubectl dies.
pub(super) const EXIT_OUTPUT_CLOSED: u8 = 128 + libc::SIGPIPE as u8;

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    /// Whoever read it has seen enough (`| head`).
    #[error("nobody reads standard output any more")]
    Closed,
    /// Its disk is full, say.
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

/// Whether this says that nobody reads standard output any more.
pub(super) fn is_output_closed(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(OutputError::Closed))
}

/// Prints to standard output at once, and does not mind if nobody reads it.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match write(text) {
        Err(OutputError::Closed) => Ok(()),
        result => Ok(result?),
    }
}

/// Prints to standard output at once. The error is an [`OutputError`]: then the verb ends.
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

/// Writes what a container has written to standard output, as it is.
pub(super) fn write_output(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = std::io::stdout();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Messages may quote what came from outside: images, registries, manifests, containers. Control characters are shown, not sent.
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

/// [`for_terminal`] for what must stay on one line.
pub(super) fn on_one_line(text: &str) -> String {
    for_terminal(text).replace('\n', "\\n").replace('\t', " ")
}

/// JSON for people and programs, without anything that a terminal would act upon.
pub(super) fn json_text(value: &serde_json::Value) -> String {
    let mut text = escaped(&format!("{value:#}"));
    text.push('\n');
    text
}

/// JSON in which no character is left that a terminal would act upon.
pub(super) fn escaped(json: &str) -> String {
    let mut text = String::new();
    for character in json.chars() {
        // JSON itself escapes the other control characters within its texts.
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
    fn json_carries_no_control_characters_and_means_the_same() {
        let value = serde_json::json!({ "Labels": { "a": "\u{1b}[31m\u{9b}2J\u{202e}\u{7f}é" } });
        let text = json_text(&value);
        assert!(text.chars().all(|c| c == '\n' || !is_unprintable(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn control_characters_are_shown_and_lines_stay_lines() {
        assert_eq!(for_terminal("a\u{1b}[2J\tb\n"), "a\\u{1b}[2J\tb\n");
        assert_eq!(on_one_line("a\u{1b}\tb\nc"), "a\\u{1b} b\\nc");
    }
}
