//! Objects in memory, and their form in a file.

use std::fmt;

use serde_json::{Map, Value};

use crate::damage::{Damage, InvalidObject};
use crate::key::Key;
use crate::version::{ResourceVersion, decimal};

/// Maximum length of an object's file. A ConfigMap of 1 MiB can be six times as long in JSON, because of escaped
/// characters, and an annotation can contain it once more.
pub const MAX_OBJECT_BYTES: u64 = 16 << 20;

/// A Kubernetes object: a JSON object whose `metadata`, where present, has fields of the right types.
///
/// `Debug` prints only the identity of the object, because it may be a Secret.
#[derive(Clone, PartialEq)]
pub struct Object {
    value: Value,
}

/// The fields of `metadata` that the store reads.
const STRINGS: [&str; 7] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
];
const INTEGERS: [&str; 2] = ["generation", "deletionGracePeriodSeconds"];

impl Object {
    /// The object with this content.
    ///
    /// # Errors
    /// If the content is not a JSON object, or a field that the store needs has the wrong type.
    pub fn new(value: Value) -> Result<Self, InvalidObject> {
        let map = value.as_object().ok_or(InvalidObject::NotAMap)?;
        for field in ["apiVersion", "kind"] {
            field_type(map, field, "a string", Value::is_string)?;
        }
        field_type(map, "metadata", "a JSON object", Value::is_object)?;
        if let Some(metadata) = map.get("metadata").and_then(Value::as_object) {
            for field in STRINGS {
                field_type(metadata, field, "a string", Value::is_string)?;
            }
            for field in INTEGERS {
                field_type(metadata, field, "an integer", Value::is_i64)?;
            }
            let is_list = |value: &Value| {
                value
                    .as_array()
                    .is_some_and(|values| values.iter().all(Value::is_string))
            };
            field_type(metadata, "finalizers", "a list of strings", is_list)?;
        }
        Ok(Self { value })
    }

    /// The content.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Returns the content, to change it.
    #[must_use]
    pub fn into_value(self) -> Value {
        self.value
    }

    /// Empty if the object has none yet.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("name").unwrap_or_default()
    }

    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.text("namespace")
    }

    /// Empty if the object has not been stored.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.text("uid").unwrap_or_default()
    }

    /// `None` if the object has not been stored, or the text of the field is not a version.
    #[must_use]
    pub fn resource_version(&self) -> Option<ResourceVersion> {
        self.text("resourceVersion").and_then(decimal).map(ResourceVersion)
    }

    /// The version that a client states; 0 counts as none.
    pub(crate) fn given_version(&self) -> Option<&str> {
        self.text("resourceVersion").filter(|version| *version != "0")
    }

    /// Whether the object's deletion has begun.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.text("deletionTimestamp").is_some()
    }

    /// `metadata.finalizers`
    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        let list = self.metadata().and_then(|metadata| metadata.get("finalizers"));
        list.and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }

    pub(crate) fn key(&self) -> Key {
        Key {
            namespace: self.namespace().map(str::to_owned),
            name: self.name().to_owned(),
        }
    }

    /// `metadata`
    #[must_use]
    pub fn metadata(&self) -> Option<&Map<String, Value>> {
        self.value.get("metadata").and_then(Value::as_object)
    }

    /// A non-empty string in `metadata`.
    pub(crate) fn text(&self, field: &str) -> Option<&str> {
        let text = self.metadata()?.get(field)?.as_str()?;
        (!text.is_empty()).then_some(text)
    }

    pub(crate) fn integer(&self, field: &str) -> Option<i64> {
        self.metadata()?.get(field)?.as_i64()
    }

    /// A non-empty string at the top level of the object.
    pub(crate) fn top_level_text(&self, field: &str) -> Option<&str> {
        let text = self.value.get(field)?.as_str()?;
        (!text.is_empty()).then_some(text)
    }

    pub(crate) fn set_top_level(&mut self, field: &str, value: Value) {
        if let Value::Object(map) = &mut self.value {
            map.insert(field.to_owned(), value);
        }
    }

    /// Sets a field of `metadata`, or removes it.
    pub(crate) fn set(&mut self, field: &str, value: Option<Value>) {
        let Value::Object(map) = &mut self.value else { return };
        let metadata = map.entry("metadata").or_insert(Value::Null);
        if metadata.is_null() {
            *metadata = Value::Object(Map::new());
        }
        let Value::Object(metadata) = metadata else { return };
        match value {
            Some(value) => metadata.insert(field.to_owned(), value),
            None => metadata.remove(field),
        };
    }

    /// The same object at this version.
    #[must_use]
    pub(crate) fn at(mut self, version: ResourceVersion) -> Self {
        self.set("resourceVersion", Some(version.to_string().into()));
        self
    }

    /// The content of the object's file. The resourceVersion is in the file's name.
    pub(crate) fn to_file(&self) -> Result<Vec<u8>, InvalidObject> {
        let mut bare = self.clone();
        bare.set("resourceVersion", None);
        let mut bytes = serde_json::to_vec(&bare.value).map_err(|_| InvalidObject::NotAMap)?;
        // Never write a file that is too long to be read.
        if serde_json::from_slice::<Value>(&bytes).is_err() {
            return Err(InvalidObject::TooDeep);
        }
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads the content that [`Self::to_file`] returned.
    pub(crate) fn from_file(bytes: &[u8]) -> Result<Self, Damage> {
        // serde_json's messages about syntax contain a position, but no content.
        let value = serde_json::from_slice(bytes).map_err(|error| Damage::NotJson(error.to_string()))?;
        Ok(Self::new(value)?)
    }
}

/// Checks a field that may be absent or null.
fn field_type(
    map: &Map<String, Value>,
    field: &'static str,
    expected: &'static str,
    is_right: impl Fn(&Value) -> bool,
) -> Result<(), InvalidObject> {
    match map.get(field) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if is_right(value) => Ok(()),
        Some(_) => Err(InvalidObject::Field { field, expected }),
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("kind", &self.top_level_text("kind").unwrap_or_default())
            .field("key", &self.key().to_string())
            .field("resource_version", &self.resource_version())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_the_store_reads_must_have_the_right_type() {
        for (value, message) in [
            (json!([]), "the object is not a JSON object"),
            (json!({"metadata": []}), "the object's metadata is not a JSON object"),
            (json!({"kind": 1}), "the object's kind is not a string"),
            (json!({"metadata": {"name": 1}}), "the object's name is not a string"),
            (
                json!({"metadata": {"generation": "1"}}),
                "the object's generation is not an integer",
            ),
            (
                json!({"metadata": {"finalizers": [1]}}),
                "the object's finalizers is not a list of strings",
            ),
        ] {
            assert_eq!(Object::new(value).unwrap_err().to_string(), message);
        }
        let empty =
            json!({"kind": null, "metadata": {"creationTimestamp": null, "finalizers": null}, "data": {"a": 1}});
        assert_eq!(Object::new(empty).unwrap().name(), "");
        assert_eq!(Object::new(json!({})).unwrap().metadata(), None);
    }

    #[test]
    fn the_content_is_not_in_debug_or_errors() {
        let object =
            Object::new(json!({"kind": "Secret", "metadata": {"name": "a"}, "data": {"key": "hidden"}})).unwrap();
        let debug = format!("{object:?} {object:#?}");
        assert!(
            debug.contains("Secret") && !debug.contains("hidden") && !debug.contains("key\": \""),
            "{debug}"
        );
        for file in [
            r#"{"data": {"key": "hidden""#,
            r#"["hidden"]"#,
            r#"{"metadata": "hidden"}"#,
            "hidden",
        ] {
            let damage = Object::from_file(file.as_bytes()).unwrap_err();
            assert!(!format!("{damage} {damage:?}").contains("hidden"), "{damage}");
        }
    }

    #[test]
    fn a_file_has_no_version_and_what_is_written_can_be_read() {
        let value = json!({"metadata": {"name": "a", "resourceVersion": "7"}, "data": {"key": "\u{1}"}});
        let object = Object::new(value).unwrap();
        let file = object.to_file().unwrap();
        let read = Object::from_file(&file).unwrap();
        assert_eq!(read.resource_version(), None);
        assert_eq!(read.at(ResourceVersion(7)), object);
    }

    #[test]
    fn an_object_too_deep_to_be_read_is_not_written() {
        let mut value = json!({});
        for _ in 0..200 {
            value = json!({ "a": value });
        }
        let object = Object::new(value).unwrap();
        assert_eq!(object.to_file().unwrap_err(), InvalidObject::TooDeep);
    }
}
