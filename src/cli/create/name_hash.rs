//! `--append-hash`: a hash of an object's content for its name (`kubectl/pkg/util/hash`).

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Digits of the hash.
const DIGITS: usize = 10;

/// The hash of name, data and binary data.
pub(super) fn of_config_map(config_map: &ConfigMap) -> String {
    let mut value = json!({
        "kind": "ConfigMap",
        "name": config_map.metadata.name,
        "data": config_map.data.clone().unwrap_or_default(),
    });
    if let Some(binary) = &config_map.binary_data {
        value["binaryData"] = json!(binary);
    }
    of(&value)
}

/// The hash of name, type and data.
pub(super) fn of_secret(secret: &Secret) -> String {
    of(&json!({
        "kind": "Secret",
        "type": secret.type_.clone().unwrap_or_default(),
        "name": secret.metadata.name,
        "data": secret.data.clone().unwrap_or_default(),
    }))
}

fn of(value: &Value) -> String {
    let hash = Sha256::digest(go_json(value));
    let digits = hash.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).take(DIGITS);
    // Without vowels, so that no words appear.
    digits
        .map(|digit| char::from(b"gh2k456789mbcdtf"[usize::from(digit)]))
        .collect()
}

/// JSON as Go writes it: with sorted keys and escapes for HTML.
pub(super) fn go_json(value: &Value) -> String {
    // These characters occur only in strings.
    value
        .to_string()
        .replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::super::generated::named;
    use super::*;

    fn config_map(name: &str, data: Value, binary: Value) -> String {
        of_config_map(&ConfigMap {
            metadata: named(name),
            data: serde_json::from_value(data).unwrap(),
            binary_data: serde_json::from_value(binary).unwrap(),
            immutable: None,
        })
    }

    fn secret(name: &str, kind: &str, data: Value) -> String {
        of_secret(&Secret {
            metadata: named(name),
            type_: Some(kind.to_owned()),
            data: serde_json::from_value(data).unwrap(),
            ..Secret::default()
        })
    }

    #[test]
    fn hashes_are_those_of_kubectl() {
        // From `hash_test.go`.
        assert_eq!(config_map("", json!({}), json!(null)), "42745tchd9");
        assert_eq!(config_map("", json!({ "one": "" }), json!(null)), "9g67k2htb6");
        assert_eq!(
            config_map("", json!({ "two": "2", "one": "", "three": "3" }), json!(null)),
            "f5h7t85m9b"
        );
        assert_eq!(config_map("", json!({ "one": "" }), json!({ "two": "" })), "698h7c7t9m");
        assert_eq!(secret("", "my-type", json!({})), "t75bgf6ctb");
        assert_eq!(secret("", "my-type", json!({ "one": "" })), "74bd68bm66");
        let three = json!({ "two": "Mg==", "one": "", "three": "Mw==" });
        assert_eq!(secret("", "my-type", three), "dgcb6h9tmk");
    }
}
