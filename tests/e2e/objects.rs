//! Objects of tests other than Pods, such as ConfigMaps and Secrets.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::host::host;

/// An object with these fields besides its type and name.
pub fn object(kind: &str, name: &str, fields: &Value) -> Value {
    let mut object = json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name } });
    for (field, value) in fields.as_object().expect("fields of an object") {
        match (object.get_mut(field), value) {
            (Some(Value::Object(present)), Value::Object(more)) => present.extend(more.clone()),
            _ => object[field] = value.clone(),
        }
    }
    object
}

pub fn config_map(name: &str, data: &Value) -> Value {
    object("ConfigMap", name, &json!({ "data": data }))
}

/// A Secret of type Opaque.
pub fn secret(name: &str, text: &Value) -> Value {
    object("Secret", name, &json!({ "stringData": text }))
}

pub fn secret_of_type(own_type: &str, name: &str, text: &Value) -> Value {
    object("Secret", name, &json!({ "type": own_type, "stringData": text }))
}

/// The objects as documents of one file.
pub fn documents(objects: &[Value]) -> String {
    let texts: Vec<String> = objects.iter().map(|object| format!("{object:#}\n")).collect();
    texts.join("---\n")
}

/// Writes the objects to a file and returns its path.
pub fn file_of(name: &str, objects: &[Value]) -> String {
    let path = host().file(name, &documents(objects));
    path.to_str().expect("a path of a test").to_owned()
}

/// An object as the store has it.
#[track_caller]
pub fn get(kind: &str, name: &str) -> Value {
    let text = host().succeed(["get", kind, name, "-o", "json"]);
    serde_json::from_str(&text).expect("JSON")
}

/// Runs a line of words, compares exit code and standard output, and returns standard error.
#[track_caller]
pub fn says(line: &str, code: i32, stdout: &str) -> String {
    let finished = host().output(line.split(' '));
    assert_eq!(
        (finished.code(), &*finished.stdout),
        (code, stdout),
        "{line}: {finished:?}"
    );
    finished.stderr
}

/// Runs a line of words that must fail with a message that contains `part`.
#[track_caller]
pub fn refuses(line: &str, part: &str) {
    let finished = host().output(line.split(' '));
    assert_eq!(finished.code(), 1, "{line}: {finished:?}");
    assert_eq!(finished.stdout, "", "{line}: {finished:?}");
    assert!(
        finished.stderr.contains(part),
        "{line}: {part:?} is not in {finished:?}"
    );
    assert!(!finished.stderr.contains("panicked"), "{line}: {finished:?}");
}

/// Objects such as `configmap/shop`, deleted when the test ends, even by a panic.
pub struct Temporary(pub &'static [&'static str]);

impl Drop for Temporary {
    fn drop(&mut self) {
        for object in self.0 {
            let _ = host().output(["delete", object, "--ignore-not-found"]);
        }
    }
}

/// Objects in the store, deleted when the test ends, even by a panic.
pub struct Stored(PathBuf);

impl Stored {
    /// Creates or changes the objects of this file.
    #[track_caller]
    pub fn apply(file: &str, objects: &[Value]) -> Self {
        Self::with("apply", file, objects)
    }

    /// Creates the objects of this file, without the annotation of `apply`, which limits their size.
    #[track_caller]
    pub fn create(file: &str, objects: &[Value]) -> Self {
        Self::with("create", file, objects)
    }

    #[track_caller]
    fn with(verb: &str, file: &str, objects: &[Value]) -> Self {
        let stored = Self(host().file(file, &documents(objects)));
        host().succeed([verb, "-f", stored.path()]);
        stored
    }

    /// Only deletes the objects of this file at the end.
    pub fn later(file: &str, objects: &[Value]) -> Self {
        Self(host().file(file, &documents(objects)))
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("a path of a test")
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        let _ = host().output(["delete", "-f", self.path(), "--ignore-not-found"]);
    }
}
