//! From the text of a template to its parts.

use serde_json::{Number, Value};

/// Longer templates are refused.
const MAX_BYTES: usize = 64 << 10;

/// How deep filters, unions and ranges may lie in each other.
const MAX_DEPTH: usize = 16;

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Text outside of braces.
    Text(String),
    /// An expression in braces, or one of several in it.
    Path(Path),
    /// A text, number or truth value written in braces.
    Literal(Value),
    /// `{range …}` with what is repeated, up to `{end}`.
    Range(Path, Vec<Node>),
}

/// Where an expression begins, and its steps from there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Path {
    pub(super) from_root: bool,
    pub(super) steps: Vec<Step>,
}

/// A step from values to other values.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Field(String),
    Wildcard,
    /// The value and everything in it.
    Recursive,
    /// From, to (exclusive), step; all may be missing or count from the end.
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        step: Option<i64>,
    },
    Index(i64),
    Union(Vec<Path>),
    Filter(Box<Filter>),
}

/// The condition of `[?(…)]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Filter {
    Exists(Operand),
    Compare(Operand, Comparison, Operand),
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

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Path(Path),
    Literal(Value),
}

/// The parts of a template.
pub(super) fn template(text: &str) -> Result<Vec<Node>, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("it is longer than {MAX_BYTES} bytes"));
    }
    // The innermost list is filled; `{end}` puts it into its range.
    let mut open: Vec<(Path, Vec<Node>)> = Vec::new();
    let mut nodes = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        push_text(&mut nodes, rest.get(..start).unwrap_or_default());
        let mut scanner = Scanner {
            rest: rest.get(start + 1..).unwrap_or_default(),
            depth: 0,
        };
        loop {
            scanner.skip_spaces();
            if scanner.take("}") {
                break;
            }
            if scanner.rest.is_empty() {
                return Err("unclosed action".to_owned());
            }
            match scanner.action()? {
                Action::Node(node) => nodes.push(node),
                Action::Range(path) => {
                    if open.len() >= MAX_DEPTH {
                        return Err("too many ranges in each other".to_owned());
                    }
                    open.push((path, std::mem::take(&mut nodes)));
                }
                Action::End => {
                    let (path, outer) = open.pop().ok_or("not in range, nothing to end")?;
                    let inner = std::mem::replace(&mut nodes, outer);
                    nodes.push(Node::Range(path, inner));
                }
            }
        }
        rest = scanner.rest;
    }
    push_text(&mut nodes, rest);
    if open.is_empty() {
        Ok(nodes)
    } else {
        Err("unfinished range: {end} is missing".to_owned())
    }
}

fn push_text(nodes: &mut Vec<Node>, text: &str) {
    if !text.is_empty() {
        nodes.push(Node::Text(text.to_owned()));
    }
}

/// What may stand in braces.
enum Action {
    Node(Node),
    Range(Path),
    End,
}

struct Scanner<'t> {
    rest: &'t str,
    depth: usize,
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

    fn expect(&mut self, token: &str) -> Result<(), String> {
        self.skip_spaces();
        if self.take(token) {
            Ok(())
        } else {
            Err(match self.peek() {
                Some(found) => format!("found {found:?}, expected {token:?}"),
                None => format!("unterminated, expected {token:?}"),
            })
        }
    }

    fn action(&mut self) -> Result<Action, String> {
        if let Some(word) = self.word() {
            let after = self.rest.get(word.len()..).unwrap_or_default();
            match word {
                "range" => {
                    self.rest = after;
                    self.skip_spaces();
                    return match self.peek() {
                        Some('.' | '[' | '$' | '@') => Ok(Action::Range(self.path()?)),
                        _ => Err("range needs a path: {range .items[*]}".to_owned()),
                    };
                }
                "end" => {
                    self.rest = after;
                    return Ok(Action::End);
                }
                _ => {}
            }
        }
        Ok(Action::Node(match self.operand()? {
            Operand::Path(path) => Node::Path(path),
            Operand::Literal(value) => Node::Literal(value),
        }))
    }

    /// The letters at the start.
    fn word(&self) -> Option<&'t str> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        self.rest.get(..end).filter(|word| !word.is_empty())
    }

    fn operand(&mut self) -> Result<Operand, String> {
        self.skip_spaces();
        match self.peek() {
            Some('.' | '[' | '$' | '@') => Ok(Operand::Path(self.path()?)),
            Some('"' | '\'') => Ok(Operand::Literal(Value::String(self.quoted()?))),
            Some(digit) if digit.is_ascii_digit() || digit == '-' || digit == '+' => {
                self.number().map(Operand::Literal)
            }
            Some(_) => match self.word() {
                Some("true") => Ok(self.literal("true", true)),
                Some("false") => Ok(self.literal("false", false)),
                Some(word) => Err(format!("unrecognized identifier {word}")),
                None => Err(format!("unexpected {:?}", self.peek().unwrap_or_default())),
            },
            None => Err("unterminated expression".to_owned()),
        }
    }

    fn literal(&mut self, word: &str, value: bool) -> Operand {
        self.take(word);
        Operand::Literal(Value::Bool(value))
    }

    fn number(&mut self) -> Result<Value, String> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c))
            .unwrap_or(self.rest.len());
        let text = self.rest.get(..end).unwrap_or_default();
        self.rest = self.rest.get(end..).unwrap_or_default();
        let whole = text.parse::<i64>().ok().map(Value::from);
        let number = whole.or_else(|| Number::from_f64(text.parse().ok()?).map(Value::Number));
        number.ok_or_else(|| format!("cannot parse number {text}"))
    }

    /// A text in quotes, with Go's escapes.
    fn quoted(&mut self) -> Result<String, String> {
        let mut characters = self.rest.char_indices();
        let Some((_, quote)) = characters.next() else {
            return Err("unterminated quoted string".to_owned());
        };
        let mut text = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, escaped)) if matches!(escaped, '\\' | '"' | '\'' | '/') => text.push(escaped),
                    Some((_, 'u')) => {
                        let digits: String = characters.by_ref().take(4).map(|(_, digit)| digit).collect();
                        let character = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                        text.push(
                            character
                                .filter(|_| digits.len() == 4)
                                .ok_or("invalid escape in quotes")?,
                        );
                    }
                    _ => return Err("invalid escape in quotes".to_owned()),
                },
                _ if character == quote => {
                    self.rest = self.rest.get(at + character.len_utf8()..).unwrap_or_default();
                    return Ok(text);
                }
                _ => text.push(character),
            }
        }
        Err("unterminated quoted string".to_owned())
    }

    fn path(&mut self) -> Result<Path, String> {
        let from_root = self.take("$");
        if !from_root {
            self.take("@");
        }
        let mut steps = Vec::new();
        loop {
            if self.take("..") {
                steps.push(Step::Recursive);
                if matches!(self.peek(), Some(c) if c != '[' && c != '.' && c != '}') {
                    steps.push(self.field()?);
                }
            } else if self.take(".") {
                // A dot alone is the value itself; one before a bracket means nothing.
                if !matches!(self.peek(), None | Some('[' | '}' | ' ' | ')' | ',' | ']')) {
                    steps.push(self.field()?);
                }
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(Path { from_root, steps });
            }
        }
    }

    /// A name after a dot; a backslash takes the meaning of the character after it.
    fn field(&mut self) -> Result<Step, String> {
        let mut name = String::new();
        let mut escaped = false;
        let mut end = self.rest.len();
        for (at, character) in self.rest.char_indices() {
            if escaped {
                name.push(character);
                escaped = false;
            } else if character == '\\' {
                escaped = true;
            } else if character.is_whitespace() || ".[]{}()=!<>,|&\"'@$".contains(character) {
                end = at;
                break;
            } else {
                name.push(character);
            }
        }
        self.rest = self.rest.get(end..).unwrap_or_default();
        match name.as_str() {
            "" => Err(format!(
                "a field's name is missing before {:?}",
                self.rest.chars().take(10).collect::<String>()
            )),
            "*" => Ok(Step::Wildcard),
            _ => Ok(Step::Field(name)),
        }
    }

    /// What stands in brackets; the first of them was read.
    fn bracket(&mut self) -> Result<Step, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("too many brackets in each other".to_owned());
        }
        let mut items = Vec::new();
        loop {
            self.skip_spaces();
            items.push(self.bracket_item()?);
            self.skip_spaces();
            if self.take("]") {
                break;
            }
            self.expect(",")?;
        }
        self.depth -= 1;
        match <[Step; 1]>::try_from(items) {
            Ok([item]) => Ok(item),
            Err(items) => {
                let single = |step| Path {
                    from_root: false,
                    steps: vec![step],
                };
                Ok(Step::Union(items.into_iter().map(single).collect()))
            }
        }
    }

    fn bracket_item(&mut self) -> Result<Step, String> {
        match self.peek() {
            Some('*') => {
                self.take("*");
                Ok(Step::Wildcard)
            }
            Some('"' | '\'') => self.quoted().map(Step::Field),
            Some('?') => self.filter(),
            Some(c) if c == ':' || c == '-' || c.is_ascii_digit() => self.slice(),
            Some(c) => Err(format!("invalid array index: unexpected {c:?}")),
            None => Err("unterminated array".to_owned()),
        }
    }

    fn slice(&mut self) -> Result<Step, String> {
        let from = self.integer()?;
        if !self.take(":") {
            return from.map(Step::Index).ok_or_else(|| "invalid array index".to_owned());
        }
        let to = self.integer()?;
        let step = if self.take(":") { self.integer()? } else { None };
        if step.is_some_and(|step| step <= 0) {
            return Err("step must be > 0".to_owned());
        }
        Ok(Step::Slice { from, to, step })
    }

    fn integer(&mut self) -> Result<Option<i64>, String> {
        self.skip_spaces();
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_digit() && c != '-')
            .unwrap_or(self.rest.len());
        let text = self.rest.get(..end).unwrap_or_default();
        self.rest = self.rest.get(end..).unwrap_or_default();
        if text.is_empty() {
            return Ok(None);
        }
        text.parse()
            .map(Some)
            .map_err(|_| format!("invalid array index {text}"))
    }

    fn filter(&mut self) -> Result<Step, String> {
        self.take("?");
        self.expect("(")?;
        let left = self.operand()?;
        self.skip_spaces();
        let comparisons = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let comparison = comparisons.into_iter().find(|(token, _)| self.rest.starts_with(token));
        let filter = match comparison {
            Some((token, comparison)) => {
                self.take(token);
                Filter::Compare(left, comparison, self.operand()?)
            }
            None => Filter::Exists(left),
        };
        self.expect(")")?;
        Ok(Step::Filter(Box::new(filter)))
    }
}
