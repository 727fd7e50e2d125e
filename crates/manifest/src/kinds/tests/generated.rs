//! Random objects, generated from the schemas: valid samples in which some fields have other values.

use proptest::prelude::*;
use serde_json::Map;

use super::super::super::schema::{Schema, inside, join};
use super::*;

/// Values that are valid somewhere.
const TEXTS: &[&str] = &[
    "",
    "a",
    "A b",
    "a.b/c",
    "..",
    "/",
    "1Gi",
    "-1",
    "v1",
    "metadata.name",
    "limits.cpu",
    "eA==",
    "Always",
    "Filesystem",
    "Delete",
    "ReadWriteOnce",
    "Opaque",
    "kubernetes.io/tls",
    "2026-01-01T00:00:00Z",
    "é\0",
    "orphan",
    "$(A)",
];
const NUMBERS: &[i64] = &[0, 1, -1, 420, 511, 512, 65_536, 5_000_000_000, i64::MIN, i64::MAX];

/// A source of choices.
struct Choices<'b>(std::slice::Iter<'b, u8>);

impl Choices<'_> {
    fn next(&mut self, count: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % count.max(1)
    }

    fn of<'v, V>(&mut self, values: &'v [V]) -> &'v V {
        &values[self.next(values.len())]
    }

    fn value(&mut self, schema: &Schema, path: &str, type_name: &str, depth: usize) -> Value {
        if self.next(24) == 23 {
            return self
                .of(&[
                    json!(null),
                    json!([]),
                    json!({}),
                    json!(true),
                    json!(1.5),
                    json!("x"),
                    json!([[]]),
                ])
                .clone();
        }
        if let Some(element) = type_name.strip_prefix("[]") {
            return (0..self.next(3))
                .map(|_| self.value(schema, path, element, depth))
                .collect();
        }
        if let Some(value) = type_name.strip_prefix("map[string]") {
            let count = self.next(3);
            let entries = (0..count).map(|_| (self.of(TEXTS).to_string(), self.value(schema, path, value, depth)));
            return Value::Object(entries.collect());
        }
        match type_name {
            "integer" | "number" => json!(self.of(NUMBERS)),
            "boolean" => json!(self.next(2) == 1),
            "IntOrString" if self.next(2) == 0 => json!(self.of(NUMBERS)),
            _ => match schema.field(path).filter(|field| !field.fields.is_empty() && depth > 0) {
                Some(field) => Value::Object(self.fields(schema, &inside(field), &field.fields, depth - 1)),
                None => json!(self.of(TEXTS)),
            },
        }
    }

    /// Some fields of an object.
    fn fields(&mut self, schema: &Schema, prefix: &str, names: &[String], depth: usize) -> Map<String, Value> {
        let count = self.next(4) + 1;
        let chosen = (0..count).map(|_| {
            let name = self.of(names);
            let path = join(prefix, name);
            let type_name = schema
                .field(&path)
                .map(|field| field.type_name.clone())
                .unwrap_or_default();
            (name.clone(), self.value(schema, &path, &type_name, depth))
        });
        chosen.collect()
    }
}

/// Replaces and adds fields at all levels.
fn overlay(value: &mut Value, other: Value) {
    match (value, other) {
        (Value::Object(fields), Value::Object(others)) => {
            for (name, other) in others {
                overlay(fields.entry(name).or_insert(Value::Null), other);
            }
        }
        (value, other) => *value = other,
    }
}

fn generated(kind: usize, bytes: &[u8]) -> Value {
    let mut value = samples().swap_remove(kind % all().len());
    let kind = kind_of(&value);
    let schema = kind.schema();
    let fields: Vec<String> = schema
        .fields
        .iter()
        .filter(|name| *name != "apiVersion" && *name != "kind")
        .cloned()
        .collect();
    let other = Choices(bytes.iter()).fields(schema, "", &fields, 6);
    overlay(&mut value, Value::Object(other));
    value
}

proptest! {
    #[test]
    fn any_object_is_read_or_refused(kind in 0_usize..8, bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let value = generated(kind, &bytes);
        let kind = kind_of(&value);
        let read = objects(&value.to_string());
        let Ok(object) = kind.read(&value) else {
            prop_assert!(read.is_err());
            return Ok(());
        };
        // Defaults are set once.
        let mut defaulted = object.clone();
        defaulted.set_defaults();
        let mut again = defaulted.clone();
        again.set_defaults();
        prop_assert_eq!(&again, &defaulted);
        // The object survives its form as text, valid or not.
        let text = defaulted.to_value();
        prop_assert_eq!(&kind.read(&text).unwrap(), &defaulted);
        let of_new = messages(defaulted.validate());
        let of_changed = of_new.iter().filter(|message| !message.ends_with("cannot be set on create"));
        // A change is validated as a new object is, and may have further problems, such as other limits of a deadline.
        let of_change = messages(defaulted.validate_update(&defaulted));
        let missing: Vec<_> = of_changed.filter(|message| !of_change.contains(message)).collect();
        prop_assert_eq!(missing, [""; 0]);
        defaulted.prepare_for_create();
        if read.is_ok() {
            prop_assert_eq!(messages(defaulted.validate()), [""; 0]);
            let again = objects(&text.to_string()).map_err(|error| error.to_string()).unwrap();
            // A name generated from `generateName` differs each time.
            if value.pointer("/metadata/name").and_then(Value::as_str).is_some_and(|name| !name.is_empty()) {
                prop_assert_eq!(again, read.unwrap());
            }
        }
    }

    #[test]
    fn any_change_is_accepted_or_refused(kind in 0_usize..8, old in prop::collection::vec(any::<u8>(), 0..40), new in prop::collection::vec(any::<u8>(), 0..40)) {
        let (old, new) = (generated(kind, &old), generated(kind, &new));
        let _ = kind_of(&old).validate_update(&old, &new);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(apiVersion: v1\n|kind: (Secret|List|PodList|Pod|ConfigMap)\n|metadata: \\{name: a\\}\n|items:\n|- |data: |a: b\n|\\{\\}\n|---\n|  ){0,12}") {
        let _ = objects(&text);
    }
}
