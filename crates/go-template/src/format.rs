//! Values as text, as Go's `fmt` writes them.

use serde_json::Value;

use crate::float;
use crate::output::{MAX_OUTPUT_BYTES, Output};
use crate::quote::{is_printable, quoted, quoted_with};
use crate::value::{IntType, Val};

/// Values are nested less deep than this, unless they were not read from text.
const MAX_DEPTH: usize = 256;

/// The value as Go's `%v` shows it, such as `map[a:[1 b]]`.
#[must_use]
pub fn go_text(value: &Value) -> String {
    let mut out = Output::new(MAX_OUTPUT_BYTES);
    Directive::default().write(&mut out, &Val::Boxed(value).unboxed(), 'v');
    out.text
}

/// `%v`
pub(crate) fn write_plain(out: &mut Output, value: &Val<'_>) {
    Directive::default().write(out, value, 'v');
}

/// What stands between `%` and the verb.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Directive {
    pub(crate) sharp: bool,
    pub(crate) zero: bool,
    pub(crate) plus: bool,
    pub(crate) minus: bool,
    pub(crate) space: bool,
    pub(crate) width: Option<usize>,
    pub(crate) precision: Option<usize>,
}

impl Directive {
    /// Writes a value. It is unboxed.
    pub(crate) fn write(&self, out: &mut Output, value: &Val<'_>, verb: char) {
        match (value, verb) {
            (Val::Missing | Val::Nil, 'T' | 'v') => self.pad(out, "<nil>"),
            (_, 'T') => self.pad(out, value.type_name()),
            (Val::Missing | Val::Nil, _) => bad_verb(out, value, verb),
            _ => self.element(out, value, verb, 0),
        }
    }

    fn element(&self, out: &mut Output, value: &Val<'_>, verb: char, depth: usize) {
        if depth > MAX_DEPTH || out.is_full() {
            return;
        }
        let shows_syntax = verb == 'v' && self.sharp;
        match value {
            Val::Missing | Val::Nil => out.push_str(if shows_syntax { "interface {}(nil)" } else { "<nil>" }),
            Val::Boxed(_) => self.element(out, &value.clone().unboxed(), verb, depth + 1),
            Val::Bool(truth) => match verb {
                't' | 'v' => self.pad(out, if *truth { "true" } else { "false" }),
                _ => bad_verb(out, value, verb),
            },
            Val::Int(number, int_type) => self.int(out, *number, *int_type, verb),
            Val::Float(number) => self.float(out, *number, verb),
            Val::Str(text) => self.text(out, text, verb),
            Val::Text(text) => self.text(out, text, verb),
            Val::List(list) => {
                let (open, separator, close) = if shows_syntax {
                    ("[]interface {}{", ", ", "}")
                } else {
                    ("[", " ", "]")
                };
                out.push_str(open);
                for (index, item) in list.iter().enumerate() {
                    if index > 0 {
                        out.push_str(separator);
                    }
                    self.element(out, &Val::Boxed(item), verb, depth + 1);
                }
                out.push_str(close);
            }
            Val::Map(map) => {
                let (open, separator, close) = if shows_syntax {
                    ("map[string]interface {}{", ", ", "}")
                } else {
                    ("map[", " ", "]")
                };
                let mut entries: Vec<(&String, &Value)> = map.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                out.push_str(open);
                for (index, (key, item)) in entries.into_iter().enumerate() {
                    if index > 0 {
                        out.push_str(separator);
                    }
                    self.text(out, key, verb);
                    out.push(':');
                    self.element(out, &Val::Boxed(item), verb, depth + 1);
                }
                out.push_str(close);
            }
        }
    }

    /// Writes a text with the width of this directive.
    fn pad(&self, out: &mut Output, text: &str) {
        let missing = self.width.unwrap_or_default().saturating_sub(text.chars().count());
        if self.minus {
            out.push_str(text);
            out.repeat(' ', missing);
        } else {
            out.repeat(if self.zero { '0' } else { ' ' }, missing);
            out.push_str(text);
        }
    }

    fn pad_with_spaces(self, out: &mut Output, text: &str) {
        Self { zero: false, ..self }.pad(out, text);
    }

    fn text(&self, out: &mut Output, text: &str, verb: char) {
        let end = |length: usize| text.char_indices().nth(length).map_or(text.len(), |(end, _)| end);
        let truncated = &text[..self.precision.map_or(text.len(), end)];
        match verb {
            'v' if self.sharp => self.pad(out, &quoted(truncated)),
            'v' | 's' => self.pad(out, truncated),
            'q' => self.quoted(out, truncated),
            'x' | 'X' => self.hexadecimal(out, text, verb),
            _ => bad_verb(out, &Val::Text(text.into()), verb),
        }
    }

    fn quoted(&self, out: &mut Output, text: &str) {
        let can_be_raw = |c: char| c == '\t' || (c != '`' && c != '\u{feff}' && !c.is_ascii_control());
        if self.sharp && text.chars().all(can_be_raw) {
            self.pad(out, &format!("`{text}`"));
        } else {
            self.pad(out, &quoted_with(text, '"', self.plus));
        }
    }

    fn hexadecimal(&self, out: &mut Output, text: &str, verb: char) {
        let bytes = text.as_bytes();
        let bytes = &bytes[..self.precision.unwrap_or(bytes.len()).min(bytes.len())];
        if bytes.len() > out.left() {
            // It would be dropped.
            out.push_str(text);
            out.reserve(usize::MAX);
            return;
        }
        let prefix = match verb {
            _ if !self.sharp || bytes.is_empty() => "",
            'x' => "0x",
            _ => "0X",
        };
        let mut digits = String::from(prefix);
        for (index, byte) in bytes.iter().enumerate() {
            if self.space && index > 0 {
                digits.push(' ');
                digits += prefix;
            }
            digits += &if verb == 'x' {
                format!("{byte:02x}")
            } else {
                format!("{byte:02X}")
            };
        }
        self.pad(out, &digits);
    }

    fn int(&self, out: &mut Output, number: i64, int_type: IntType, verb: char) {
        let magnitude = number.unsigned_abs();
        let character = u32::try_from(number).ok().and_then(char::from_u32);
        match verb {
            'v' if self.sharp && int_type == IntType::Uint8 => {
                self.digits(out, number, &format!("{magnitude:x}"), "0x");
            }
            // Not a prefix.
            'v' => Self {
                sharp: false,
                plus: false,
                ..*self
            }
            .digits(out, number, &magnitude.to_string(), ""),
            'd' => self.digits(out, number, &magnitude.to_string(), ""),
            'b' => self.digits(out, number, &format!("{magnitude:b}"), "0b"),
            'o' => self.digits(out, number, &format!("{magnitude:o}"), "0"),
            'O' => Self { sharp: true, ..*self }.digits(out, number, &format!("{magnitude:o}"), "0o"),
            'x' => self.digits(out, number, &format!("{magnitude:x}"), "0x"),
            'X' => self.digits(out, number, &format!("{magnitude:X}"), "0X"),
            'c' => self.pad(out, &character.unwrap_or(char::REPLACEMENT_CHARACTER).to_string()),
            'q' => {
                let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
                self.pad(out, &quoted_with(&character.to_string(), '\'', self.plus));
            }
            'U' => {
                let digits = self.precision.unwrap_or(4).max(4);
                let mut text = format!("U+{}", zeros_before(&format!("{number:X}"), digits));
                if let Some(character) = character.filter(|c| self.sharp && is_printable(*c)) {
                    text += &format!(" '{character}'");
                }
                self.pad_with_spaces(out, &text);
            }
            _ => bad_verb(out, &Val::Int(number, int_type), verb),
        }
    }

    fn digits(&self, out: &mut Output, number: i64, digits: &str, prefix: &str) {
        if self.precision == Some(0) && number == 0 {
            return self.pad_with_spaces(out, "");
        }
        let sign = self.sign(number < 0);
        let least = match (self.precision, self.width) {
            (Some(precision), _) => precision,
            (None, Some(width)) if self.zero && !self.minus => width.saturating_sub(sign.len()),
            _ => 0,
        };
        let prefix = if self.sharp && !(prefix == "0" && least > digits.len()) {
            prefix
        } else {
            ""
        };
        let text = format!("{sign}{prefix}{}", zeros_before(digits, least));
        self.pad_with_spaces(out, &text);
    }

    fn sign(&self, is_negative: bool) -> &'static str {
        match (is_negative, self.plus, self.space) {
            (true, _, _) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }

    fn float(&self, out: &mut Output, number: f64, verb: char) {
        if !matches!(verb, 'v' | 'b' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'x' | 'X') {
            return bad_verb(out, &Val::Float(number), verb);
        }
        let keeps_zeros = self.sharp && verb != 'v';
        let mut digits = float::digits(number, verb, self.precision, keeps_zeros);
        if verb.is_ascii_uppercase() {
            digits.make_ascii_uppercase();
        }
        let plus = self.plus && verb != 'v';
        let sign = Self { plus, ..*self }.sign(number.is_sign_negative());
        match self.width {
            Some(width) if self.zero && !self.minus => {
                let width = width.saturating_sub(sign.len());
                self.pad_with_spaces(out, &format!("{sign}{}", zeros_before(&digits, width)));
            }
            _ => self.pad_with_spaces(out, &format!("{sign}{digits}")),
        }
    }
}

/// The digits with zeros before them, if there are fewer. Rust's own widths end at 65535.
fn zeros_before(digits: &str, least: usize) -> String {
    "0".repeat(least.saturating_sub(digits.len())) + digits
}

/// `%!d(string=a)`
pub(crate) fn bad_verb(out: &mut Output, value: &Val<'_>, verb: char) {
    out.push_str("%!");
    out.push(verb);
    out.push('(');
    if value.is_some() {
        out.push_str(value.type_name());
        out.push('=');
    }
    write_plain(out, value);
    out.push(')');
}
