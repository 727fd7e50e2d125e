//! Parses a configuration file into its settings, or into a list of everything wrong with it.

use super::error::{Problem, Problems};
use super::place;
use super::settings::Setting;
use super::walk::{Given, Walk};

/// The settings in a file.
#[derive(Debug, Clone, Default)]
pub struct FileSettings {
    text: String,
    given: Vec<Given>,
}

impl FileSettings {
    /// The value of a setting as the text of its variable, if the file sets it.
    #[must_use]
    pub fn text_of(&self, setting: &Setting) -> Option<&str> {
        self.given(setting).map(|given| &*given.text)
    }

    /// [`Self::text_of`], and the line of the key.
    pub(super) fn get(&self, setting: &Setting) -> Option<(&str, usize)> {
        let given = self.given(setting)?;
        let (line, _) = place::of(&self.text, given.key)?;
        Some((&given.text, line))
    }

    fn given(&self, setting: &Setting) -> Option<&Given> {
        self.given.iter().find(|given| std::ptr::eq(given.setting, setting))
    }
}

/// Parses the content of a file. `source` is its name in messages.
///
/// # Errors
/// Everything that is wrong in the parts of the text that can be parsed.
pub fn read(source: &str, bytes: &[u8]) -> Result<FileSettings, Problems> {
    let wrong = |list, omitted| Problems {
        source: source.to_owned(),
        list,
        omitted,
    };
    let text = text(bytes).map_err(|problem| wrong(vec![problem], 0))?;
    let mut walk = Walk::default();
    let failure = walk.file(text).err();
    let mut problems: Vec<Problem> = walk
        .faults
        .iter()
        .map(|fault| Problem {
            place: place::of(text, fault.at),
            message: match fault.first.and_then(|first| place::of(text, first)) {
                Some((line, _)) => format!("{}; it is already on line {line}", fault.message),
                None => fault.message.clone(),
            },
        })
        .collect();
    problems.extend(failure.map(|error| not_yaml(text, &error)));
    if problems.is_empty() {
        let (text, given) = (text.to_owned(), walk.given);
        Ok(FileSettings { text, given })
    } else {
        Err(wrong(problems, walk.omitted))
    }
}

/// The bytes as text, without a byte order mark.
fn text(bytes: &[u8]) -> Result<&str, Problem> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| Problem {
        place: Some(end_of(bytes.get(..error.valid_up_to()).unwrap_or_default())),
        message: "not valid YAML: a byte that is not UTF-8".to_owned(),
    })
}

/// Line and column after these bytes.
fn end_of(bytes: &[u8]) -> (usize, usize) {
    let text = String::from_utf8_lossy(bytes);
    let line = text.rsplit('\n').next().unwrap_or_default();
    (text.matches('\n').count() + 1, line.chars().count() + 1)
}

fn not_yaml(text: &str, error: &serde_yaml::Error) -> Problem {
    let (mut place, mut message) = (place::of_error(error), error.to_string());
    if let Some((line, column)) = place {
        message = message.replacen(&format!(" at line {line} column {column}"), "", 1);
    }
    // For characters that YAML does not allow, only the offset is known.
    if let Some((what, offset)) = message.rsplit_once(" at position ")
        && let Some(before) = offset
            .parse()
            .ok()
            .and_then(|offset: usize| text.as_bytes().get(..offset))
    {
        (place, message) = (Some(end_of(before)), what.to_owned());
    }
    let line = place.and_then(|(line, _)| text.lines().nth(line.saturating_sub(1)));
    if line.is_some_and(|line| line.trim_start_matches(' ').starts_with('\t')) {
        message += "; tabs are not allowed for indentation, use spaces";
    }
    Problem {
        place,
        message: format!("not valid YAML: {message}"),
    }
}
