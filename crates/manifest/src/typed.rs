//! Strict conversion of values to Kubernetes' types. Collects all unknown fields and wrong types, instead of dropping
//! them or stopping at the first one.
//!
//! `k8s-openapi`'s types ignore unknown fields and use defaults for missing ones. This [`serde::Deserializer`] compares
//! the fields in the manifest with those of the type, and continues with a zero value in place of a value of the wrong
//! type.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::error::{FieldPath, MAX_PROBLEMS, Problem};
use super::node::{Entry, Node, Value};
use super::schema::Schema;
use super::{misplaced, scalar, suggest};

/// Maximum number of values that the types themselves may refuse before the rest is left unread.
const MAX_REFUSED: usize = 32;

/// Converts the value to a `T` and returns all problems. The result is `None` only together with a problem. The schema
/// is that of the object, for hints to misplaced fields.
///
/// There is no substitute for a value that the type itself refuses, such as a number out of range. Such a value ends
/// the attempt; the next attempt skips it, so that the values after it are read as well.
pub fn deserialize<'a, T: Deserialize<'a>>(
    node: &'a Node,
    path: &FieldPath,
    schema: &Schema,
) -> (Option<T>, Vec<Problem>) {
    let mut refused: Vec<Problem> = Vec::new();
    loop {
        let findings = RefCell::new(Findings::default());
        let result = T::deserialize(Strict {
            node,
            path: path.clone(),
            refused: &refused,
            findings: &findings,
            schema,
        });
        let Findings {
            mut problems,
            newly_refused,
        } = findings.into_inner();
        let (typed, again) = match result {
            Ok(typed) => (Some(typed), false),
            Err(Failed::Recorded) => (None, newly_refused.is_some() && refused.len() < MAX_REFUSED),
            Err(Failed::Message(message)) => {
                problems.push(Problem::at_or_new(path, message));
                (None, false)
            }
        };
        refused.extend(newly_refused);
        if !again {
            problems.extend(refused);
            return (typed, problems);
        }
    }
}

/// The findings of one attempt.
#[derive(Debug, Default)]
struct Findings {
    problems: Vec<Problem>,
    /// The problem that ended it.
    newly_refused: Option<Problem>,
}

/// The names of a type's fields, as written in a manifest.
#[cfg(test)]
pub fn fields_of<'a, T: Deserialize<'a>>() -> &'static [&'static str] {
    struct Probe(std::rc::Rc<std::cell::Cell<&'static [&'static str]>>);

    impl<'de> Deserializer<'de> for Probe {
        type Error = Failed;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failed> {
            Err(Failed::Recorded)
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Failed> {
            self.0.set(fields);
            Err(Failed::Recorded)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let fields = std::rc::Rc::default();
    // The probe always ends with an error; only the names are needed.
    let _ = T::deserialize(Probe(std::rc::Rc::clone(&fields)));
    fields.get()
}

/// Why deserialization stopped; most problems do not stop it.
#[derive(Debug)]
pub enum Failed {
    /// The type's own message.
    Message(String),
    /// The problem has already been recorded.
    Recorded,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => f.write_str(message),
            Self::Recorded => f.write_str("invalid value"),
        }
    }
}

impl std::error::Error for Failed {}

impl de::Error for Failed {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Message(message.to_string())
    }
}

struct Strict<'a, 'p> {
    node: &'a Node,
    path: FieldPath,
    /// Values to skip, because they ended earlier attempts.
    refused: &'p [Problem],
    findings: &'p RefCell<Findings>,
    schema: &'p Schema,
}

impl<'a, 'p> Strict<'a, 'p> {
    fn child(&self, node: &'a Node, path: FieldPath) -> Self {
        Self {
            node,
            path,
            refused: self.refused,
            findings: self.findings,
            schema: self.schema,
        }
    }

    fn add(&self, problem: Problem) {
        let problems = &mut self.findings.borrow_mut().problems;
        if problems.len() < MAX_PROBLEMS {
            problems.push(problem);
        }
    }

    fn is_refused(&self, path: &FieldPath) -> bool {
        self.refused.iter().any(|problem| problem.path == *path)
    }

    fn wrong_type(&self, expected: &str) {
        let what = format!("invalid type: {}, expected {expected}", describe(&self.node.value));
        self.add(Problem::at_or_new(&self.path, what));
    }

    /// Lets the seed read the value, and records its refusal as a problem of this value.
    fn read<S: DeserializeSeed<'a>>(self, seed: S) -> Result<S::Value, Failed> {
        let place = self.child(self.node, self.path.clone());
        seed.deserialize(self).map_err(|error| {
            if let Failed::Message(message) = error {
                let problem = Problem::at(&place.path, without_rust_types(&message));
                place.findings.borrow_mut().newly_refused = Some(problem);
            }
            Failed::Recorded
        })
    }
}

/// Rewrites messages of `k8s-openapi` and `serde` without Rust's type names.
fn without_rust_types(message: &str) -> String {
    let expected = [
        ("IntOrString", "an integer or a string"),
        ("Quantity", "a quantity"),
        ("i32", "a 32-bit integer"),
        ("i64", "a 64-bit integer"),
    ];
    let mut message = message
        .replace("type: sequence,", "type: a list,")
        .replace("type: map,", "type: a mapping,");
    for (rust, words) in expected {
        message = message.replace(&format!("expected {rust}"), &format!("expected {words}"));
    }
    message
}

pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("boolean `{value}`"),
        Value::Number(value) => format!("number `{value}`"),
        Value::String(value) => format!("string {:?}", suggest::shorten(value)),
        Value::OldBool(word) => format!("`{word}`, a boolean in YAML 1.1 and a string in YAML 1.2"),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}

/// The value of an integer in any notation: `80`, `8e1`.
fn as_i64(number: &Number) -> Option<i64> {
    /// Up to this number, floating point represents every integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    number.as_i64().or_else(|| {
        let value = number
            .as_f64()
            .filter(|value| value.trunc() == *value && value.abs() <= EXACT)?;
        Some(value as i64)
    })
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
            self.deserialize_i64(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Strict<'de, '_> {
    type Error = Failed;

    /// For types that read several kinds of values, such as quantities.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (as_i64(number), number.as_u64(), number.as_f64()) {
                (Some(value), ..) => visitor.visit_i64(value),
                (None, Some(value), _) => visitor.visit_u64(value),
                (.., value) => visitor.visit_f64(value.unwrap_or_default()),
            },
            Value::String(value) => visitor.visit_borrowed_str(value),
            Value::OldBool(_) => self.deserialize_str(visitor),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match &self.node.value {
            Value::Bool(value) => return visitor.visit_bool(*value),
            Value::OldBool(word) => {
                let meant = matches!(scalar::plain(word), scalar::Plain::OldBool(true));
                self.wrong_type(&format!("a boolean: write {meant}"));
            }
            _ => self.wrong_type("a boolean (true or false)"),
        }
        visitor.visit_bool(false)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        if let Value::Number(number) = &self.node.value
            && let Some(value) = as_i64(number)
        {
            return visitor.visit_i64(value);
        }
        self.wrong_type("an integer");
        visitor.visit_i64(0)
    }

    integers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32
    deserialize_u64 deserialize_u128 }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        if let Value::Number(number) = &self.node.value {
            return visitor.visit_f64(number.as_f64().unwrap_or_default());
        }
        self.wrong_type("a number");
        visitor.visit_f64(0.0)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        if let Value::String(value) = &self.node.value {
            return visitor.visit_borrowed_str(value);
        }
        let quoted = !matches!(self.node.value, Value::List(_) | Value::Map(_) | Value::Null);
        self.wrong_type(if quoted {
            "a string: write it in quotes"
        } else {
            "a string"
        });
        visitor.visit_borrowed_str("")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        if matches!(self.node.value, Value::Null) {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let elements = match &self.node.value {
            Value::List(elements) => elements.as_slice(),
            Value::Null => &[],
            _ => {
                self.wrong_type("a list");
                &[]
            }
        };
        visitor.visit_seq(Elements {
            parent: &self,
            elements: elements.iter().enumerate(),
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.entries(visitor, |path, key| path.key(key))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        if let Value::Map(entries) = &self.node.value {
            for (key, entry) in entries.iter().filter(|(key, _)| !fields.contains(&key.as_str())) {
                if self.findings.borrow().problems.len() >= MAX_PROBLEMS {
                    break;
                }
                let path = self.path.field(key);
                let hint = misplaced::hint(key, &self.path, fields, self.schema);
                let mut problem = Problem::unknown_field(&path, &hint);
                problem.location = Some(entry.key_at);
                self.add(problem);
            }
        }
        self.entries(visitor, |path, key| path.field(key))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

impl<'a> Strict<'a, '_> {
    fn entries<V: Visitor<'a>>(
        self,
        visitor: V,
        child_path: fn(&FieldPath, &str) -> FieldPath,
    ) -> Result<V::Value, Failed> {
        let empty = None;
        let entries = match &self.node.value {
            Value::Map(entries) => Some(entries.iter()),
            Value::Null => empty,
            _ => {
                self.wrong_type("a mapping");
                empty
            }
        };
        visitor.visit_map(Entries {
            parent: &self,
            entries: entries.into_iter().flatten(),
            current: None,
            child_path,
        })
    }
}

struct Elements<'s, 'a, 'p> {
    parent: &'s Strict<'a, 'p>,
    elements: std::iter::Enumerate<std::slice::Iter<'a, Rc<Node>>>,
}

impl<'a> SeqAccess<'a> for Elements<'_, 'a, '_> {
    type Error = Failed;

    fn next_element_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, Failed> {
        for (index, value) in self.elements.by_ref() {
            let path = self.parent.path.index(index);
            if !self.parent.is_refused(&path) {
                return self.parent.child(value, path).read(seed).map(Some);
            }
        }
        Ok(None)
    }
}

struct Entries<'s, 'a, 'p, I> {
    parent: &'s Strict<'a, 'p>,
    entries: I,
    current: Option<(FieldPath, &'a Node)>,
    child_path: fn(&FieldPath, &str) -> FieldPath,
}

impl<'a, I: Iterator<Item = (&'a String, &'a Entry)>> MapAccess<'a> for Entries<'_, 'a, '_, I> {
    type Error = Failed;

    fn next_key_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, Failed> {
        for (key, entry) in self.entries.by_ref() {
            let path = (self.child_path)(&self.parent.path, key);
            if !self.parent.is_refused(&path) {
                self.current = Some((path, &entry.value));
                let key: StrDeserializer<'_, Failed> = key.as_str().into_deserializer();
                return seed.deserialize(key).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<S::Value, Failed> {
        let (path, value) = self.current.take().ok_or(Failed::Recorded)?;
        self.parent.child(value, path).read(seed)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, PodSpec};
    use serde_json::json;

    use super::super::{documents, yaml};
    use super::*;

    fn pod(value: &serde_json::Value) -> (Option<Pod>, Vec<Problem>) {
        let text = value.to_string();
        let documents = documents::split(text.as_bytes()).unwrap();
        let (nodes, problems) = yaml::parse(&documents[0], &mut yaml::Budget::default());
        assert_eq!(problems, []);
        deserialize::<Pod>(&nodes[0], &FieldPath::default(), Schema::of_pod())
    }

    fn problems(value: &serde_json::Value) -> Vec<String> {
        pod(value).1.into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn all_unknown_fields_and_wrong_types_are_reported_at_once() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": 5, "labels": {"a.b/c": true}},
            "spec": {
                "restartPolcy": "Never",
                "containers": [
                    {"name": "a", "imagePullPolice": "Always", "ports": [{"containerPort": "eighty"}]},
                    {"name": "b", "command": "sh", "env": {"A": "b"}, "tty": "yes", "zzz": 1}
                ],
                "volumes": [{"name": "v", "emptyDir": [], "emptyDri": {}}]
            }
        });
        let mut found = problems(&pod);
        found.sort();
        assert_eq!(
            found,
            [
                "metadata.labels[a.b/c]: invalid type: boolean `true`, expected a string: write it in quotes",
                "metadata.name: invalid type: number `5`, expected a string: write it in quotes",
                "spec.containers[0].ports[0].containerPort: invalid type: string \"eighty\", expected an integer",
                "spec.containers[1].command: invalid type: string \"sh\", expected a list",
                "spec.containers[1].env: invalid type: a mapping, expected a list",
                "spec.containers[1].tty: invalid type: string \"yes\", expected a boolean (true or false)",
                "spec.volumes[0].emptyDir: invalid type: a list, expected a mapping",
                "unknown field \"spec.containers[0].imagePullPolice\", did you mean \"imagePullPolicy\"?",
                "unknown field \"spec.containers[1].zzz\"",
                "unknown field \"spec.restartPolcy\", did you mean \"restartPolicy\"?",
                "unknown field \"spec.volumes[0].emptyDri\", did you mean \"emptyDir\"?",
            ]
        );
    }

    #[test]
    fn valid_values_are_converted() {
        let value = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": null},
            "spec": {
                "terminationGracePeriodSeconds": 3,
                "containers": [{"name": "a", "resources": {"limits": {"cpu": 1, "memory": "64Mi"}}}]
            }
        });
        let (typed, problems) = pod(&value);
        assert_eq!(problems, []);
        let spec = typed.unwrap().spec.unwrap();
        assert_eq!(spec.termination_grace_period_seconds, Some(3));
        let limits = spec.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap();
        assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("1", "64Mi"));
    }

    #[test]
    fn a_number_out_of_range_is_reported_at_its_field() {
        let pod = json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 99_999_999_999_i64}]}]}});
        let found = problems(&pod);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("spec.containers[0].ports[0].containerPort: invalid value"),
            "{found:?}"
        );
    }

    #[test]
    fn an_invalid_value_does_not_hide_later_problems() {
        let found = problems(&json!({
            "metadata": {"creationTimestamp": "yesterday"},
            "spec": {"containers": [
                {
                    "name": "a", "ports": [{"containerPort": 99_999_999_999_i64}, {"containerPort": 5_000_000_000_i64}],
                    "resources": {"limits": {"cpu": [1]}}, "livenessProbe": {"tcpSocket": {"port": true}}
                },
                {"name": 7, "imge": "b"}
            ]}
        }));
        let starts: Vec<&str> = found.iter().filter_map(|message| message.split(": ").next()).collect();
        assert_eq!(
            starts,
            [
                "unknown field \"spec.containers[1].imge\", did you mean \"image\"?",
                "spec.containers[1].name",
                "metadata.creationTimestamp",
                "spec.containers[0].livenessProbe.tcpSocket.port",
                "spec.containers[0].ports[0].containerPort",
                "spec.containers[0].ports[1].containerPort",
                "spec.containers[0].resources.limits[cpu]",
            ],
            "{found:?}"
        );
        let many: Vec<_> = (0..1000).map(|_| json!({"containerPort": 5_000_000_000_i64})).collect();
        let found = problems(&json!({"spec": {"containers": [{"name": "a", "ports": many}]}}));
        assert_eq!(found.len(), MAX_REFUSED + 1);
    }

    #[test]
    fn field_names_can_be_listed() {
        assert!(fields_of::<PodSpec>().contains(&"terminationGracePeriodSeconds"));
        assert_eq!(fields_of::<Pod>(), ["apiVersion", "kind", "metadata", "spec", "status"]);
    }
}
