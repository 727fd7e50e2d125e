//! The Secrets in manifests with which images can be pulled.

use k8s_openapi::api::core::v1::Secret;

/// The type of Secrets with Docker's `config.json`, and its key.
const DOCKER_CONFIG_JSON: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
/// The older type, whose file contains only the registries.
const DOCKER_CFG: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");

/// The name of a Secret with registry credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullSecret {
    /// The namespace; a Pod uses the Secrets of its own namespace.
    pub namespace: String,
    /// The name by which `imagePullSecrets` refers to it.
    pub name: String,
}

impl PullSecret {
    /// The name of a defaulted Secret; `None` if it has no credentials.
    #[must_use]
    pub fn of(secret: &Secret) -> Option<Self> {
        let is_pull_secret = |(own_type, key): (&str, &str)| {
            secret.type_.as_deref() == Some(own_type) && secret.data.as_ref().is_some_and(|data| data.contains_key(key))
        };
        let found = is_pull_secret(DOCKER_CONFIG_JSON) || is_pull_secret(DOCKER_CFG);
        found.then(|| Self {
            namespace: secret.metadata.namespace.clone().unwrap_or_default(),
            name: secret.metadata.name.clone().unwrap_or_default(),
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
        let own = manifests.pull_secrets_of(&manifests.pods[0]).into_iter();
        let own: Vec<&str> = own.map(|secret| secret.name.as_str()).collect();
        assert_eq!(own, ["b", "a"]);
        let line = text.lines().position(|line| line.contains("imagePullSecrets")).unwrap() + 1;
        let missing: Vec<String> = manifests.missing_pull_secrets.iter().map(ToString::to_string).collect();
        assert_eq!(
            missing,
            [format!(
                "x.yaml:{line}:23: no Secret \"gone\"; pulling images without it"
            )]
        );
        let kept: Vec<(&str, &str)> = manifests
            .pull_secrets
            .iter()
            .map(|super::PullSecret { namespace, name }| (namespace.as_str(), name.as_str()))
            .collect();
        assert_eq!(kept, [("shop", "a"), ("shop", "b"), ("other", "gone")]);
    }
}
