//! Parses YAML (and so JSON) into values with their places. Knows nothing about Kubernetes.
//!
//! Limits protect against hostile text: on the nesting, and on the number and size of values after aliases are
//! resolved. Problems that leave the structure readable (a duplicate key, a tag) are collected; unreadable text ends
//! the document.

mod error;
mod text;

use std::collections::HashMap;
use std::rc::Rc;

use indexmap::IndexMap;
use indexmap::map;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::documents::{Document, lines};
use super::error::{FieldPath, Location, MAX_PROBLEMS, Problem};
use super::node::{Entry, Node, Value};
use super::scalar::{self, Plain};
use super::suggest;
use error::DocumentError;
use text::{Tabs, paired_surrogates};

/// Maximum number of values in a file after resolving aliases.
const MAX_VALUES: usize = 400_000;
const MAX_VALUE_BYTES: usize = 32 << 20;
/// Deepest nesting of lists and mappings. A Pod has 12 levels.
const MAX_DEPTH: usize = 100;

/// The remaining budget of a file.
#[derive(Debug)]
pub struct Budget {
    values: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            values: MAX_VALUES,
            bytes: MAX_VALUE_BYTES,
        }
    }
}

impl Budget {
    fn take(&mut self, measure: Measure) -> Result<(), DocumentError> {
        let left = (
            self.values.checked_sub(measure.values),
            self.bytes.checked_sub(measure.bytes),
        );
        if let (Some(values), Some(bytes)) = left {
            (self.values, self.bytes) = (values, bytes);
            return Ok(());
        }
        Err(DocumentError::TooMuch {
            max_values: MAX_VALUES,
            max_mib: MAX_VALUE_BYTES >> 20,
        })
    }
}

/// A document's values and problems. There are several values only if the document ends with `...` and more text
/// follows.
pub fn parse(document: &Document<'_>, budget: &mut Budget) -> (Vec<Rc<Node>>, Vec<Problem>) {
    let text = paired_surrogates(document.text);
    let mut builder = Builder::new(document.start, budget);
    let Err(failure) = builder.read(&text) else {
        return (builder.roots, builder.problems);
    };
    // Tabs used as indentation are the problem, but other problems can be found once they are replaced.
    let tabs = failure.from_scanner.then(|| Tabs::find(&text)).flatten();
    let Some(tabs) = tabs else {
        return (Vec::new(), builder.and(failure));
    };
    let problem = tabs.problem(document.start);
    let mut again = Builder::new(document.start, budget);
    again.tabs = tabs.counts;
    let result = again.read(&tabs.replaced);
    again.problems.push(problem);
    match result {
        Ok(()) => (again.roots, again.problems),
        Err(failure) => (Vec::new(), again.and(failure)),
    }
}

/// Why a document could not be read.
struct Failure {
    problem: Problem,
    from_scanner: bool,
}

/// The size of a value after resolving aliases.
#[derive(Debug, Clone, Copy, Default)]
struct Measure {
    values: usize,
    bytes: usize,
    depth: usize,
}

impl Measure {
    fn add(&mut self, child: Self) {
        self.values = self.values.saturating_add(child.values);
        self.bytes = self.bytes.saturating_add(child.bytes);
        self.depth = self.depth.max(child.depth + 1);
    }
}

struct Collection {
    at: Location,
    anchor: usize,
    /// Excluding the list or mapping itself.
    measure: Measure,
    kind: Kind,
}

enum Kind {
    List(Vec<Rc<Node>>),
    Map {
        entries: IndexMap<String, Entry>,
        key: Option<Key>,
        merged: Vec<(Rc<Node>, Measure)>,
    },
}

enum Key {
    Name(String, Location),
    Merge(Location),
    /// The problem has already been recorded.
    Wrong,
}

struct Builder<'b> {
    start: Location,
    tabs: HashMap<usize, usize>,
    budget: &'b mut Budget,
    stack: Vec<Collection>,
    anchors: HashMap<usize, (Rc<Node>, Measure)>,
    roots: Vec<Rc<Node>>,
    problems: Vec<Problem>,
    /// A hint if the text looks like a template (of Helm, for example).
    template_hint: &'static str,
}

impl<'b> Builder<'b> {
    fn new(start: Location, budget: &'b mut Budget) -> Self {
        Self {
            start,
            tabs: HashMap::new(),
            budget,
            stack: Vec::new(),
            anchors: HashMap::new(),
            roots: Vec::new(),
            problems: Vec::new(),
            template_hint: "",
        }
    }

    /// All problems of a document that could not be read to its end.
    fn and(mut self, failure: Failure) -> Vec<Problem> {
        // The problem that ended the document must be visible.
        self.problems.truncate(MAX_PROBLEMS - 1);
        self.problems.push(failure.problem);
        self.problems
    }

    fn read(&mut self, text: &str) -> Result<(), Failure> {
        if text.contains("{{") {
            self.template_hint = "; if this is a template, render it first";
        }
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| self.scan_failure(&error, text))?;
            let at = self.place(&span);
            self.event(event, at).map_err(|error| {
                let mut problem = Problem::new(&FieldPath::default(), error.to_string());
                problem.location = Some(at);
                Failure {
                    problem,
                    from_scanner: false,
                }
            })?;
        }
        Ok(())
    }

    fn place(&self, span: &Span) -> Location {
        self.location(span.start.line(), span.start.col())
    }

    /// Converts a place in the document (lines from 1, columns from 0) to one in the file.
    fn location(&self, line: usize, column: usize) -> Location {
        let line = line.saturating_sub(1);
        let put_in = self.tabs.get(&line).copied().unwrap_or(0);
        let before = if line == 0 { self.start.column } else { 1 };
        Location {
            line: self.start.line + line,
            column: before + column.saturating_sub(put_in),
        }
    }

    fn scan_failure(&self, error: &ScanError, text: &str) -> Failure {
        if let Some(problem) = self.json_problem(text) {
            return Failure {
                problem,
                from_scanner: true,
            };
        }
        let info = match error.info() {
            "recursion limit exceeded" => "brackets are nested too deeply",
            info => info,
        };
        let hint = if !self.template_hint.is_empty() {
            self.template_hint
        } else if info.contains("mapping values are not allowed") || info.contains("did not find expected") {
            "; check the indentation"
        } else {
            ""
        };
        let mut problem = Problem::new(&FieldPath::default(), format!("not valid YAML: {info}{hint}"));
        let marker = error.marker();
        let mut at = self.location(marker.line(), marker.col());
        // Text missing at the end is reported for the last line, not for the document after it.
        let last = lines(text)
            .enumerate()
            .last()
            .map(|(number, line)| (number + 1, line.trim_end().chars().count()));
        if let Some((number, characters)) = last.filter(|(number, _)| marker.line() > *number) {
            at = self.location(number, characters);
        }
        problem.location = Some(at);
        Failure {
            problem,
            from_scanner: true,
        }
    }

    /// The JSON parser's message about a text that was meant as JSON.
    fn json_problem(&self, text: &str) -> Option<Problem> {
        let inside = text.trim_start().strip_prefix('{')?.trim_start();
        if !inside.starts_with('"') {
            return None;
        }
        let error = serde_json::from_str::<serde::de::IgnoredAny>(text).err()?;
        let shown = error.to_string();
        let what = shown.rsplit_once(" at line ").map_or(shown.as_str(), |(what, _)| what);
        let mut problem = Problem::new(&FieldPath::default(), format!("not valid JSON: {what}"));
        // The parser counts columns in bytes.
        let before = error.column().saturating_sub(1);
        let line = lines(text).nth(error.line().saturating_sub(1)).unwrap_or_default();
        let column = line.get(..before).map_or(before, |before| before.chars().count());
        problem.location = Some(self.location(error.line(), column));
        Some(problem)
    }

    fn event(&mut self, event: Event<'_>, at: Location) -> Result<(), DocumentError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    let key = self.key(&text, style, tag.as_deref(), at);
                    // An alias may refer to a key and then means its text.
                    let value = Value::String(text.into_owned());
                    self.remember(anchor, Node { at, value });
                    self.set_key(key);
                    return Ok(());
                }
                let measure = Measure {
                    values: 1,
                    bytes: text.len(),
                    depth: 0,
                };
                self.budget.take(measure)?;
                let value = self.scalar(text.into_owned(), style, tag.as_deref(), at);
                let node = self.remember(anchor, Node { at, value });
                self.add(node, measure);
                Ok(())
            }
            Event::SequenceStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "seq", at);
                self.open(Kind::List(Vec::new()), anchor, at)
            }
            Event::MappingStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "map", at);
                let kind = Kind::Map {
                    entries: IndexMap::new(),
                    key: None,
                    merged: Vec::new(),
                };
                self.open(kind, anchor, at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(
            self.stack.last().map(|frame| &frame.kind),
            Some(Kind::Map { key: None, .. })
        )
    }

    fn set_key(&mut self, new: Key) {
        if let Some(Collection {
            kind: Kind::Map { key, .. },
            ..
        }) = self.stack.last_mut()
        {
            *key = Some(new);
        }
    }

    fn remember(&mut self, anchor: usize, node: Node) -> Rc<Node> {
        let measure = Measure {
            values: 1,
            bytes: node.as_str().map_or(0, str::len),
            depth: 0,
        };
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, (Rc::clone(&node), measure));
        }
        node
    }

    fn alias(&mut self, anchor: usize, at: Location) -> Result<(), DocumentError> {
        let Some((node, measure)) = self
            .anchors
            .get(&anchor)
            .map(|(node, measure)| (Rc::clone(node), *measure))
        else {
            return Err(DocumentError::AliasOfItself);
        };
        if self.wants_key() {
            let key = match node.as_str() {
                Some(text) => Key::Name(text.to_owned(), at),
                None => self.wrong_key(at),
            };
            self.set_key(key);
            return Ok(());
        }
        if self.stack.len() + measure.depth > MAX_DEPTH {
            return Err(DocumentError::TooDeep { max: MAX_DEPTH });
        }
        self.budget.take(measure)?;
        self.add(node, measure);
        Ok(())
    }

    fn open(&mut self, kind: Kind, anchor: usize, at: Location) -> Result<(), DocumentError> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(DocumentError::TooDeep { max: MAX_DEPTH });
        }
        self.budget.take(Measure {
            values: 1,
            ..Measure::default()
        })?;
        let measure = Measure {
            values: 1,
            ..Measure::default()
        };
        self.stack.push(Collection {
            at,
            anchor,
            measure,
            kind,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), DocumentError> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let Collection {
            at,
            anchor,
            mut measure,
            kind,
        } = frame;
        let value = match kind {
            Kind::List(elements) => Value::List(elements),
            Kind::Map {
                mut entries, merged, ..
            } => {
                for (node, merged_measure) in merged {
                    let Value::Map(more) = &node.value else { continue };
                    self.budget.take(merged_measure)?;
                    measure.add(merged_measure);
                    for (name, entry) in more {
                        entries.entry(name.clone()).or_insert_with(|| Entry {
                            key_at: entry.key_at,
                            value: Rc::clone(&entry.value),
                        });
                    }
                }
                Value::Map(entries)
            }
        };
        let node = Rc::new(Node { at, value });
        if anchor > 0 {
            self.anchors.insert(anchor, (Rc::clone(&node), measure));
        }
        self.add(node, measure);
        Ok(())
    }

    /// Adds a finished value to the innermost open list or mapping.
    fn add(&mut self, node: Rc<Node>, measure: Measure) {
        if self.wants_key() {
            let key = self.wrong_key(node.at);
            self.set_key(key);
            return;
        }
        let Some(frame) = self.stack.last_mut() else {
            self.roots.push(node);
            return;
        };
        frame.measure.add(measure);
        match &mut frame.kind {
            Kind::List(elements) => elements.push(node),
            Kind::Map { entries, key, merged } => match key.take() {
                Some(Key::Name(name, key_at)) => match entries.entry(name) {
                    map::Entry::Vacant(vacant) => {
                        vacant.insert(Entry { key_at, value: node });
                    }
                    map::Entry::Occupied(first) => {
                        let (name, line) = (first.key().clone(), first.get().key_at.line);
                        self.problem(key_at, |builder| {
                            let path = builder.path().field(&name);
                            let message = format!("duplicate field \"{path}\", already set on line {line}");
                            Problem::new(&path, message)
                        });
                    }
                },
                Some(Key::Merge(key_at)) => {
                    let parts = match &node.value {
                        Value::Map(_) => vec![node],
                        Value::List(parts) => parts.clone(),
                        _ => Vec::new(),
                    };
                    if parts.is_empty() || parts.iter().any(|part| !matches!(part.value, Value::Map(_))) {
                        let what = "the merge key << needs a mapping, or a list of mappings";
                        self.problem(key_at, |builder| Problem::at_or_new(&builder.path(), what));
                        return;
                    }
                    merged.extend(parts.into_iter().map(|part| (part, measure)));
                }
                Some(Key::Wrong) | None => {}
            },
        }
    }

    /// The path of the innermost open list or mapping.
    fn path(&self) -> FieldPath {
        let mut path = FieldPath::default();
        for frame in self.stack.iter().take(self.stack.len().saturating_sub(1)) {
            path = match &frame.kind {
                Kind::List(elements) => path.index(elements.len()),
                Kind::Map {
                    key: Some(Key::Name(name, _)),
                    ..
                } => path.field(name),
                Kind::Map { .. } => path,
            };
        }
        path
    }

    /// Adds a problem if there is room: a hostile text could have one every few bytes, each with a long path.
    fn problem(&mut self, at: Location, describe: impl FnOnce(&Self) -> Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            let mut problem = describe(self);
            problem.location = Some(at);
            self.problems.push(problem);
        }
    }

    fn wrong_key(&mut self, at: Location) -> Key {
        self.problem(at, |builder| {
            let what = format!("keys must be plain strings{}", builder.template_hint);
            Problem::at_or_new(&builder.path(), what)
        });
        Key::Wrong
    }

    /// A key as Kubernetes reads it. Keys that would not mean the text as written are refused.
    fn key(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Location) -> Key {
        if style != ScalarStyle::Plain || tag.is_some() {
            return Key::Name(text.to_owned(), at);
        }
        let as_written = match scalar::plain(text) {
            Plain::Text => true,
            Plain::Bool(value) => value.to_string() == text,
            Plain::Number(number) => number.to_string() == text,
            Plain::Merge => return Key::Merge(at),
            Plain::Null | Plain::OldBool(_) | Plain::NotFinite => false,
        };
        if as_written {
            return Key::Name(text.to_owned(), at);
        }
        self.problem(at, |builder| {
            let shown = suggest::shorten(text);
            let message = format!("keys must be plain strings: write `{shown}` in quotes");
            Problem::at_or_new(&builder.path(), message)
        });
        Key::Wrong
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, tag: Option<&Tag>, at: Location) -> Value {
        let tag = tag.map(|tag| (tag, core_tag(tag)));
        let plain = match (&tag, style) {
            (None, ScalarStyle::Plain) => scalar::plain(&text),
            (Some((_, Some("int" | "float" | "bool" | "null"))), _) => scalar::plain(&text),
            _ => Plain::Text,
        };
        let fits = match &tag {
            None | Some((_, Some("str"))) => true,
            Some((_, Some("null"))) => plain == Plain::Null,
            Some((_, Some("bool"))) => matches!(plain, Plain::Bool(_) | Plain::OldBool(_)),
            Some((_, Some("int" | "float"))) => matches!(plain, Plain::Number(_)),
            Some(_) => false,
        };
        if let (false, Some((tag, _))) = (fits, &tag) {
            self.tag_problem(tag, at);
        }
        match plain {
            Plain::Null => Value::Null,
            Plain::Bool(value) => Value::Bool(value),
            Plain::OldBool(value) if tag.is_some() => Value::Bool(value),
            Plain::OldBool(_) => Value::OldBool(text),
            Plain::Number(number) => Value::Number(number),
            Plain::NotFinite => {
                self.problem(at, |builder| {
                    let message = format!("Invalid value: {}: must be a finite number", suggest::shorten(&text));
                    Problem::at_or_new(&builder.value_path(), message)
                });
                // Return a substitute, to avoid further problems.
                Value::Number(0.into())
            }
            Plain::Merge | Plain::Text => Value::String(text),
        }
    }

    fn collection_tag(&mut self, tag: Option<&Tag>, allowed: &str, at: Location) {
        if let Some(tag) = tag
            && core_tag(tag) != Some(allowed)
        {
            self.tag_problem(tag, at);
        }
    }

    fn tag_problem(&mut self, tag: &Tag, at: Location) {
        self.problem(at, |builder| {
            let shown = match core_tag(tag) {
                Some(name) => format!("!!{name}"),
                None => format!("{}{}", tag.handle, tag.suffix),
            };
            let message = format!("the YAML tag {} is not allowed here", suggest::shorten(&shown));
            Problem::at_or_new(&builder.value_path(), message)
        });
    }

    /// The path of the next value.
    fn value_path(&self) -> FieldPath {
        let path = self.path();
        match self.stack.last().map(|frame| &frame.kind) {
            Some(Kind::List(elements)) => path.index(elements.len()),
            Some(Kind::Map {
                key: Some(Key::Name(name, _)),
                ..
            }) => path.field(name),
            _ => path,
        }
    }
}

/// The name of a standard YAML tag, such as `!!str`; `!` alone marks the value as a string.
fn core_tag(tag: &Tag) -> Option<&str> {
    if tag.is_yaml_core_schema() {
        return Some(&tag.suffix);
    }
    (tag.handle.len() + tag.suffix.len() == 1).then_some("str")
}

#[cfg(test)]
mod tests;
