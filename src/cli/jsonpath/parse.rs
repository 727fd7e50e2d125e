//! Parses a template by the rules of client-go's `parser.go`.
//!
//! Everything that client-go accepts means the same here. Some things that it refuses are accepted: white space of any
//! kind between steps, commas and brackets in quoted keys, several quoted strings in a filter.

use serde_json::{Number, Value};

use super::error::ParseError;

/// Longer templates are refused.
const MAX_BYTES: usize = 64 << 10;

/// Deepest nesting of filters, unions and ranges.
const MAX_DEPTH: usize = 16;

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Text outside braces.
    Text(String),
    /// An expression in braces.
    Action(Vec<Step>),
    /// `{range …}` with the repeated part, up to `{end}`.
    Range(Vec<Step>, Vec<Node>),
}

/// A step from values to other values.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// A string, number or boolean, independent of the values.
    Literal(Value),
    Field(String),
    Wildcard,
    /// Every value that contains others.
    Recursive,
    /// From, to (exclusive), step; each may be missing or count from the end.
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        step: Option<i64>,
    },
    Index(i64),
    Union(Vec<Vec<Step>>),
    Filter(Box<Filter>),
}

/// The condition of `[?(…)]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Filter {
    Exists(Vec<Step>),
    Compare(Vec<Step>, Comparison, Vec<Step>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The parts of a template.
pub(super) fn template(text: &str) -> Result<Vec<Node>, ParseError> {
    if text.len() > MAX_BYTES {
        return Err(ParseError::TooLong { max_bytes: MAX_BYTES });
    }
    // The innermost list is filled; `{end}` moves it into its range.
    let mut open: Vec<(Vec<Step>, Vec<Node>)> = Vec::new();
    let mut nodes = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        push_text(&mut nodes, rest.get(..start).unwrap_or_default());
        let mut scanner = Scanner {
            rest: rest.get(start + 1..).unwrap_or_default(),
            depth: 0,
            keyword: None,
        };
        let steps = scanner.steps(Place::Braces)?;
        rest = scanner.rest;
        match scanner.keyword {
            None => nodes.push(Node::Action(steps)),
            Some(Keyword::Range) => {
                if open.len() >= MAX_DEPTH {
                    return Err(ParseError::DeepRanges);
                }
                open.push((steps, std::mem::take(&mut nodes)));
            }
            Some(Keyword::End) => {
                let (steps, outer) = open.pop().ok_or(ParseError::EndWithoutRange)?;
                let inner = std::mem::replace(&mut nodes, outer);
                nodes.push(Node::Range(steps, inner));
            }
        }
    }
    push_text(&mut nodes, rest);
    if open.is_empty() {
        Ok(nodes)
    } else {
        Err(ParseError::UnfinishedRange)
    }
}

fn push_text(nodes: &mut Vec<Node>, text: &str) {
    if !text.is_empty() {
        nodes.push(Node::Text(text.to_owned()));
    }
}

/// Words that are not steps.
#[derive(Debug, Clone, Copy)]
enum Keyword {
    Range,
    End,
}

/// Where steps occur, and what ends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// `{…}`; the closing brace is consumed.
    Braces,
    /// `'…'` in brackets: the end of the string.
    Key,
    /// One side of `[?(…==…)]`: ends at the operator or closing bracket, which is not consumed.
    Filter,
}

impl Place {
    fn is_end(self, character: char) -> bool {
        match self {
            Self::Braces => character == '}',
            Self::Key => false,
            Self::Filter => "!<>=)".contains(character),
        }
    }

    /// Whether a name ends before this character (`isTerminator`).
    fn ends_name(self, character: char) -> bool {
        character.is_whitespace() || ".,[]$@{}".contains(character) || (self == Self::Filter && self.is_end(character))
    }
}

struct Scanner<'t> {
    rest: &'t str,
    depth: usize,
    keyword: Option<Keyword>,
}

impl<'t> Scanner<'t> {
    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// Consumes everything before the first matching character, or the whole rest.
    fn take_until(&mut self, is_end: impl Fn(char) -> bool) -> &'t str {
        let end = self.rest.find(is_end).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// Parses steps up to the end of their place.
    fn steps(&mut self, place: Place) -> Result<Vec<Step>, ParseError> {
        let mut steps = Vec::new();
        loop {
            self.skip_spaces();
            let Some(next) = self.peek() else {
                return match place {
                    Place::Key => Ok(steps),
                    Place::Braces => Err(ParseError::UnclosedAction),
                    Place::Filter => Err(ParseError::UnterminatedFilter),
                };
            };
            if place.is_end(next) {
                if place == Place::Braces {
                    self.take("}");
                }
                return Ok(steps);
            }
            match next {
                '.' if self.take("..") => {
                    if steps.last() == Some(&Step::Recursive) {
                        return Err(ParseError::RepeatedDescent);
                    }
                    steps.push(Step::Recursive);
                    if self.peek().is_some_and(|next| !place.ends_name(next)) {
                        steps.push(self.field(place));
                    }
                }
                '.' => {
                    self.take(".");
                    // A dot alone is the value itself; a dot before a bracket has no meaning.
                    if self.peek().is_some_and(|next| !place.ends_name(next)) {
                        steps.push(self.field(place));
                    }
                }
                // The current value, in ranges too.
                '@' | '$' => {
                    self.take_until(|character| character != next);
                }
                '[' => {
                    self.take("[");
                    self.bracket(&mut steps)?;
                }
                '"' | '\'' => steps.push(Step::Literal(Value::String(self.quoted()?))),
                '+' | '-' => steps.push(self.number()?),
                _ if next.is_ascii_digit() => steps.push(self.number()?),
                _ if next == '_' || next.is_alphanumeric() => steps.extend(self.word(place)?),
                _ => return Err(ParseError::UnrecognizedCharacter { character: next }),
            }
        }
    }

    fn word(&mut self, place: Place) -> Result<Option<Step>, ParseError> {
        match self.take_until(|character| place.ends_name(character)) {
            "true" => Ok(Some(Step::Literal(Value::Bool(true)))),
            "false" => Ok(Some(Step::Literal(Value::Bool(false)))),
            "range" if place == Place::Braces => {
                self.keyword = Some(Keyword::Range);
                Ok(None)
            }
            "end" if place == Place::Braces => {
                self.keyword = Some(Keyword::End);
                Ok(None)
            }
            other => Err(ParseError::UnrecognizedIdentifier(other.to_owned())),
        }
    }

    fn number(&mut self) -> Result<Step, ParseError> {
        let sign = ["+", "-"].into_iter().find(|sign| self.take(sign)).unwrap_or_default();
        let digits = self.take_until(|character| character != '.' && !character.is_ascii_digit());
        let text = format!("{sign}{digits}");
        let whole = text.parse::<i64>().ok().map(Value::from);
        let number = whole.or_else(|| Number::from_f64(text.parse().ok()?).map(Value::Number));
        number.map(Step::Literal).ok_or(ParseError::InvalidNumber(text))
    }

    /// A quoted string, with Go's escapes.
    fn quoted(&mut self) -> Result<String, ParseError> {
        let mut characters = self.rest.chars();
        let quote = characters.next().ok_or(ParseError::UnterminatedQuotes)?;
        let mut text = String::new();
        loop {
            match characters.next().ok_or(ParseError::UnterminatedQuotes)? {
                '\\' => {
                    let escaped = characters.next().ok_or(ParseError::UnterminatedQuotes)?;
                    text.push(unescaped(escaped, quote, &mut characters).ok_or(ParseError::InvalidEscape)?);
                }
                character if character == quote => {
                    self.rest = characters.as_str();
                    return Ok(text);
                }
                character => text.push(character),
            }
        }
    }

    /// A name after a dot. A backslash makes the next character literal.
    fn field(&mut self, place: Place) -> Step {
        let mut name = String::new();
        let mut characters = self.rest.chars();
        loop {
            self.rest = characters.as_str();
            match characters.next() {
                Some('\\') => name.extend(characters.next()),
                Some(character) if !place.ends_name(character) => name.push(character),
                _ if name == "*" => return Step::Wildcard,
                _ => return Step::Field(name),
            }
        }
    }

    /// The content of brackets; the opening bracket has been consumed.
    fn bracket(&mut self, steps: &mut Vec<Step>) -> Result<(), ParseError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ParseError::DeepBrackets);
        }
        let mut items = Vec::new();
        loop {
            self.skip_spaces();
            items.push(self.bracket_item()?);
            self.skip_spaces();
            if self.take("]") {
                break;
            }
            if !self.take(",") {
                return Err(match self.peek() {
                    Some(found) => ParseError::UnexpectedInBrackets(found),
                    None => ParseError::UnterminatedArray,
                });
            }
        }
        self.depth -= 1;
        if let [only] = items.as_mut_slice() {
            steps.append(only);
        } else {
            steps.push(Step::Union(items));
        }
        Ok(())
    }

    fn bracket_item(&mut self) -> Result<Vec<Step>, ParseError> {
        if self.take("?") {
            return Ok(vec![self.filter()?]);
        }
        if self.take("'") {
            let key = self.take_until(|character| character == '\'');
            if !self.take("'") {
                return Err(ParseError::UnterminatedArray);
            }
            return self.key(key);
        }
        let text = self.take_until(|character| matches!(character, ',' | ']'));
        if self.rest.is_empty() {
            return Err(ParseError::UnterminatedArray);
        }
        index_or_slice(text.trim_end()).map(|step| vec![step])
    }

    /// The steps of a quoted key, as in `.KEY`. Dots without a backslash separate steps.
    fn key(&self, key: &str) -> Result<Vec<Step>, ParseError> {
        let text = format!(".{key}");
        let mut scanner = Scanner {
            rest: &text,
            depth: self.depth,
            keyword: None,
        };
        scanner.steps(Place::Key)
    }

    /// A condition; its question mark has been consumed.
    fn filter(&mut self) -> Result<Step, ParseError> {
        if !self.take("(") {
            return Err(ParseError::FilterWithoutParentheses);
        }
        let left = self.operand()?;
        let operator = self.take_until(|character| !"!<>=".contains(character));
        let comparison = match operator {
            "" => None,
            "==" => Some(Comparison::Equal),
            "!=" => Some(Comparison::NotEqual),
            "<" => Some(Comparison::Less),
            "<=" => Some(Comparison::LessOrEqual),
            ">" => Some(Comparison::Greater),
            ">=" => Some(Comparison::GreaterOrEqual),
            _ => return Err(ParseError::UnrecognizedOperator(operator.to_owned())),
        };
        let filter = match comparison {
            None => Filter::Exists(left),
            Some(comparison) => Filter::Compare(left, comparison, self.operand()?),
        };
        if !self.take(")") {
            return Err(ParseError::UnterminatedFilter);
        }
        Ok(Step::Filter(Box::new(filter)))
    }

    /// One side of a filter.
    fn operand(&mut self) -> Result<Vec<Step>, ParseError> {
        self.skip_spaces();
        match self.peek() {
            Some(found) if Place::Filter.is_end(found) => Err(ParseError::UnexpectedInFilter(found)),
            _ => self.steps(Place::Filter),
        }
    }
}

/// The character that a backslash and this character represent in Go; `more` is the text that follows.
fn unescaped(escaped: char, quote: char, more: &mut std::str::Chars<'_>) -> Option<char> {
    let digits = match escaped {
        'a' => return Some('\x07'),
        'b' => return Some('\x08'),
        'f' => return Some('\x0c'),
        'n' => return Some('\n'),
        'r' => return Some('\r'),
        't' => return Some('\t'),
        'v' => return Some('\x0b'),
        '\\' => return Some('\\'),
        _ if escaped == quote => return Some(quote),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return None,
    };
    let text = more.as_str().get(..digits)?;
    *more = more.as_str().get(digits..)?.chars();
    let is_hexadecimal = text.bytes().all(|digit| digit.is_ascii_hexdigit());
    char::from_u32(u32::from_str_radix(text, 16).ok().filter(|_| is_hexadecimal)?)
}

/// Parses the unquoted content of brackets: `2`, `-1`, `1:`, `:-1`, `::2`, `*`; empty is index 0.
fn index_or_slice(text: &str) -> Result<Step, ParseError> {
    let invalid = || ParseError::InvalidIndex(text.to_owned());
    let number = |part: &str| match part {
        "" => Ok(None),
        _ if part.starts_with('+') => Err(invalid()),
        _ => part.parse::<i64>().map(Some).map_err(|_| invalid()),
    };
    let mut parts = text.split(':').map(number);
    let (from, to, step) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        _ if text == "*" => (None, None, None),
        (Some(index), None, _, _) => return Ok(Step::Index(index?.unwrap_or(0))),
        (Some(from), Some(to), None, _) => (from?, to?, None),
        (Some(from), Some(to), Some(step), None) => (from?, to?, step?),
        _ => return Err(invalid()),
    };
    if step.is_some_and(|step| step <= 0) {
        return Err(ParseError::InvalidStep);
    }
    Ok(Step::Slice { from, to, step })
}
