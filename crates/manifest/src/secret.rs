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

/// What a Secret holds by its keys, with the places.
type Values = BTreeMap<String, (FieldPath, Vec<u8>)>;

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
    let mut values = Values::new();
    for (key, value) in secret.data.into_iter().flatten() {
        values.insert(key.clone(), (data.key(&key), value.0));
    }
    for (key, value) in secret.string_data.into_iter().flatten() {
        values.insert(key.clone(), (root.field("stringData").key(&key), value.into_bytes()));
    }
    for (key, (path, _)) in &values {
        found.invalid_for_each(path, key, names::config_map_key(key));
    }
    if values
        .values()
        .map(|(_, value)| value.len())
        .fold(0, usize::saturating_add)
        > MAX_DATA_BYTES
    {
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

fn config(values: &mut Values, (_, key): (&str, &str), data: &FieldPath, found: &mut Found) -> Vec<u8> {
    let Some((path, bytes)) = values.remove(key) else {
        found.required(&data.key(key), "");
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

#[cfg(test)]
mod tests {
    use super::super::{Input, load};

    const POD: &str = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec:\n  imagePullSecrets: [{name: gone}, {name: b}, {name: a}]\n  containers: [{name: c, image: i}]\n";

    fn secret(name: &str, namespace: &str, rest: &str) -> String {
        format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n{rest}\n")
    }

    #[test]
    fn a_pod_gets_the_secrets_that_it_names_from_its_namespace() {
        let json = "type: kubernetes.io/dockerconfigjson";
        let text = [
            secret("a", "shop", &format!("{json}\ndata: {{.dockerconfigjson: e30=}}\nstringData: {{.dockerconfigjson: '{{\"auths\": {{}}}}'}}")),
            secret("b", "shop", "type: kubernetes.io/dockercfg\ndata: {.dockercfg: eyJyIjp7fX0=}"),
            secret("gone", "other", &format!("{json}\ndata: {{.dockerconfigjson: e30=}}")),
            POD.to_owned(),
        ]
        .concat();
        let manifests = load(&[Input {
            source: "x.yaml",
            text: text.as_bytes(),
        }])
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(manifests.pull_secrets.len(), 3);
        let found: Vec<(&str, &[u8])> = manifests
            .pull_secrets_of(&manifests.pods[0])
            .into_iter()
            .map(|secret| (secret.name.as_str(), secret.docker_config_json.as_slice()))
            .collect();
        assert_eq!(
            found,
            [("b", &b"{\"auths\":{\"r\":{}}}"[..]), ("a", b"{\"auths\": {}}")]
        );
        let line = text.lines().position(|line| line.contains("imagePullSecrets")).unwrap() + 1;
        assert_eq!(
            manifests.warnings,
            [format!(
                "x.yaml:{line}:23: there is no Secret \"gone\" in the manifests; images are pulled without it"
            )]
        );
        // Nothing of the credentials gets into logs.
        assert!(!format!("{manifests:?}").contains("auths"));
    }
}
