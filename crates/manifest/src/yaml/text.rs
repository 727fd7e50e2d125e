//! Preprocesses text before the scanner reads it, or after the scanner has failed. Works on lines and characters only.

use std::borrow::Cow;
use std::collections::HashMap;

use super::super::documents::lines;
use super::super::error::{FieldPath, Location, Problem};

/// JSON writes characters beyond U+FFFF as two escapes, which YAML does not support.
pub(super) fn paired_surrogates(text: &str) -> Cow<'_, str> {
    let hex = |text: &str, range: std::ops::Range<usize>| u16::from_str_radix(text.get(range)?, 16).ok();
    if !text.trim_start().starts_with('{') || !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        replaced.push_str(before);
        let pair = (escape.get(..2) == Some("\\u") && escape.get(6..8) == Some("\\u"))
            .then(|| Some([hex(escape, 2..6)?, hex(escape, 8..12)?]))
            .flatten()
            .and_then(|units| char::decode_utf16(units).next()?.ok())
            .filter(|character| *character > '\u{ffff}');
        let length = match pair {
            Some(character) => {
                replaced.push_str(&format!("\\U{:08X}", u32::from(character)));
                12
            }
            // The escaped character may be a backslash.
            None => {
                let length = 1 + escape.chars().nth(1).map_or(0, char::len_utf8);
                replaced.push_str(&escape[..length]);
                length
            }
        };
        rest = &escape[length..];
    }
    replaced.push_str(rest);
    Cow::Owned(replaced)
}

/// Lines indented with tabs.
pub(super) struct Tabs {
    pub(super) replaced: String,
    /// By line, the number of inserted characters.
    pub(super) counts: HashMap<usize, usize>,
    first: (usize, usize),
}

impl Tabs {
    /// The replacement for a tab.
    const SPACES: &'static str = "  ";

    pub(super) fn find(text: &str) -> Option<Self> {
        let mut tabs = Self {
            replaced: String::with_capacity(text.len()),
            counts: HashMap::new(),
            first: (0, 0),
        };
        for (number, line) in lines(text).enumerate() {
            let content = line.trim_start_matches([' ', '\t']);
            let indentation = &line[..line.len() - content.len()];
            let count = indentation.matches('\t').count();
            if count > 0 && !content.trim().is_empty() {
                if tabs.counts.is_empty() {
                    tabs.first = (number, indentation.find('\t').unwrap_or_default());
                }
                tabs.counts.insert(number, count * (Self::SPACES.len() - 1));
                tabs.replaced.push_str(&indentation.replace('\t', Self::SPACES));
            } else {
                tabs.replaced.push_str(indentation);
            }
            tabs.replaced.push_str(content);
        }
        (!tabs.counts.is_empty()).then_some(tabs)
    }

    pub(super) fn problem(&self, start: Location) -> Problem {
        let more = match self.counts.len() - 1 {
            0 => String::new(),
            1 => " (also on 1 more line)".to_owned(),
            more => format!(" (also on {more} more lines)"),
        };
        let message = format!("not valid YAML: tabs are not allowed for indentation, use spaces{more}");
        let mut problem = Problem::new(&FieldPath::default(), message);
        let (line, column) = self.first;
        problem.location = Some(Location {
            line: start.line + line,
            column: column + 1,
        });
        problem
    }
}
