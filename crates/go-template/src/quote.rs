//! Strings and characters in Go's quotes.

/// Whether Go prints the character as it is.
pub(crate) fn is_printable(c: char) -> bool {
    // A mark at the start of a text would be escaped although it is printable.
    let text: String = ['a', c].iter().collect();
    matches!(c, '"' | '\'' | '\\') || text.escape_debug().eq(text.chars())
}

/// `U+0040 '@'`
pub(crate) fn code_point(c: char) -> String {
    let number = u32::from(c);
    if is_printable(c) {
        format!("U+{number:04X} '{c}'")
    } else {
        format!("U+{number:04X}")
    }
}

/// A text in double quotes.
pub(crate) fn quoted(text: &str) -> String {
    quoted_with(text, '"', false)
}

/// A text in these quotes, with other characters than those of ASCII escaped on request.
pub(crate) fn quoted_with(text: &str, quote: char, only_ascii: bool) -> String {
    let mut quoted = String::from(quote);
    for c in text.chars() {
        match c {
            c if c == quote || c == '\\' => quoted.extend(['\\', c]),
            c if is_printable(c) && (c.is_ascii() || !only_ascii) => quoted.push(c),
            '\u{7}' => quoted += "\\a",
            '\u{8}' => quoted += "\\b",
            '\u{c}' => quoted += "\\f",
            '\n' => quoted += "\\n",
            '\r' => quoted += "\\r",
            '\t' => quoted += "\\t",
            '\u{b}' => quoted += "\\v",
            c => {
                let number = u32::from(c);
                quoted += &match number {
                    0..0x20 | 0x7f => format!("\\x{number:02x}"),
                    0..0x1_0000 => format!("\\u{number:04x}"),
                    _ => format!("\\U{number:08x}"),
                };
            }
        }
    }
    quoted.push(quote);
    quoted
}

/// The text in Go's double quotes, or nothing if it is invalid or not UTF-8.
pub(crate) fn unquoted(quoted: &str) -> Option<String> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::new();
    let mut rest = inner;
    while !rest.is_empty() {
        let (character, after) = unescaped(rest, '"')?;
        rest = after;
        match character {
            Unescaped::Char(c) => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            Unescaped::Byte(byte) => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// A character or, by `\x` or `\377`, a byte.
pub(crate) enum Unescaped {
    Char(char),
    Byte(u8),
}

/// The first character of a text in quotes, and the rest.
pub(crate) fn unescaped(text: &str, quote: char) -> Option<(Unescaped, &str)> {
    let mut characters = text.chars();
    let first = characters.next()?;
    if first != '\\' {
        let is_valid = first != quote && first != '\n';
        return is_valid.then_some((Unescaped::Char(first), characters.as_str()));
    }
    let escape = characters.next()?;
    let rest = characters.as_str();
    let simple = match escape {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' => '\\',
        c if c == quote => c,
        'x' => return byte(rest, 2, 16),
        '0'..='7' => return byte(text.get(1..)?, 3, 8),
        'u' | 'U' => {
            let length = if escape == 'u' { 4 } else { 8 };
            let (number, rest) = digits(rest, length, 16)?;
            return Some((Unescaped::Char(char::from_u32(number)?), rest));
        }
        _ => return None,
    };
    Some((Unescaped::Char(simple), rest))
}

fn byte(text: &str, length: usize, radix: u32) -> Option<(Unescaped, &str)> {
    let (number, rest) = digits(text, length, radix)?;
    Some((Unescaped::Byte(u8::try_from(number).ok()?), rest))
}

fn digits(text: &str, length: usize, radix: u32) -> Option<(u32, &str)> {
    let digits = text.get(..length)?;
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    Some((u32::from_str_radix(digits, radix).ok()?, &text[length..]))
}
