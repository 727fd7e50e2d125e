//! The functions of templates: Go's, and kubectl's `exists` and `base64decode`.

use std::cmp::Ordering;
use std::fmt::Write as _;

use crate::format::Directive;
use crate::output::Output;
use crate::printf;
use crate::quote::is_printable;
use crate::value::{IntType, Val};

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// Anything; no value is nil.
    Any,
    /// Anything; no value is different from nil.
    Value,
    String,
}

/// The parameters of a function.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signature {
    pub(crate) fixed: &'static [Parameter],
    /// The type of any number of parameters that follow.
    pub(crate) more: Option<Parameter>,
}

impl Signature {
    pub(crate) fn parameter(&self, index: usize) -> Parameter {
        let fixed = self.fixed.get(index).copied();
        fixed.or(self.more).unwrap_or(Parameter::Any)
    }
}

/// The parameters of the function with this name.
pub(crate) fn signature(name: &str) -> Option<Signature> {
    use Parameter::{Any, String, Value};
    let (fixed, more): (&[Parameter], _) = match name {
        "and" | "or" | "eq" | "index" | "slice" | "call" => (&[Value], Some(Value)),
        "not" | "len" => (&[Value], None),
        "ne" | "lt" | "le" | "gt" | "ge" => (&[Value, Value], None),
        "print" | "println" | "html" | "js" | "urlquery" => (&[], Some(Any)),
        "printf" => (&[String], Some(Any)),
        "exists" => (&[Any], Some(Any)),
        "base64decode" => (&[String], None),
        _ => return None,
    };
    Some(Signature { fixed, more })
}

pub(crate) fn exists(name: &str) -> bool {
    signature(name).is_some()
}

/// Calls a function. The arguments fit its signature, and are unboxed. `limit` bounds the length of a text.
///
/// # Errors
/// In Go's words.
pub(crate) fn call<'a>(name: &str, arguments: &[Val<'a>], limit: usize, values: InMessages) -> Result<Val<'a>, String> {
    let Some((first, rest)) = arguments.split_first() else {
        // Functions without fixed parameters make texts.
        return text(name, arguments, limit);
    };
    Ok(match name {
        "not" => Val::Bool(!first.is_true()),
        "len" => len(first)?,
        "index" => rest
            .iter()
            .try_fold(indexable(first, "index")?, |item, index| at(&item, index))?,
        "slice" => slice(first, rest)?,
        "call" => return Err("call of nil".to_owned()),
        "exists" => Val::Bool(has(first, rest)),
        "eq" => Val::Bool(equals_any(first, rest, values)?),
        "ne" => Val::Bool(!equals_any(first, rest, values)?),
        "lt" => Val::Bool(order(first, rest)?.is_lt()),
        "ge" => Val::Bool(order(first, rest)?.is_ge()),
        "le" => Val::Bool(order(first, rest)?.is_le()),
        "gt" => Val::Bool(order(first, rest)?.is_gt()),
        "base64decode" => Val::Text(decoded(first.as_str().unwrap_or_default())?.into()),
        _ => return text(name, arguments, limit),
    })
}

fn text<'a>(name: &str, arguments: &[Val<'a>], limit: usize) -> Result<Val<'a>, String> {
    let mut out = Output::new(limit);
    match name {
        "print" => printf::print(&mut out, arguments),
        "println" => printf::println(&mut out, arguments),
        "printf" => {
            let (format, values) = arguments.split_first().unwrap_or((&Val::Missing, &[]));
            printf::printf(&mut out, format.as_str().unwrap_or_default(), values);
        }
        _ => {
            let plain = plain_text(arguments, limit)?;
            let escape = match name {
                "html" => html,
                "js" => js,
                _ => urlquery,
            };
            escape(&mut out, &plain);
        }
    }
    if out.is_full() {
        return Err(too_long(limit));
    }
    Ok(Val::Text(out.text.into()))
}

/// The error for too much text.
pub(crate) fn too_long(limit: usize) -> String {
    format!("the text is longer than the {limit} bytes that are left for this template")
}

/// What the functions that escape texts do with other values.
fn plain_text(arguments: &[Val<'_>], limit: usize) -> Result<String, String> {
    let shown: Vec<Val<'_>> = arguments
        .iter()
        .map(|value| {
            if value.is_some() {
                value.clone()
            } else {
                Val::Str("<no value>")
            }
        })
        .collect();
    let mut out = Output::new(limit);
    printf::print(&mut out, &shown);
    if out.is_full() {
        return Err(too_long(limit));
    }
    Ok(out.text)
}

fn html(out: &mut Output, text: &str) {
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
}

fn js(out: &mut Output, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&format!("\\u{:04X}", u32::from(c))),
        }
    }
}

fn urlquery(out: &mut Output, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

fn len<'a>(value: &Val<'_>) -> Result<Val<'a>, String> {
    Ok(Val::int(match value {
        Val::Missing => return Err("reflect: call of reflect.Value.Type on zero Value".to_owned()),
        Val::Nil => return Err("len of nil pointer".to_owned()),
        Val::List(list) => list.len(),
        Val::Map(map) => map.len(),
        Val::Str(text) => text.len(),
        Val::Text(text) => text.len(),
        other => return Err(format!("len of type {}", other.type_name())),
    }))
}

fn indexable<'a>(value: &Val<'a>, function: &str) -> Result<Val<'a>, String> {
    if value.is_some() {
        Ok(value.clone())
    } else {
        Err(format!("{function} of untyped nil"))
    }
}

/// The position that an index names, at most `limit`.
fn position(index: &Val<'_>, limit: usize) -> Result<usize, String> {
    match index {
        Val::Int(number, _) => match usize::try_from(*number) {
            Ok(position) if position <= limit => Ok(position),
            _ => Err(format!("index out of range: {number}")),
        },
        Val::Missing | Val::Nil => Err("cannot index slice/array with nil".to_owned()),
        other => Err(format!("cannot index slice/array with type {}", other.type_name())),
    }
}

/// The element at an index.
fn at<'a>(item: &Val<'a>, index: &Val<'_>) -> Result<Val<'a>, String> {
    let out_of_range = |position: usize| format!("index out of range: {position}");
    if let Some(text) = item.as_str() {
        let position = position(index, text.len())?;
        let byte = text.as_bytes().get(position).ok_or_else(|| out_of_range(position))?;
        return Ok(Val::Int((*byte).into(), IntType::Uint8));
    }
    match item {
        Val::Missing | Val::Nil => Err("index of nil pointer".to_owned()),
        Val::List(list) => {
            let position = position(index, list.len())?;
            let element = list.get(position).ok_or_else(|| out_of_range(position))?;
            Ok(Val::Boxed(element).unboxed())
        }
        Val::Map(map) => match index {
            Val::Missing | Val::Nil => Err("value is nil; should be of type string".to_owned()),
            index => {
                let wrong_type = || format!("value has type {}; should be string", index.type_name());
                let key = index.as_str().ok_or_else(wrong_type)?;
                Ok(map.get(key).map_or(Val::Nil, |element| Val::Boxed(element).unboxed()))
            }
        },
        other => Err(format!("can't index item of type {}", other.type_name())),
    }
}

fn slice<'a>(item: &Val<'a>, indexes: &[Val<'_>]) -> Result<Val<'a>, String> {
    let item = indexable(item, "slice")?;
    if indexes.len() > 3 {
        return Err(format!("too many slice indexes: {}", indexes.len()));
    }
    let length = match &item {
        Val::List(list) => list.len(),
        item => match item.as_str() {
            Some(_) if indexes.len() == 3 => return Err("cannot 3-index slice a string".to_owned()),
            Some(text) => text.len(),
            None => return Err(format!("can't slice item of type {}", item.type_name())),
        },
    };
    let mut bounds = [0, length, length];
    for (bound, index) in bounds.iter_mut().zip(indexes) {
        *bound = position(index, length)?;
    }
    let [start, end, capacity] = bounds;
    for (low, high) in [(start, end), (end, capacity)] {
        if low > high {
            return Err(format!("invalid slice index: {low} > {high}"));
        }
    }
    let not_text = || "a part of a character is not text".to_owned();
    Ok(match item {
        Val::List(list) => Val::List(list.get(start..end).unwrap_or_default()),
        Val::Str(text) => Val::Str(text.get(start..end).ok_or_else(not_text)?),
        other => {
            let text = other.as_str().unwrap_or_default();
            Val::Text(text.get(start..end).ok_or_else(not_text)?.into())
        }
    })
}

/// Whether there is an element at these indexes that is not nil.
fn has(item: &Val<'_>, indexes: &[Val<'_>]) -> bool {
    let found = indexes.iter().try_fold(item.clone(), |item, index| at(&item, index));
    found.is_ok_and(|found| indexes.is_empty() || found.is_some())
}

fn is_comparable_kind(value: &Val<'_>) -> bool {
    !matches!(
        value,
        Val::Missing | Val::Nil | Val::List(_) | Val::Map(_) | Val::Boxed(_)
    )
}

fn incompatible(one: &Val<'_>, other: &Val<'_>) -> String {
    let (one, other) = (one.type_name(), other.type_name());
    format!("incompatible types for comparison: {one} and {other}")
}

fn equals_any(first: &Val<'_>, others: &[Val<'_>], values: InMessages) -> Result<bool, String> {
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        if equals(first, other, values)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equals(one: &Val<'_>, other: &Val<'_>, values: InMessages) -> Result<bool, String> {
    if let (Some(one), Some(other)) = (one.as_str(), other.as_str()) {
        return Ok(one == other);
    }
    match (one, other) {
        (Val::Bool(one), Val::Bool(other)) => Ok(one == other),
        (Val::Int(one, _), Val::Int(other, _)) => Ok(one == other),
        (Val::Float(one), Val::Float(other)) => Ok(one == other),
        _ if !one.is_some() || !other.is_some() => Ok(one.is_some() == other.is_some()),
        _ if is_comparable_kind(one) || is_comparable_kind(other) => Err(incompatible(one, other)),
        _ if one.type_name() == other.type_name() => {
            let shown = values.as_text(other);
            Err(format!("non-comparable type {shown}: {}", other.type_name()))
        }
        _ => {
            let (one_text, other_text) = (values.as_text(one), values.as_plain(other));
            let (one, other) = (one.type_name(), other.type_name());
            Err(format!("non-comparable types {one_text}: {one}, {other}: {other_text}"))
        }
    }
}

/// Whether messages may contain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InMessages {
    /// As in Go.
    Shown,
    Hidden,
}

impl InMessages {
    /// Enough of a value for a message.
    const SHOWN_BYTES: usize = 4096;

    /// The value in a message, as Go's `%v`.
    pub(crate) fn as_plain(self, value: &Val<'_>) -> String {
        self.written(value, 'v')
    }

    /// The value in a message, as Go's `%s`.
    fn as_text(self, value: &Val<'_>) -> String {
        self.written(value, 's')
    }

    fn written(self, value: &Val<'_>, verb: char) -> String {
        if self == Self::Hidden {
            return "(not shown)".to_owned();
        }
        let mut out = Output::new(Self::SHOWN_BYTES);
        Directive::default().write(&mut out, value, verb);
        out.text
    }
}

fn order(one: &Val<'_>, others: &[Val<'_>]) -> Result<Ordering, String> {
    let other = others.first().unwrap_or(&Val::Missing);
    if !is_comparable_kind(one) || !is_comparable_kind(other) {
        return Err("invalid type for comparison".to_owned());
    }
    if let (Some(one), Some(other)) = (one.as_str(), other.as_str()) {
        return Ok(one.cmp(other));
    }
    match (one, other) {
        (Val::Int(one, _), Val::Int(other, _)) => Ok(one.cmp(other)),
        (Val::Float(one), Val::Float(other)) => Ok(one.total_cmp(other)),
        (Val::Bool(_), Val::Bool(_)) => Err("invalid type for comparison".to_owned()),
        _ => Err(incompatible(one, other)),
    }
}

/// The text that is encoded; errors have Go's offsets.
fn decoded(text: &str) -> Result<String, String> {
    let bytes = base64(text.as_bytes()).map_err(|offset| {
        let mut message = String::from("base64 decode failed: ");
        let _ = write!(message, "illegal base64 data at input byte {offset}");
        message
    })?;
    let not_text = "the decoded data is not UTF-8 text; print it with -o jsonpath and decode it with `base64 -d`";
    String::from_utf8(bytes).map_err(|_| not_text.to_owned())
}

/// The bytes, or the offset of what is wrong.
fn base64(text: &[u8]) -> Result<Vec<u8>, usize> {
    let mut decoded = Vec::new();
    let mut characters = text
        .iter()
        .enumerate()
        .filter(|(_, byte)| !matches!(byte, b'\r' | b'\n'));
    loop {
        let mut bits = 0_u32;
        for count in 0..4_usize {
            let Some((offset, byte)) = characters.next() else {
                return if count == 0 {
                    Ok(decoded)
                } else {
                    Err(text.len() - count)
                };
            };
            let sextet = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' if count >= 2 => {
                    if count == 2 {
                        match characters.next() {
                            Some((_, b'=')) => {}
                            Some((offset, _)) => return Err(offset.saturating_sub(1)),
                            None => return Err(text.len()),
                        }
                    }
                    let bytes = (bits << (6 * (4 - count))).to_be_bytes();
                    decoded.extend(bytes.get(1..count).unwrap_or_default());
                    return characters.next().map_or(Ok(decoded), |(offset, _)| Err(offset));
                }
                _ => return Err(offset),
            };
            bits = bits << 6 | u32::from(sextet);
        }
        decoded.extend(&bits.to_be_bytes()[1..]);
    }
}
