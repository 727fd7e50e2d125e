//! YAML text to plain JSON values, one a document, and the way back from a field to its line. Nothing of Kubernetes is known here.
//!
//! Hostile text is bounded: its size, the nesting (by the YAML library), and the number of values after aliases are followed.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_yaml::Value as Yaml;

use super::error::{FieldPath, Location, Problem, Segment};

/// The API server's limit for an object is 3 MiB of request.
pub const MAX_TEXT_BYTES: usize = 4 << 20;
/// Values of one file with all aliases followed.
const MAX_VALUES: usize = 400_000;
/// `[` and `{` that are open at once. The library refuses 128 levels, but only after a scan that takes time quadratic in the depth.
const MAX_OPEN_BRACKETS: usize = 1000;

/// The documents of a file that are not empty, with their position in the file.
pub fn parse(text: &str) -> Result<Vec<(usize, Value)>, Problem> {
    if text.len() > MAX_TEXT_BYTES {
        let limit = MAX_TEXT_BYTES >> 20;
        return Err(Problem::new(
            &FieldPath::default(),
            format!("the file is larger than {limit} MiB; is it a manifest?"),
        ));
    }
    refuse_deep_flow(text)?;
    let left = Cell::new(MAX_VALUES);
    for document in serde_yaml::Deserializer::from_str(text) {
        Count(&left)
            .deserialize(document)
            .map_err(|error| yaml_problem(&error, text))?;
    }
    let mut documents = Vec::new();
    for (position, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let mut yaml = <Yaml as de::Deserialize>::deserialize(document).map_err(|error| yaml_problem(&error, text))?;
        yaml.apply_merge().map_err(|error| yaml_problem(&error, text))?;
        if !yaml.is_null() {
            documents.push((position, to_json(yaml, &FieldPath::default())?));
        }
    }
    Ok(documents)
}

/// Where a field is in the text: its key, or the element of a list, or the innermost one around it that exists.
pub fn locate(text: &str, document: usize, path: &FieldPath) -> Option<Location> {
    let document = serde_yaml::Deserializer::from_str(text).nth(document)?;
    // The library tells positions only with its errors, so the search ends with one at the right place.
    let location = Seek(path.segments()).deserialize(document).err()?.location()?;
    Some(Location {
        line: location.line(),
        column: location.column(),
    })
}

/// Keeps text that only wants to keep the scanner busy away from it. It is no YAML parser: it counts brackets, closing ones only outside
/// comments and of quotes that end in their line. Text in which brackets are balanced, or nearly so, never comes near the limit.
fn refuse_deep_flow(text: &str) -> Result<(), Problem> {
    let mut open = 0_usize;
    for (number, line) in text.lines().enumerate() {
        let mut rest = line;
        let mut before = ' ';
        let mut closing_counts = true;
        while let Some(character) = rest.chars().next() {
            rest = &rest[character.len_utf8()..];
            match character {
                '[' | '{' => open += 1,
                ']' | '}' if closing_counts => open = open.saturating_sub(1),
                '#' if before.is_whitespace() => closing_counts = false,
                '"' | '\'' if closing_counts => match rest.split_once(character) {
                    Some((_, after)) => rest = after,
                    None => closing_counts = false,
                },
                _ => {}
            }
            before = character;
        }
        if open > MAX_OPEN_BRACKETS {
            let mut problem = Problem::new(&FieldPath::default(), "not valid YAML: brackets are nested too deeply");
            problem.location = Some(Location {
                line: number + 1,
                column: 1,
            });
            return Err(problem);
        }
    }
    Ok(())
}

fn yaml_problem(error: &serde_yaml::Error, text: &str) -> Problem {
    let mut message = error.to_string();
    let location = error.location().map(|at| Location {
        line: at.line(),
        column: at.column(),
    });
    let mut hint = "";
    if let Some(Location { line, column }) = location {
        message = message.replacen(&format!(" at line {line} column {column}"), "", 1);
        let content = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        if content.trim_start_matches(' ').starts_with('\t') {
            hint = "; YAML does not allow tabs for indentation, use spaces";
        }
    }
    let kind = if message.contains("duplicate entry") {
        ""
    } else {
        "not valid YAML: "
    };
    Problem {
        path: FieldPath::default(),
        location,
        message: format!("{kind}{message}{hint}"),
    }
}

/// Plain data only: no tags, no infinite numbers, and keys that JSON can have.
fn to_json(yaml: Yaml, path: &FieldPath) -> Result<Value, Problem> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::String(value) => Value::String(value),
        Yaml::Number(number) => {
            let json = match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(value), ..) => Some(Number::from(value)),
                (None, Some(value), _) => Some(Number::from(value)),
                (.., value) => value.and_then(Number::from_f64),
            };
            Value::Number(
                json.ok_or_else(|| Problem::at(path, format!("Invalid value: {number}: must be a finite number")))?,
            )
        }
        Yaml::Sequence(elements) => {
            let elements = elements.into_iter().enumerate();
            Value::Array(
                elements
                    .map(|(index, element)| to_json(element, &path.index(index)))
                    .collect::<Result<_, _>>()?,
            )
        }
        Yaml::Mapping(mapping) => {
            let mut object = Map::new();
            for (key, value) in mapping {
                let key = match key {
                    Yaml::String(key) => key,
                    Yaml::Number(key) => key.to_string(),
                    Yaml::Bool(key) => key.to_string(),
                    _ => return Err(Problem::at(path, "keys must be plain strings")),
                };
                let child = path.field(&key);
                let value = to_json(value, &child)?;
                if object.insert(key, value).is_some() {
                    return Err(Problem::new(&child, format!("duplicate field \"{child}\"")));
                }
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => {
            return Err(Problem::at(
                path,
                format!("the YAML tag {} is not allowed here", tagged.tag),
            ));
        }
    })
}

/// Counts all values, following aliases, until `left` is used up.
struct Count<'a>(&'a Cell<usize>);

impl Count<'_> {
    fn one<E: de::Error>(&self) -> Result<(), E> {
        match self.0.get().checked_sub(1) {
            Some(left) => self.0.set(left),
            None => {
                return Err(E::custom(format_args!(
                    "more than {MAX_VALUES} values with all aliases followed; is it a manifest?"
                )));
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.one()
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.one()
    }
    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.one()
    }
    fn visit_i128<E: de::Error>(self, _: i128) -> Result<(), E> {
        self.one()
    }
    fn visit_u128<E: de::Error>(self, _: u128) -> Result<(), E> {
        self.one()
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.one()
    }
    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.one()
    }
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.one()
    }
    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.one()
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        self.one()?;
        while sequence.next_element_seed(Count(self.0))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.one()?;
        while map.next_key_seed(Count(self.0))?.is_some() {
            map.next_value_seed(Count(self.0))?;
        }
        Ok(())
    }
    fn visit_enum<A: de::EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(de::Error::custom("YAML tags are not allowed here"))
    }
}

/// Walks down a path and fails where it ends.
struct Seek<'a>(&'a [Segment]);

/// A key on the way; fails if it is the last one.
struct SeekKey<'a> {
    wanted: &'a str,
    last: bool,
}

fn here<E: de::Error>() -> E {
    E::custom("here")
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the path")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        if let [Segment::Index(index), rest @ ..] = self.0 {
            for _ in 0..*index {
                if sequence.next_element::<de::IgnoredAny>()?.is_none() {
                    return Err(here());
                }
            }
            sequence.next_element_seed(Seek(rest))?;
        }
        Err(here())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if let [Segment::Field(wanted) | Segment::Key(wanted), rest @ ..] = self.0 {
            while let Some(found) = map.next_key_seed(SeekKey {
                wanted,
                last: rest.is_empty(),
            })? {
                if found {
                    return map.next_value_seed(Seek(rest)).and(Err(here()));
                }
                map.next_value::<de::IgnoredAny>()?;
            }
        }
        Err(here())
    }
}

impl<'de> DeserializeSeed<'de> for SeekKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for SeekKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        match (key == self.wanted, self.last) {
            (true, true) => Err(here()),
            (found, _) => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> String {
        parse(text).unwrap_err().message
    }

    #[test]
    fn documents_keep_their_position_and_empty_ones_are_dropped() {
        let documents = parse("---\n# nothing\n---\na: 1\n---\nb: [x, 1.5, true, ~]\n").unwrap();
        assert_eq!(
            documents.iter().map(|(position, _)| *position).collect::<Vec<_>>(),
            [1, 2]
        );
        assert_eq!(documents[1].1, serde_json::json!({"b": ["x", 1.5, true, null]}));
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("# only a comment\n").unwrap(), []);
    }

    #[test]
    fn duplicates_tags_and_odd_keys_are_refused() {
        assert!(
            message("a: 1\na: 2\n").contains("duplicate entry"),
            "{}",
            message("a: 1\na: 2\n")
        );
        assert_eq!(message("x: {1: a, '1': b}\n"), "duplicate field \"x.1\"");
        assert!(message("a: !secret x\n").contains("tag"));
        assert_eq!(message("a: {[1]: 2}\n"), "a: keys must be plain strings");
        assert_eq!(message("a: .inf\n"), "a: Invalid value: .inf: must be a finite number");
    }

    #[test]
    fn tabs_get_a_remedy() {
        let problem = parse("a:\n\tb: 1\n").unwrap_err();
        assert_eq!(problem.location.map(|at| at.line), Some(2));
        assert!(
            problem
                .message
                .ends_with("YAML does not allow tabs for indentation, use spaces"),
            "{}",
            problem.message
        );
    }

    #[test]
    fn merge_keys_are_followed() {
        let documents = parse("base: &base {a: 1, b: 2}\nx:\n  <<: *base\n  b: 3\n").unwrap();
        assert_eq!(documents[0].1["x"], serde_json::json!({"a": 1, "b": 3}));
    }

    #[test]
    fn bombs_end_soon() {
        let started = Instant::now();
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let before = level - 1;
            laughs += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(","));
        }
        assert!(message(&laughs).contains("aliases") || message(&laughs).contains("repetition"));
        let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(20_000), "*a,".repeat(20_000));
        assert!(message(&wide).contains("aliases followed"));
        for unit in ["[", "[\n\n", "{a: ", "{a: #}\n", "{\"a]\": ", "[a, "] {
            assert!(message(&unit.repeat(100_000)).contains("nested too deeply"), "{unit:?}");
        }
        assert!(message(&"- ".repeat(10_000)).contains("recursion limit"));
        let indented: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert!(message(&indented).contains("recursion limit"));
        assert!(message(&"x".repeat(MAX_TEXT_BYTES + 1)).contains("larger than 4 MiB"));
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }

    #[test]
    fn fields_are_found_in_the_text() {
        let text = "kind: Pod\n---\nspec:\n  containers:\n  - name: a\n    image: b\n  - {name: c}\n";
        let spec = FieldPath::default().field("spec");
        let containers = spec.field("containers");
        let at = |path: &FieldPath| locate(text, 1, path).map(|at| (at.line, at.column)).unwrap();
        assert_eq!(at(&containers), (4, 3));
        assert_eq!(at(&containers.index(0).field("image")), (6, 5));
        assert_eq!(at(&containers.index(1).field("name")), (7, 6));
        assert_eq!(at(&containers.index(1)), (7, 5));
        // The innermost that exists.
        assert_eq!(at(&containers.index(1).field("image")), (7, 5));
        assert_eq!(at(&spec.field("nothing").index(3)), (4, 3));
        assert_eq!(locate(text, 9, &spec), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[-a-z:{}\\[\\]&*!|>'\"#?,\\t\\n 0-9.~<]{0,80}") {
            let _ = parse(&text);
            let _ = locate(&text, 0, &FieldPath::default().field("a").index(1));
        }
    }
}
