//! Kubernetes' rules for Secrets. No message contains a value.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::super::error::{FieldPath, Problem};
use super::super::names;
use super::config_map::MAX_DATA_BYTES;
use super::found::Found;
use super::{metadata, update};

/// The annotation of a Secret with a token that names its ServiceAccount.
const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

/// The content that a type of Secret requires.
enum Needs {
    /// All these keys.
    Keys(&'static [&'static str]),
    /// One of these keys.
    OneOf(&'static [&'static str]),
    /// A key with a value that is not empty.
    NotEmpty(&'static str),
    /// A key with a JSON object.
    JsonObject(&'static str),
    /// An annotation.
    Annotation(&'static str),
}

/// The types with rules; all others are accepted as they are, `bootstrap.kubernetes.io/token` among them.
const TYPES: &[(&str, Needs)] = &[
    (
        "kubernetes.io/service-account-token",
        Needs::Annotation(SERVICE_ACCOUNT_NAME),
    ),
    ("kubernetes.io/dockercfg", Needs::JsonObject(".dockercfg")),
    ("kubernetes.io/dockerconfigjson", Needs::JsonObject(".dockerconfigjson")),
    ("kubernetes.io/basic-auth", Needs::OneOf(&["username", "password"])),
    ("kubernetes.io/ssh-auth", Needs::NotEmpty("ssh-privatekey")),
    ("kubernetes.io/tls", Needs::Keys(&["tls.crt", "tls.key"])),
];

/// All problems of the Secret, whose `stringData` is already part of `data`.
pub(crate) fn validate(secret: &Secret) -> Vec<Problem> {
    let mut found = Found::default();
    metadata::validate(&secret.metadata, &mut found);
    let path = FieldPath::default().field("data");
    let none = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&none);
    let mut bytes = 0_usize;
    for (key, value) in data {
        found.invalid_for_each(&path.key(key), key, names::config_map_key(key));
        bytes = bytes.saturating_add(value.0.len());
    }
    if bytes > MAX_DATA_BYTES {
        found.too_long(&path, MAX_DATA_BYTES);
    }
    let own_type = secret.type_.as_deref().unwrap_or_default();
    if let Some((_, needs)) = TYPES.iter().find(|(name, _)| *name == own_type) {
        self::needs(needs, secret, data, &path, &mut found);
    }
    found.0
}

fn needs(needs: &Needs, secret: &Secret, data: &BTreeMap<String, ByteString>, path: &FieldPath, found: &mut Found) {
    let has = |key: &&str| data.contains_key(*key);
    match needs {
        Needs::Keys(keys) => {
            for key in keys.iter().filter(|key| !has(key)) {
                found.required(&path.key(key), "");
            }
        }
        Needs::OneOf(keys) if keys.iter().any(has) => {}
        Needs::OneOf(keys) => {
            for key in *keys {
                found.required(&path.key(key), "");
            }
        }
        Needs::NotEmpty(key) => {
            if data.get(*key).is_none_or(|value| value.0.is_empty()) {
                found.required(&path.key(key), "");
            }
        }
        Needs::JsonObject(key) => match data.get(*key) {
            None => found.required(&path.key(key), ""),
            Some(value) => {
                json_object(&value.0, &path.key(key), found);
            }
        },
        Needs::Annotation(key) => {
            let annotations = secret.metadata.annotations.as_ref();
            let value = annotations.and_then(|annotations| annotations.get(*key));
            if value.is_none_or(String::is_empty) {
                let path = FieldPath::default().field("metadata").field("annotations");
                found.required(&path.key(key), "");
            }
        }
    }
}

/// Checks that a secret value is a JSON object, and returns it.
pub(crate) fn json_object(bytes: &[u8], path: &FieldPath, found: &mut Found) -> Option<serde_json::Map<String, Value>> {
    let detail = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(object)) => return Some(object),
        Ok(_) => "must be a JSON object".to_owned(),
        Err(error) => format!("not valid JSON at line {} column {}", error.line(), error.column()),
    };
    found.invalid(path, format_args!("<secret contents redacted>"), detail);
    None
}

/// All problems of a change.
pub(crate) fn validate_update(new: &Secret, old: &Secret) -> Vec<Problem> {
    let mut found = Found::default();
    update::metadata(&new.metadata, &old.metadata, &mut found);
    let own_type = |secret: &Secret| secret.type_.clone().unwrap_or_default();
    update::immutable_text(
        &own_type(new),
        &own_type(old),
        &FieldPath::default().field("type"),
        &mut found,
    );
    if old.immutable == Some(true) {
        let same = [
            ("immutable", new.immutable == Some(true)),
            ("data", update::same_map(new.data.as_ref(), old.data.as_ref())),
        ];
        update::immutable_data(&same, &mut found);
    }
    found.0
}
