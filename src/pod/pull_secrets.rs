//! The Secrets for pulling a Pod's images. They are in the node's store; records that earlier builds created contain
//! copies of the Secrets in the Pods' manifests.

use k8s_openapi::api::core::v1::{LocalObjectReference, Secret, ServiceAccount};
use microkube_image::PullSecret;
use microkube_projection::{LookupError, Objects as _};

use super::node_objects::NodeObjects;
use super::service_account_token::service_account;
use crate::state::PodRecord;

/// The type of Secrets with Docker's `config.json`, and its key.
const DOCKER_CONFIG_JSON: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
/// The older type, whose file contains only the registries.
const DOCKER_CFG: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");

/// The credentials for a Pod's images.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PullSecrets {
    pub found: Vec<PullSecret>,
    /// Names of Secrets that do not exist or cannot be read.
    pub missing: Vec<String>,
}

impl PullSecrets {
    /// Those of a Pod whose lookup has panicked.
    #[must_use]
    pub fn unreadable(record: &PodRecord) -> Self {
        let own = record
            .pod
            .spec
            .iter()
            .filter_map(|spec| spec.image_pull_secrets.as_deref());
        Self {
            found: Vec::new(),
            missing: own.flat_map(written).collect(),
        }
    }

    /// The message of the kubelet's event `FailedToRetrieveImagePullSecret`, if any are missing.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let names = self.missing.join(", ");
        (!names.is_empty()).then(|| {
            format!(
                "Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed."
            )
        })
    }
}

/// Finds a Pod's `imagePullSecrets`, or those of its service account if it has none, as the admission of service
/// accounts does. Lookups block.
#[must_use]
pub fn find(record: &PodRecord, objects: &NodeObjects) -> PullSecrets {
    let mut secrets = PullSecrets::default();
    for name in names(record, objects) {
        match objects.secret(&record.namespace, &name) {
            Ok(Some(secret)) => secrets
                .found
                .extend(docker_config(&secret).map(|own| PullSecret::new(name, own))),
            Ok(None) => match record.pull_secrets.iter().find(|secret| secret.name == name) {
                Some(copy) => {
                    let config = copy.docker_config_json.clone().into_bytes();
                    secrets.found.push(PullSecret::new(name, config));
                }
                None => secrets.missing.push(name),
            },
            Err(LookupError(why)) => {
                tracing::warn!("cannot read the Secret {name:?}: {why}");
                secrets.missing.push(name);
            }
        }
    }
    secrets
}

fn names(record: &PodRecord, objects: &NodeObjects) -> Vec<String> {
    let own = record
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.image_pull_secrets.as_deref());
    if let Some(own) = own.filter(|own| !own.is_empty()) {
        return written(own);
    }
    let name = service_account(&record.pod);
    match objects.find::<ServiceAccount>("ServiceAccount", &record.namespace, name) {
        Ok(account) => {
            let secrets = account
                .as_ref()
                .and_then(|account| account.image_pull_secrets.as_deref());
            written(secrets.unwrap_or_default())
        }
        Err(LookupError(why)) => {
            tracing::warn!("cannot read the service account {name:?}: {why}");
            Vec::new()
        }
    }
}

fn written(references: &[LocalObjectReference]) -> Vec<String> {
    let names = references.iter().map(|reference| reference.name.clone());
    names.filter(|name| !name.is_empty()).collect()
}

/// Docker's `config.json` in a Secret. Secrets of other types are ignored, as by the kubelet.
fn docker_config(secret: &Secret) -> Option<Vec<u8>> {
    let value = |key: &str| Some(secret.data.as_ref()?.get(key)?.0.clone());
    match secret.type_.as_deref()? {
        kind if kind == DOCKER_CONFIG_JSON.0 => value(DOCKER_CONFIG_JSON.1),
        kind if kind == DOCKER_CFG.0 => {
            let registries = value(DOCKER_CFG.1)?;
            Some([&b"{\"auths\":"[..], &registries, b"}"].concat())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;
    use microkube_store::{Object, Store};
    use serde_json::{Value, json};

    use super::*;
    use crate::objects;
    use crate::state::Paths;

    fn create(store: &Store, kind: &str, name: &str, rest: &Value) {
        let mut value = json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name, "namespace": "shop" } });
        for (key, field) in rest.as_object().unwrap() {
            value[key] = field.clone();
        }
        let resource = objects::resource(kinds::find("v1", kind).unwrap());
        store.create(&resource, Object::new(value).unwrap()).unwrap();
    }

    fn record(names: &[&str], account: &str) -> PodRecord {
        let references: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        serde_json::from_value(json!({
            "uid": "u", "namespace": "shop", "name": "web", "client": null, "supervisor": null, "vmm": null,
            "pull_secrets": [
                { "name": "json", "docker_config_json": "a copy" },
                { "name": "copied", "docker_config_json": "a copy" },
            ],
            "pod": {
                "apiVersion": "v1", "kind": "Pod", "metadata": {},
                "spec": { "containers": [], "imagePullSecrets": references, "serviceAccountName": account },
            },
        }))
        .unwrap()
    }

    #[test]
    fn secrets_come_from_the_store_the_service_account_and_records_of_earlier_builds() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let store = objects::open(&paths).unwrap();
        let config = json!({ "type": DOCKER_CONFIG_JSON.0, "data": { ".dockerconfigjson": "e30=" } });
        create(&store, "Secret", "json", &config);
        create(
            &store,
            "Secret",
            "cfg",
            &json!({ "type": DOCKER_CFG.0, "data": { ".dockercfg": "e30=" } }),
        );
        create(
            &store,
            "Secret",
            "opaque",
            &json!({ "type": "Opaque", "data": { ".dockercfg": "e30=" } }),
        );
        create(
            &store,
            "ServiceAccount",
            "default",
            &json!({ "imagePullSecrets": [{ "name": "json" }] }),
        );
        let found = |names: &[&str], account: &str| find(&record(names, account), &NodeObjects::new(&paths));
        let secret = |name: &str, config: &str| PullSecret::new(name, config.as_bytes().to_vec());
        let own = found(&["cfg", "copied", "opaque", "gone", "json", "lost"], "");
        assert_eq!(
            own.found,
            [
                secret("cfg", "{\"auths\":{}}"),
                secret("copied", "a copy"),
                secret("json", "{}")
            ]
        );
        assert_eq!(
            own.complaint().unwrap(),
            "Unable to retrieve some image pull secrets (gone, lost); attempting to pull the image may not succeed."
        );
        let of_account = found(&[], "");
        assert_eq!((of_account.found.len(), of_account.complaint()), (1, None));
        assert_eq!(found(&[], "unknown"), PullSecrets::default());
        let unreadable = PullSecrets::unreadable(&record(&["cfg", "", "json"], ""));
        assert_eq!(
            (unreadable.found, unreadable.missing),
            (vec![], vec!["cfg".to_owned(), "json".to_owned()])
        );
    }
}
