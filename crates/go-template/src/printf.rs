//! `print`, `println` and `printf`.

use crate::format::{Directive, write_plain};
use crate::output::Output;
use crate::value::Val;

/// Widths and precisions are at most this.
const MAX_WIDTH: i64 = 1_000_000;

/// A space stands between two values if neither is a string.
pub(crate) fn print(out: &mut Output, values: &[Val<'_>]) {
    let mut was_string = true;
    for (index, value) in values.iter().enumerate() {
        let is_string = value.as_str().is_some();
        if index > 0 && !is_string && !was_string {
            out.push(' ');
        }
        write_plain(out, value);
        was_string = is_string;
    }
}

/// The values with spaces between them, and a line end.
pub(crate) fn println(out: &mut Output, values: &[Val<'_>]) {
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        write_plain(out, value);
    }
    out.push('\n');
}

/// The values where the format names them.
pub(crate) fn printf(out: &mut Output, format: &str, values: &[Val<'_>]) {
    let mut arguments = Arguments {
        values,
        at: 0,
        is_reordered: false,
        is_index_good: true,
    };
    let mut is_reordered = false;
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        out.push_str(&rest[..percent]);
        rest = &rest[percent + 1..];
        arguments.is_reordered = false;
        arguments.is_index_good = true;
        rest = directive(out, &mut arguments, rest);
        is_reordered = arguments.is_reordered;
        if out.is_full() {
            return;
        }
    }
    out.push_str(rest);
    if let Some(extra) = values
        .get(arguments.at..)
        .filter(|extra| !is_reordered && !extra.is_empty())
    {
        out.push_str("%!(EXTRA ");
        for (index, value) in extra.iter().enumerate() {
            if index > 0 {
                out.push_str(", ");
            }
            if value.is_some() {
                out.push_str(value.type_name());
                out.push('=');
            }
            write_plain(out, value);
        }
        out.push(')');
    }
}

struct Arguments<'v, 'a> {
    values: &'v [Val<'a>],
    at: usize,
    is_reordered: bool,
    is_index_good: bool,
}

impl Arguments<'_, '_> {
    /// `[2]` selects the second value.
    fn index<'f>(&mut self, text: &'f str) -> (&'f str, bool) {
        let Some(inner) = text.strip_prefix('[') else {
            return (text, false);
        };
        self.is_reordered = true;
        let Some((index, rest)) = inner.split_once(']') else {
            self.is_index_good = false;
            return (inner, false);
        };
        match number(index) {
            Some((index, "")) if index >= 1 && usize::try_from(index).is_ok_and(|i| i <= self.values.len()) => {
                self.at = usize::try_from(index - 1).unwrap_or_default();
                (rest, true)
            }
            _ => {
                self.is_index_good = false;
                (rest, true)
            }
        }
    }

    /// The integer for a `*`.
    fn star(&mut self) -> Option<i64> {
        let value = self.values.get(self.at)?;
        self.at += 1;
        match value {
            Val::Int(number, _) if number.abs() <= MAX_WIDTH => Some(*number),
            _ => None,
        }
    }
}

/// The number at the start of a text, and the rest. Numbers that are too large are none.
fn number(text: &str) -> Option<(i64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..end].parse().ok().filter(|number| *number <= MAX_WIDTH)?;
    Some((number, &text[end..]))
}

/// Writes a value by the directive at the start of a text, and returns the rest.
fn directive<'f>(out: &mut Output, arguments: &mut Arguments<'_, '_>, text: &'f str) -> &'f str {
    let mut directive = Directive::default();
    let mut rest = text;
    while let Some(flag) = rest.chars().next().filter(|c| "#0+- ".contains(*c)) {
        match flag {
            '#' => directive.sharp = true,
            '0' => directive.zero = true,
            '+' => directive.plus = true,
            '-' => directive.minus = true,
            _ => directive.space = true,
        }
        rest = &rest[1..];
    }
    let mut is_after_index;
    (rest, is_after_index) = arguments.index(rest);
    if let Some(after) = rest.strip_prefix('*') {
        rest = after;
        match arguments.star() {
            Some(width) => {
                directive.minus |= width < 0;
                directive.width = usize::try_from(width.unsigned_abs()).ok();
            }
            None => out.push_str("%!(BADWIDTH)"),
        }
        is_after_index = false;
    } else if let Some((width, after)) = number(rest) {
        rest = after;
        directive.width = usize::try_from(width).ok();
        // `%[3]2d`
        arguments.is_index_good &= !is_after_index;
    }
    if let Some(after) = rest.strip_prefix('.') {
        arguments.is_index_good &= !is_after_index;
        (rest, is_after_index) = arguments.index(after);
        if let Some(after) = rest.strip_prefix('*') {
            rest = after;
            directive.precision = arguments.star().and_then(|precision| usize::try_from(precision).ok());
            if directive.precision.is_none() {
                out.push_str("%!(BADPREC)");
            }
            is_after_index = false;
        } else if let Some((precision, after)) = number(rest) {
            rest = after;
            directive.precision = usize::try_from(precision).ok();
        } else {
            directive.precision = Some(0);
        }
    }
    if !is_after_index {
        (rest, _) = arguments.index(rest);
    }
    let Some(verb) = rest.chars().next() else {
        out.push_str("%!(NOVERB)");
        return rest;
    };
    rest = &rest[verb.len_utf8()..];
    if verb == '%' {
        out.push('%');
        return rest;
    }
    let problem = match arguments.values.get(arguments.at) {
        _ if !arguments.is_index_good => "(BADINDEX)",
        None => "(MISSING)",
        Some(value) => {
            arguments.at += 1;
            directive.write(out, value, verb);
            return rest;
        }
    };
    out.push_str("%!");
    out.push(verb);
    out.push_str(problem);
    rest
}
