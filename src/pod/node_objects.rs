//! The sources of a Pod's values: objects in the node's store, tokens, and files in the guest.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use microkube_base::causes::with_causes;
use microkube_manifest::kinds;
use microkube_projection::{Content, LookupError, Objects};
use microkube_store::Store;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use ttrpc::context::with_duration;

use super::agent::AgentClientHandle;
use super::resolved_pod::node_name;
use super::service_account_token::{PodTokens, Signer, Subject, service_account};
use crate::objects::{self, DEFAULT_ACCOUNT};
use crate::state::{Paths, PodRecord};

/// How long the guest may take to send all files for an environment. The supervisor waits for them.
const GUEST_PATIENCE: Duration = Duration::from_secs(3);

/// Looks up objects in the store. The first lookup opens it. Lookups block.
#[derive(Debug)]
pub struct NodeObjects {
    paths: Paths,
    store: OnceCell<Store>,
    tokens: Option<TokenSource>,
    guest: Option<GuestFiles>,
}

/// Files that containers have written to the Pod's volumes.
#[derive(Debug)]
struct GuestFiles {
    agent: AgentClientHandle,
    /// The deadline for all files.
    deadline: Instant,
    /// By volume and path.
    read: RefCell<HashMap<(String, String), FileResult>>,
}

type FileResult = Result<Option<Content>, LookupError>;

/// Where a Pod's tokens come from.
#[derive(Debug)]
struct TokenSource {
    tokens: Arc<PodTokens>,
    /// Without the UID of the service account.
    subject: Subject,
}

impl NodeObjects {
    #[must_use]
    pub fn new(paths: &Paths) -> Self {
        Self {
            paths: paths.clone(),
            store: OnceCell::new(),
            tokens: None,
            guest: None,
        }
    }

    /// Also looks up files in the Pod's volumes. Use it in a blocking task of a tokio runtime.
    #[must_use]
    pub fn with_guest(paths: &Paths, agent: AgentClientHandle) -> Self {
        Self {
            guest: Some(GuestFiles {
                agent,
                deadline: Instant::now() + GUEST_PATIENCE,
                read: RefCell::default(),
            }),
            ..Self::new(paths)
        }
    }

    /// Also provides the tokens of a Pod.
    #[must_use]
    pub fn with_tokens(paths: &Paths, record: &PodRecord, tokens: &Arc<PodTokens>) -> Self {
        let subject = Subject {
            namespace: record.namespace.clone(),
            service_account: service_account(&record.pod).to_owned(),
            service_account_uid: None,
            pod: record.name.clone(),
            pod_uid: record.uid.clone(),
            node: node_name(),
        };
        Self {
            tokens: Some(TokenSource {
                tokens: Arc::clone(tokens),
                subject,
            }),
            ..Self::new(paths)
        }
    }

    fn store(&self) -> Result<&Store, LookupError> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let store = objects::open(&self.paths).map_err(|error| LookupError(with_causes(&error)))?;
        Ok(self.store.get_or_init(|| store))
    }

    /// An object of the core API group.
    pub fn find<T: DeserializeOwned>(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<T>>, LookupError> {
        let kind = kinds::find("v1", kind).ok_or_else(|| LookupError(format!("there is no kind {kind}")))?;
        let key = objects::key(kind, namespace, name);
        let found = self.store()?.find(&objects::resource(kind), &key);
        let Some(object) = found.map_err(|error| LookupError(with_causes(&error)))? else {
            return Ok(None);
        };
        // The error of the conversion could contain a value of a Secret.
        let typed = serde_json::from_value(object.into_value())
            .map_err(|_| LookupError(format!("the stored object is not a valid {}", kind.kind)))?;
        Ok(Some(Arc::new(typed)))
    }
}

impl GuestFiles {
    /// Each file is read once.
    fn read(&self, volume: &str, path: &str) -> FileResult {
        let key = (volume.to_owned(), path.to_owned());
        if let Some(read) = self.read.borrow().get(&key) {
            return read.clone();
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let result = if left.is_zero() {
            Err(LookupError("the guest takes too long".to_owned()))
        } else {
            let call = self.agent.read_volume_file(with_duration(left), volume, path);
            let result = Handle::current().block_on(call);
            result.map_err(|error| LookupError(error.to_string()))
        };
        self.read.borrow_mut().insert(key, result.clone());
        result
    }
}

impl Objects for NodeObjects {
    fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, LookupError> {
        self.find("ConfigMap", namespace, name)
    }

    fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, LookupError> {
        self.find("Secret", namespace, name)
    }

    fn token(&self, audience: Option<&str>, expiration_seconds: i64) -> Result<Content, LookupError> {
        let TokenSource { tokens, subject } =
            (self.tokens.as_ref()).ok_or_else(|| LookupError("there are no tokens for environments".to_owned()))?;
        let now = SystemTime::now();
        tokens.token(audience, expiration_seconds, now, || {
            let name = &subject.service_account;
            let find = || self.find::<ServiceAccount>("ServiceAccount", &subject.namespace, name);
            let mut account = find()?;
            if account.is_none() {
                if name != DEFAULT_ACCOUNT {
                    return Err(LookupError(format!("serviceaccounts {name:?} not found")));
                }
                // An earlier build has not created it.
                let ensured = objects::ensure_namespace(self.store()?, &subject.namespace);
                ensured.map_err(|error| LookupError(with_causes(&error)))?;
                account = find()?;
            }
            let subject = Subject {
                service_account_uid: account.and_then(|account| account.metadata.uid.clone()),
                ..subject.clone()
            };
            let signed = Signer::open(&self.paths.service_account_key())
                .and_then(|signer| signer.sign(&subject, audience, now, expiration_seconds));
            signed.map_err(|error| LookupError(with_causes(&error)))
        })
    }

    fn env_file(&self, volume: &str, path: &str) -> Result<Option<Content>, LookupError> {
        let guest = (self.guest.as_ref()).ok_or_else(|| LookupError("there are no files for volumes".to_owned()))?;
        guest.read(volume, path)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use microkube_store::{Key, Object};
    use serde_json::{Value, json};

    use super::*;

    fn store(dir: &tempfile::TempDir) -> (Paths, Store) {
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let store = objects::open(&paths).unwrap();
        (paths, store)
    }

    fn create(store: &Store, kind: &str, rest: &Value) {
        let mut value = json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": "a", "namespace": "shop" } });
        for (key, field) in rest.as_object().unwrap() {
            value[key] = field.clone();
        }
        let resource = objects::resource(kinds::find("v1", kind).unwrap());
        store.create(&resource, Object::new(value).unwrap()).unwrap();
    }

    #[test]
    fn objects_are_found_in_their_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, store) = store(&dir);
        create(&store, "ConfigMap", &json!({ "data": { "k": "v" } }));
        create(&store, "Secret", &json!({ "data": { "k": "djE=" } }));
        let objects = NodeObjects::new(&paths);
        let config_map = objects.config_map("shop", "a").unwrap().unwrap();
        assert_eq!(config_map.data.as_ref().unwrap()["k"], "v");
        let secret = objects.secret("shop", "a").unwrap().unwrap();
        assert_eq!(secret.data.as_ref().unwrap()["k"].0, b"v1");
        assert_eq!(objects.secret("default", "a").unwrap(), None);
        assert_eq!(objects.config_map("shop", "b").unwrap(), None);
    }

    fn record(account: &str) -> PodRecord {
        serde_json::from_value(json!({
            "uid": "p-1", "namespace": "shop", "name": "web", "client": null, "supervisor": null, "vmm": null,
            "pod": {
                "apiVersion": "v1", "kind": "Pod", "metadata": {},
                "spec": { "containers": [], "serviceAccountName": account },
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_token_needs_its_service_account_and_the_default_one_is_created() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, store) = store(&dir);
        create(&store, "ServiceAccount", &json!({}));
        let claims = |account: &str| {
            let objects = NodeObjects::with_tokens(&paths, &record(account), &Arc::default());
            let token = String::from_utf8(objects.token(None, 600)?.into_vec()).unwrap();
            let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
            let claims: Value = serde_json::from_slice(&claims).unwrap();
            Ok::<_, LookupError>(claims["kubernetes.io"]["serviceaccount"].clone())
        };
        let known = claims("a").unwrap();
        assert_eq!(known["name"], "a");
        assert!(known["uid"].is_string());
        let accounts = objects::resource(kinds::find("v1", "ServiceAccount").unwrap());
        let default = Key::namespaced("shop", "default");
        assert_eq!(store.find(&accounts, &default).unwrap(), None);
        let created = claims("").unwrap();
        let uid = store.get(&accounts, &default).unwrap().uid().to_owned();
        assert_eq!(created, json!({ "name": "default", "uid": uid }));
        assert_eq!(claims("b").unwrap_err().to_string(), "serviceaccounts \"b\" not found");
    }

    #[test]
    fn an_error_does_not_show_values() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, store) = store(&dir);
        create(&store, "Secret", &json!({ "data": { "k": ["hunter2"] } }));
        let error = NodeObjects::new(&paths).secret("shop", "a").unwrap_err();
        assert_eq!(error.to_string(), "the stored object is not a valid Secret");
    }
}
