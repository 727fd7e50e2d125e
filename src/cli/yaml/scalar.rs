//! Scalars: which quotes a text gets, and where long lines break.

use std::fmt::Write as _;

use microkube_image::is_unprintable;

use super::plain::is_string;

/// The indentation of each level.
pub(super) const INDENT: usize = 2;
/// A line that is longer than this continues on the next one after a space.
const WIDTH: usize = 80;

/// Where a scalar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It must be on one line, such as a key.
    OneLine,
    /// It may have several lines.
    Block,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    SingleQuoted,
    DoubleQuoted,
    Literal,
}

/// Appends a string. Further lines have this indentation.
pub(super) fn write_scalar(text: &mut String, string: &str, indent: usize, place: Place) {
    let lines = Lines {
        column: text.chars().rev().take_while(|character| *character != '\n').count(),
        text,
        indent,
        place,
    };
    match style(string, place) {
        Style::Plain => lines.plain(string),
        Style::SingleQuoted => lines.single_quoted(string),
        Style::DoubleQuoted => lines.double_quoted(string),
        Style::Literal => lines.literal(string),
    }
}

fn style(string: &str, place: Place) -> Style {
    let allowed = Allowed::of(string);
    if string.contains('\n') {
        return match allowed.literal && place == Place::Block {
            true => Style::Literal,
            false => Style::DoubleQuoted,
        };
    }
    match is_string(string) {
        true if allowed.plain => Style::Plain,
        true if allowed.single_quoted => Style::SingleQuoted,
        _ => Style::DoubleQuoted,
    }
}

/// The styles that keep a text as it is.
struct Allowed {
    plain: bool,
    single_quoted: bool,
    literal: bool,
}

impl Allowed {
    fn of(string: &str) -> Self {
        let is_escaped = string.chars().any(is_special);
        let trailing_space = string.ends_with(' ');
        let space_break = string.contains(" \n");
        let break_space = string.contains("\n ");
        let outer_space = string.starts_with([' ', '\n']) || string.ends_with([' ', '\n']);
        let is_bare = !is_escaped && !space_break && !break_space;
        Self {
            plain: is_bare && !outer_space && !has_indicators(string),
            single_quoted: is_bare,
            literal: !is_escaped && !space_break && !trailing_space,
        }
    }
}

/// Whether a part of the text would be read as something else.
fn has_indicators(string: &str) -> bool {
    if string.starts_with("---") || string.starts_with("...") {
        return true;
    }
    let is_blank = |c: char| c == ' ' || c == '\t';
    let mut previous = None;
    let mut characters = string.chars().peekable();
    while let Some(character) = characters.next() {
        let before_blank = characters.peek().is_none_or(|next| is_blank(*next));
        let found = match (character, previous) {
            ('#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`', None) => {
                true
            }
            ('?' | '-', None) | (':', _) => before_blank,
            ('#', Some(previous)) => is_blank(previous) || previous == '\n',
            _ => false,
        };
        if found {
            return true;
        }
        previous = Some(character);
    }
    false
}

/// Whether a character is escaped: those that go-yaml does not print, such as tabs and everything beyond the basic
/// plane, and those that mislead a reader.
fn is_special(character: char) -> bool {
    let is_printed = matches!(
        character,
        '\n' | '\u{20}'..='\u{7e}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}'
    );
    !is_printed || (is_unprintable(character) && character != '\n')
}

/// The lines of a scalar.
struct Lines<'t> {
    text: &'t mut String,
    /// The number of characters on the last line.
    column: usize,
    indent: usize,
    place: Place,
}

impl Lines<'_> {
    fn push(&mut self, character: char) {
        self.text.push(character);
        self.column = self.column.saturating_add(1);
    }

    /// Whether a space may become a line break.
    fn is_full(&self) -> bool {
        self.place == Place::Block && self.column > WIDTH
    }

    fn next_line(&mut self) {
        self.text.push('\n');
        self.text.extend(std::iter::repeat_n(' ', self.indent));
        self.column = self.indent;
    }

    fn plain(mut self, string: &str) {
        self.folded(string);
    }

    fn single_quoted(mut self, string: &str) {
        self.push('\'');
        self.folded(&string.replace('\'', "''"));
        self.push('\'');
    }

    /// Writes characters. Single spaces between words may become line breaks.
    fn folded(&mut self, string: &str) {
        let mut previous = None;
        let mut characters = string.chars().peekable();
        while let Some(character) = characters.next() {
            let next = characters.peek();
            let is_single =
                character == ' ' && !matches!(previous, None | Some(' ')) && !matches!(next, None | Some(' '));
            if is_single && self.is_full() {
                self.next_line();
            } else {
                self.push(character);
            }
            previous = Some(character);
        }
    }

    fn double_quoted(mut self, string: &str) {
        self.push('"');
        let mut previous = None;
        let mut characters = string.chars().peekable();
        while let Some(character) = characters.next() {
            let next = characters.peek().copied();
            let may_break = character == ' ' && !matches!(previous, None | Some(' ')) && next.is_some();
            if may_break && self.is_full() {
                self.next_line();
                // The space that follows is not a part of the indentation.
                if next == Some(' ') {
                    self.push('\\');
                }
            } else if is_special(character) || matches!(character, '\n' | '"' | '\\') {
                self.escaped(character);
            } else {
                self.push(character);
            }
            previous = Some(character);
        }
        self.push('"');
    }

    fn escaped(&mut self, character: char) {
        let short = match character {
            '\0' => '0',
            '\u{7}' => 'a',
            '\u{8}' => 'b',
            '\t' => 't',
            '\n' => 'n',
            '\u{b}' => 'v',
            '\u{c}' => 'f',
            '\r' => 'r',
            '\u{1b}' => 'e',
            '\u{85}' => 'N',
            '\u{2028}' => 'L',
            '\u{2029}' => 'P',
            '"' | '\\' => character,
            _ => {
                let mut code = String::new();
                let _ = match u32::from(character) {
                    number @ ..=0xff => write!(code, "\\x{number:02X}"),
                    number @ ..=0xffff => write!(code, "\\u{number:04X}"),
                    number => write!(code, "\\U{number:08X}"),
                };
                return code.chars().for_each(|character| self.push(character));
            }
        };
        self.push('\\');
        self.push(short);
    }

    fn literal(self, string: &str) {
        self.text.push('|');
        if string.starts_with([' ', '\n']) {
            let _ = write!(self.text, "{INDENT}");
        }
        match string.strip_suffix('\n') {
            None => self.text.push('-'),
            Some(body) if body.is_empty() || body.ends_with('\n') => self.text.push('+'),
            Some(_) => {}
        }
        self.text.push('\n');
        for line in string.split_inclusive('\n') {
            if line != "\n" {
                self.text.extend(std::iter::repeat_n(' ', self.indent));
            }
            self.text.push_str(line);
        }
    }
}
