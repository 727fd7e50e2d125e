//! Splits a file's bytes into documents. Detects non-text input, oversized input and several JSON objects before YAML
//! parsing.

use super::error::{FieldPath, Location, Problem};

/// The API server accepts 3 MiB per object; a manifest is usually a few kilobytes.
pub const MAX_TEXT_BYTES: usize = 4 << 20;

/// A file or standard input.
#[derive(Debug, Clone, Copy)]
pub struct Input<'t> {
    /// Its name in messages, as the user gave it.
    pub source: &'t str,
    /// Its content.
    pub text: &'t [u8],
}

/// One document of a file, and where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'t> {
    /// The text, including a preceding `---`.
    pub text: &'t str,
    /// Where it begins in the file.
    pub start: Location,
}

/// Splits a file into its documents, without the empty ones.
pub fn split(bytes: &[u8]) -> Result<Vec<Document<'_>>, Problem> {
    let text = text(bytes)?;
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut position = 0;
    for (number, line) in lines(text).enumerate() {
        if position > start && is_marker(line, "---") {
            push(&mut documents, &text[start..position], start_line);
            (start, start_line) = (position, number + 1);
        }
        position += line.len();
    }
    push(&mut documents, &text[start..], start_line);
    Ok(documents)
}

fn push<'t>(documents: &mut Vec<Document<'t>>, text: &'t str, line: usize) {
    let nothing = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "---" || line == "..."
    };
    if lines(text).all(nothing) {
        return;
    }
    let start = Location { line, column: 1 };
    documents.extend(json_values(text, start).unwrap_or_else(|| vec![Document { text, start }]));
}

/// JSON objects one after another, as `kubectl` accepts them. YAML does not allow this.
fn json_values(text: &str, start: Location) -> Option<Vec<Document<'_>>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let (mut documents, mut end) = (Vec::new(), 0);
    while let Some(value) = values.next() {
        value.ok()?;
        let part = text.get(end..values.byte_offset())?;
        let begin = end + (part.len() - part.trim_start().len());
        let start = documents
            .last()
            .map_or(start, |last: &Document<'_>| advance(last.start, last.text));
        let start = advance(start, text.get(end..begin)?);
        end = values.byte_offset();
        documents.push(Document {
            text: text.get(begin..end)?,
            start,
        });
    }
    Some(documents)
}

/// Where a text that begins at `from` ends.
fn advance(from: Location, text: &str) -> Location {
    let breaks = lines(text).filter(|line| line.ends_with(['\n', '\r'])).count();
    let last = lines(text)
        .last()
        .filter(|line| !line.ends_with(['\n', '\r']))
        .unwrap_or_default();
    Location {
        line: from.line + breaks,
        column: if breaks == 0 { from.column } else { 1 } + last.chars().count(),
    }
}

/// The bytes as text, or an error that says what they are.
fn text(bytes: &[u8]) -> Result<&str, Problem> {
    let whole = |message: String| Problem::new(&FieldPath::default(), message);
    if bytes.len() > MAX_TEXT_BYTES {
        let limit = MAX_TEXT_BYTES >> 20;
        return Err(whole(format!("the file is larger than {limit} MiB; is it a manifest?")));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(whole("the file is UTF-16; save it as UTF-8".to_owned()));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let (text, invalid) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, false),
        // The valid part determines where the invalid part begins.
        Err(error) => (
            std::str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default(),
            true,
        ),
    };
    let control = text.find(|c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}'));
    let start = Location { line: 1, column: 1 };
    let (at, what) = match control.and_then(|at| Some((at, text[at..].chars().next()?))) {
        Some((at, '\0')) => (at, "a NUL character".to_owned()),
        Some((at, character)) => (at, format!("the control character U+{:04X}", u32::from(character))),
        None if invalid => (text.len(), "a byte that is not UTF-8".to_owned()),
        None => return Ok(text),
    };
    let mut problem = whole(format!("not valid YAML: {what}; is the file UTF-8 text?"));
    problem.location = Some(advance(start, &text[..at]));
    Err(problem)
}

/// The lines with their terminators: LF, CRLF or CR, as in YAML.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = match rest.find(['\n', '\r']) {
            Some(end) if rest[end..].starts_with("\r\n") => end + 2,
            Some(end) => end + 1,
            None if rest.is_empty() => return None,
            None => rest.len(),
        };
        let line;
        (line, rest) = rest.split_at(end);
        Some(line)
    })
}

/// Whether a line starts with the marker, followed by white space or nothing.
fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str) -> Vec<(&str, usize, usize)> {
        let documents = split(text.as_bytes()).unwrap();
        documents
            .iter()
            .map(|document| (document.text, document.start.line, document.start.column))
            .collect()
    }

    fn refused(bytes: &[u8]) -> (String, Option<(usize, usize)>) {
        let problem = split(bytes).unwrap_err();
        (problem.message, problem.location.map(|at| (at.line, at.column)))
    }

    #[test]
    fn documents_start_at_their_markers_and_empty_ones_are_skipped() {
        assert_eq!(parts("a: 1\n"), [("a: 1\n", 1, 1)]);
        assert_eq!(
            parts("# nothing\n---\na: 1\n--- # second\nb: 2\n---\n---\n...\n"),
            [("---\na: 1\n", 2, 1), ("--- # second\nb: 2\n", 4, 1)]
        );
        assert_eq!(
            parts("a: 1\r\n---\r\nb: 2\r\n"),
            [("a: 1\r\n", 1, 1), ("---\r\nb: 2\r\n", 2, 1)]
        );
        assert_eq!(parts("a: 1\r---\rb: 2")[1], ("---\rb: 2", 2, 1));
        assert_eq!(parts("--- {a: 1}\n"), [("--- {a: 1}\n", 1, 1)]);
        assert_eq!(parts("---a: 1\n"), [("---a: 1\n", 1, 1)]);
        for empty in ["", "\n", "# nothing\n", "---\n---\n", "%YAML 1.2\n---\n", "\u{feff}"] {
            assert_eq!(parts(empty), [], "{empty:?}");
        }
    }

    #[test]
    fn json_objects_may_follow_each_other() {
        assert_eq!(
            parts("{\"a\": 1}{\"b\": 2}\n {\"c\": 3}\n"),
            [("{\"a\": 1}", 1, 1), ("{\"b\": 2}", 1, 9), ("{\"c\": 3}", 2, 2)]
        );
        // These are not JSON, so the YAML parser handles them.
        assert_eq!(parts("{a: 1}\n{b: 2}\n").len(), 1);
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_with_its_position() {
        assert_eq!(refused(b"\x7fELF\x02\x01\xff").1, Some((1, 1)));
        assert_eq!(
            refused(b"a: 1\nb: \xc3\xa4\xff\n"),
            (
                "not valid YAML: a byte that is not UTF-8; is the file UTF-8 text?".to_owned(),
                Some((2, 5))
            )
        );
        assert_eq!(refused(b"a: 1\r\nb: \0").1, Some((2, 4)));
        assert!(refused(b"\xff\xfea\0").0.contains("UTF-16"));
        assert!(refused(&vec![b' '; MAX_TEXT_BYTES + 1]).0.contains("larger than 4 MiB"));
    }

    /// Where a location is in the text, in bytes.
    fn offset(text: &str, location: Location) -> usize {
        let before: usize = lines(text).take(location.line - 1).map(str::len).sum();
        let column = text[before..].char_indices().nth(location.column - 1);
        column.map_or(text.len(), |(at, _)| before + at)
    }

    proptest! {
        #[test]
        fn only_blank_parts_of_the_text_are_dropped(text in "(---|a: b|#c|[{}\"1:]| |\n|\r){0,20}") {
            let mut end = 0;
            for document in split(text.as_bytes()).unwrap() {
                let start = offset(&text, document.start);
                prop_assert!(split(&text.as_bytes()[end..start]).unwrap().is_empty(), "{:?}", &text[end..start]);
                prop_assert!(text[start..].starts_with(document.text), "{document:?}");
                end = start + document.text.len();
            }
            prop_assert!(split(&text.as_bytes()[end..]).unwrap().is_empty(), "{:?}", &text[end..]);
        }
    }
}
