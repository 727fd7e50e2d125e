//! The parts of Secrets that `imagePullSecrets` need.

use std::fmt;

use k8s_openapi::api::core::v1::Secret;

/// The type of Secrets with Docker's `config.json`, and its key.
const DOCKER_CONFIG_JSON: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
/// The older type, whose file contains only the registries.
const DOCKER_CFG: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");

/// Registry credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    /// The namespace; a Pod uses the Secrets of its own namespace.
    pub namespace: String,
    /// The name by which `imagePullSecrets` refers to it.
    pub name: String,
    /// Docker's `config.json`: an object with the credentials by registry in `auths`.
    pub docker_config_json: Vec<u8>,
}

/// Omits the credentials.
impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullSecret")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl PullSecret {
    /// The credentials in a defaulted Secret; `None` if it has none.
    #[must_use]
    pub fn of(secret: &Secret) -> Option<Self> {
        let value = |key: &str| Some(secret.data.as_ref()?.get(key)?.0.clone());
        let docker_config_json = match secret.type_.as_deref()? {
            name if name == DOCKER_CONFIG_JSON.0 => value(DOCKER_CONFIG_JSON.1)?,
            name if name == DOCKER_CFG.0 => [&b"{\"auths\":"[..], &value(DOCKER_CFG.1)?, b"}"].concat(),
            _ => return None,
        };
        Some(Self {
            namespace: secret.metadata.namespace.clone().unwrap_or_default(),
            name: secret.metadata.name.clone().unwrap_or_default(),
            docker_config_json,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Input, load};

    const POD: &str = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec:\n  imagePullSecrets: [{name: gone}, {name: b}, {name: a}]\n  containers: [{name: c, image: i}]\n";

    fn secret(name: &str, namespace: &str, rest: &str) -> String {
        format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n{rest}\n")
    }

    #[test]
    fn a_pod_gets_its_named_secrets_from_its_own_namespace() {
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
        let missing: Vec<String> = manifests.missing_pull_secrets.iter().map(ToString::to_string).collect();
        assert_eq!(
            missing,
            [format!(
                "x.yaml:{line}:23: no Secret \"gone\"; pulling images without it"
            )]
        );
        // Credentials must not get into logs.
        assert!(!format!("{manifests:?}").contains("auths"));
    }
}
