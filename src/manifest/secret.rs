//! Secrets, as far as a Pod's `imagePullSecrets` need them.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::error::FieldPath;
use super::names;
use super::validation::{Found, metadata};

/// The type of a Secret with Docker's `config.json`, and its key.
const DOCKER_CONFIG_JSON: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
/// The older one, whose file has the registries only.
const DOCKER_CFG: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");
/// `MaxSecretSize`
const MAX_DATA_BYTES: usize = 1 << 20;

/// Credentials for registries.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    /// The namespace; a Pod's secrets are in its own.
    pub namespace: String,
    /// The name that `imagePullSecrets` has.
    pub name: String,
    /// Docker's `config.json`: an object whose `auths` has the credentials by registry.
    pub docker_config_json: Vec<u8>,
}

/// Without the credentials.
impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullSecret")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Kubernetes' rules for a Secret, and those of one for pulling images.
pub(super) fn read(secret: Secret, found: &mut Found) -> PullSecret {
    metadata::validate(&secret.metadata, found);
    let root = FieldPath::default();
    let data = root.field("data");
    // What is written as text wins, as on the API server.
    let mut values: BTreeMap<String, Vec<u8>> = secret
        .data
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, value.0))
        .collect();
    let texts = secret.string_data.into_iter().flatten();
    values.extend(texts.map(|(key, value)| (key, value.into_bytes())));
    for key in values.keys() {
        found.invalid_for_each(&data.key(key), key, names::config_map_key(key));
    }
    if values.values().map(Vec::len).fold(0, usize::saturating_add) > MAX_DATA_BYTES {
        found.too_long(&data, MAX_DATA_BYTES);
    }
    let docker_config_json = match secret.type_.as_deref().unwrap_or("Opaque") {
        name if name == DOCKER_CONFIG_JSON.0 => config(&mut values, DOCKER_CONFIG_JSON, &data, found),
        name if name == DOCKER_CFG.0 => {
            let registries = config(&mut values, DOCKER_CFG, &data, found);
            [&b"{\"auths\":"[..], &registries, b"}"].concat()
        }
        other => {
            let what = format!(
                "{other:?} is not supported by microkube yet: Secrets are only for imagePullSecrets, with type {}",
                DOCKER_CONFIG_JSON.0
            );
            found.add(&root.field("type"), what);
            Vec::new()
        }
    };
    PullSecret {
        namespace: secret.metadata.namespace.unwrap_or_default(),
        name: secret.metadata.name.unwrap_or_default(),
        docker_config_json,
    }
}

fn config(
    values: &mut BTreeMap<String, Vec<u8>>,
    (_, key): (&str, &str),
    data: &FieldPath,
    found: &mut Found,
) -> Vec<u8> {
    let path = data.key(key);
    let Some(bytes) = values.remove(key) else {
        found.required(&path, "");
        return Vec::new();
    };
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(object)) => {
            let auths = object.get("auths");
            if auths.is_some_and(|auths| !auths.is_object() && !auths.is_null()) {
                found.invalid(
                    &path,
                    format_args!("<secret contents redacted>"),
                    "auths must be an object",
                );
            }
        }
        Ok(_) => found.invalid(
            &path,
            format_args!("<secret contents redacted>"),
            "must be a JSON object",
        ),
        Err(error) => {
            let detail = format_args!("not valid JSON at line {} column {}", error.line(), error.column()).to_string();
            found.invalid(&path, format_args!("<secret contents redacted>"), detail);
        }
    }
    bytes
}
