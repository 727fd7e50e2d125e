//! Strings in quotes, as Go's `%q` writes them (`strconv.Quote`).

use std::fmt::Write as _;

/// The text in double quotes. Control characters, quotes, backslashes and characters that cannot be printed are escaped.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len().saturating_add(2));
    quoted.push('"');
    for character in text.chars() {
        push_escaped(&mut quoted, character);
    }
    quoted.push('"');
    quoted
}

fn push_escaped(quoted: &mut String, character: char) {
    let code = u32::from(character);
    let short = match character {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\x0c' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\x0b' => "\\v",
        _ if is_printable(character) => {
            quoted.push(character);
            return;
        }
        _ => {
            // Writing to a string cannot fail.
            let _ = match code {
                ..=0x7f => write!(quoted, "\\x{code:02x}"),
                0x80..=0xffff => write!(quoted, "\\u{code:04x}"),
                _ => write!(quoted, "\\U{code:08x}"),
            };
            return;
        }
    };
    quoted.push_str(short);
}

/// `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols, and and the ASCII space. The standard library
/// makes this decision for its own escapes. It does not escape combining marks after another character; Go never
/// escapes them.
fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return matches!(character, ' '..='~');
    }
    let mut buffer = String::from("a");
    buffer.push(character);
    buffer.escape_debug().nth(1) == Some(character)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_like_go() {
        for (text, expected) in [
            // From the tests of Go's strconv (quote_test.go).
            ("\u{7}\u{8}\u{c}\r\n\t\u{b}", r#""\a\b\f\r\n\t\v""#),
            ("\\", r#""\\""#),
            ("☺", r#""☺""#),
            ("\u{10ffff}", r#""\U0010ffff""#),
            ("\u{4}", r#""\x04""#),
            ("\u{7f}", r#""\x7f""#),
            ("!\u{a0}!\u{2000}!\u{3000}!", r#""!\u00a0!\u2000!\u3000!""#),
            ("", r#""""#),
            ("a'b", r#""a'b""#),
            (r#"say "hi""#, r#""say \"hi\"""#),
            ("e\u{301}", "\"e\u{301}\""),
            ("\u{feff}", r#""\ufeff""#),
            ("\u{ad}", r#""\u00ad""#),
            ("\0", r#""\x00""#),
        ] {
            assert_eq!(quote(text), expected);
        }
    }

    proptest! {
        #[test]
        fn printable_ascii_changes_only_at_quotes_and_backslashes(text in "[ !#-\\[\\]-~]{0,40}") {
            prop_assert_eq!(quote(&text), format!("\"{text}\""));
        }

        #[test]
        fn the_result_is_one_line(text in any::<String>()) {
            prop_assert!(!quote(&text).chars().any(char::is_control));
        }
    }
}
