//! Files of variables that an init container writes for `fileKeyRef` (`ParseEnv` in `pkg/kubelet/util/env/env_util.go`).
//!
//! The format is the subset of POSIX shell syntax in which every value is in single quotes: `NAME='value'`. A value can
//! span lines and has no escapes. Blank lines and comments are ignored.

/// Longest line without its end: `bufio.MaxScanTokenSize` with room for the newline.
const MAX_LINE_BYTES: usize = 64 * 1024 - 1;

/// A problem with the file. The message contains no values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    #[error("the file does not exist")]
    Missing,
    #[error("cannot read the file: {0}")]
    Unreadable(String),
    #[error("invalid environment variable format at line {line}: {what}")]
    Line { line: usize, what: &'static str },
    #[error("invalid environment variable format starting at line {line}: unclosed single quote")]
    UnclosedQuote { line: usize },
    #[error("line {line} is too long: at most {MAX_LINE_BYTES} bytes")]
    LineTooLong { line: usize },
}

/// The first value of this name; empty if the file does not have it. Lines after it are not read.
pub(crate) fn value(file: &[u8], name: &str) -> Result<Vec<u8>, EnvFileError> {
    let mut lines = Lines { rest: file, line: 0 };
    while let Some(text) = lines.next()? {
        let text = trim_start(text);
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        let wrong = |what| EnvFileError::Line { line: lines.line, what };
        let (found, text) = split_once(text, b'=').ok_or_else(|| wrong("missing '='"))?;
        if trim_end(found).is_empty() {
            return Err(wrong("empty variable name"));
        }
        if trim_end(found).len() != found.len() {
            return Err(wrong("whitespace before '=' is not allowed"));
        }
        let is_wanted = found == name.as_bytes();
        if text.starts_with(b" ") || text.starts_with(b"\t") {
            // To a shell, a space ends the empty value.
            if is_wanted {
                return Ok(Vec::new());
            }
            continue;
        }
        let text = text
            .strip_prefix(b"'")
            .ok_or_else(|| wrong("value must be enclosed in single quotes"))?;
        let value = quoted(text, &mut lines)?;
        if is_wanted {
            return Ok(value);
        }
    }
    Ok(Vec::new())
}

/// The value whose opening quote precedes `text`, up to its closing quote on this or a later line.
fn quoted<'f>(mut text: &'f [u8], lines: &mut Lines<'f>) -> Result<Vec<u8>, EnvFileError> {
    let first_line = lines.line;
    let mut value = Vec::new();
    loop {
        if let Some((last, after)) = split_once(text, b'\'') {
            value.extend_from_slice(last);
            let after = trim_start(after);
            if !after.is_empty() && !after.starts_with(b"#") {
                return Err(EnvFileError::Line {
                    line: lines.line,
                    what: "unexpected content after closing quote",
                });
            }
            return Ok(value);
        }
        value.extend_from_slice(text);
        value.push(b'\n');
        text = lines.next()?.ok_or(EnvFileError::UnclosedQuote { line: first_line })?;
    }
}

/// Lines without `\n` or `\r\n`.
struct Lines<'f> {
    rest: &'f [u8],
    /// The number of the line read last.
    line: usize,
}

impl<'f> Lines<'f> {
    fn next(&mut self) -> Result<Option<&'f [u8]>, EnvFileError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.line = self.line.saturating_add(1);
        let (line, rest) = split_once(self.rest, b'\n').unwrap_or((self.rest, &[]));
        self.rest = rest;
        if line.len() > MAX_LINE_BYTES {
            return Err(EnvFileError::LineTooLong { line: self.line });
        }
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }
}

fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == separator)?;
    let (before, after) = text.split_at_checked(at)?;
    Some((before, after.get(1..)?))
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn trim_start(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| is_blank(**byte)).count();
    text.get(blanks..).unwrap_or_default()
}

fn trim_end(text: &[u8]) -> &[u8] {
    let blanks = text.iter().rev().take_while(|byte| is_blank(**byte)).count();
    text.get(..text.len().saturating_sub(blanks)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_read_literally() {
        for (file, name, expected) in [
            ("   A='1'\n\t\tB='2'\nC='3'\n", "B", "2"),
            ("# comment\n\nA='foo'\n   # another\n\nB='bar'\n", "B", "bar"),
            ("A='foo'\n", "B", ""),
            ("", "A", ""),
            ("A='foo#bar'", "A", "foo#bar"),
            ("A='  foo bar  '\n", "A", "  foo bar  "),
            ("A=''\nB='bar'", "A", ""),
            ("A='a=b=c'", "A", "a=b=c"),
            ("A='foo' # comment\n", "A", "foo"),
            ("A='foo'# comment\n", "A", "foo"),
            ("A='$B ${C} $(D)'", "A", "$B ${C} $(D)"),
            (r"A='\n\\'", "A", r"\n\\"),
            ("A='one\n  two\n\n\tthree'\nB='4'\n", "A", "one\n  two\n\n\tthree"),
            ("A='one\n  two'\nB='4'\n", "B", "4"),
            ("A='foo'\r\nB='bar'\r\n", "B", "bar"),
            ("A='1'\nA='2'\n", "A", "1"),
            ("A= 'foo'\nB='bar'\n", "A", ""),
            ("A= 'foo'\nB='bar'\n", "B", "bar"),
            // The faulty line is after the wanted one.
            ("A='foo'\nnonsense\n", "A", "foo"),
            ("A-b.c='1'", "A-b.c", "1"),
        ] {
            let value = value(file.as_bytes(), name).map(|value| String::from_utf8(value).unwrap());
            assert_eq!(value.as_deref(), Ok(expected), "{file}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_line() {
        for (file, expected) in [
            ("A='foo'\nnonsense\nZ='1'", "at line 2: missing '='"),
            ("='foo'\n", "at line 1: empty variable name"),
            (" \t='foo'\n", "at line 1: empty variable name"),
            ("A ='foo'\n", "at line 1: whitespace before '=' is not allowed"),
            ("A=foo\n", "at line 1: value must be enclosed in single quotes"),
            ("A=\"foo\"\n", "at line 1: value must be enclosed in single quotes"),
            ("A=\n", "at line 1: value must be enclosed in single quotes"),
            ("A='foo''bar'", "at line 1: unexpected content after closing quote"),
            ("A='foo\nB='bar'\n", "at line 2: unexpected content after closing quote"),
            ("\nA='foo\nbar\n", "starting at line 2: unclosed single quote"),
        ] {
            let error = value(file.as_bytes(), "Z").unwrap_err().to_string();
            assert_eq!(
                error,
                format!("invalid environment variable format {expected}"),
                "{file}"
            );
        }
    }

    #[test]
    fn a_line_may_have_64_kib_with_its_newline() {
        let file = |length: usize| format!("A='{}'\n", "x".repeat(length - 4));
        assert!(value(file(65_535).as_bytes(), "A").is_ok());
        assert_eq!(
            value(file(65_536).as_bytes(), "A"),
            Err(EnvFileError::LineTooLong { line: 1 })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(file in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = value(&file, "A");
        }

        #[test]
        fn any_value_without_a_quote_survives(text in "[^'\r]{0,60}") {
            let file = format!("# first\nA='1'\nB='{text}'\n");
            prop_assert_eq!(value(file.as_bytes(), "B").unwrap(), text.into_bytes());
        }
    }
}
