//! A node and its objects for tests.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use microkube_manifest::downward::PodStatusFields;
use serde_json::{Value, json};

use crate::bound_pod::{Allocatable, BoundPod};
use crate::content::Content;
use crate::error::LookupError;
use crate::objects::Objects;

#[derive(Debug)]
pub struct Node {
    status: PodStatusFields,
}

/// A node with 3.5 processors, 2 GiB of memory and 10 GiB of disk.
pub fn node() -> Node {
    Node {
        status: PodStatusFields {
            uid: "u-1".into(),
            pod_ip: Some(Ipv4Addr::new(10, 88, 0, 2)),
            host_ip: Some(Ipv4Addr::new(10, 88, 0, 1)),
            node_name: "node-1".into(),
        },
    }
}

impl Node {
    pub fn bind<'p>(&'p self, pod: &'p Pod) -> BoundPod<'p> {
        BoundPod {
            pod,
            status: &self.status,
            allocatable: Allocatable {
                cpu_millis: 3500,
                memory_bytes: 2 << 30,
                ephemeral_storage_bytes: 10 << 30,
            },
        }
    }
}

/// A Pod with this `metadata` and `spec`.
pub fn pod_from(mut fields: Value) -> Pod {
    fields["apiVersion"] = json!("v1");
    fields["kind"] = json!("Pod");
    if fields.get("metadata").is_none() {
        fields["metadata"] = json!({});
    }
    serde_json::from_value(fields).unwrap()
}

/// Objects in the namespace `ns`.
#[derive(Debug, Default)]
pub struct Store {
    config_maps: BTreeMap<String, Arc<ConfigMap>>,
    secrets: BTreeMap<String, Arc<Secret>>,
    files: BTreeMap<(String, String), Vec<u8>>,
    /// Why every lookup fails.
    pub broken: Option<String>,
    pub lookups: Cell<u32>,
}

impl Store {
    /// With `data` and `binaryData`.
    pub fn config_map(mut self, name: &str, data: Value) -> Self {
        let config_map = serde_json::from_value(object("ConfigMap", data)).unwrap();
        self.config_maps.insert(name.into(), Arc::new(config_map));
        self
    }

    /// With values in base64.
    pub fn secret(mut self, name: &str, data: Value) -> Self {
        let secret = serde_json::from_value(object("Secret", json!({"data": data}))).unwrap();
        self.secrets.insert(name.into(), Arc::new(secret));
        self
    }

    pub fn secret_of(mut self, name: &str, data: &[(&str, &[u8])]) -> Self {
        let data = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), k8s_openapi::ByteString(value.to_vec())))
            .collect();
        let secret = Secret {
            data: Some(data),
            ..Default::default()
        };
        self.secrets.insert(name.into(), Arc::new(secret));
        self
    }

    pub fn file(mut self, volume: &str, path: &str, content: &str) -> Self {
        self.files.insert((volume.into(), path.into()), content.into());
        self
    }

    fn look_up<T: Clone>(&self, found: Option<&T>) -> Result<Option<T>, LookupError> {
        self.lookups.set(self.lookups.get() + 1);
        match &self.broken {
            Some(why) => Err(LookupError(why.clone())),
            None => Ok(found.cloned()),
        }
    }
}

fn object(kind: &str, mut fields: Value) -> Value {
    fields["apiVersion"] = json!("v1");
    fields["kind"] = json!(kind);
    fields["metadata"] = json!({});
    fields
}

impl Objects for Store {
    fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, LookupError> {
        assert_eq!(namespace, "ns");
        self.look_up(self.config_maps.get(name))
    }

    fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, LookupError> {
        assert_eq!(namespace, "ns");
        self.look_up(self.secrets.get(name))
    }

    fn token(&self, audience: Option<&str>, expiration_seconds: i64) -> Result<Content, LookupError> {
        let token = format!("token for {} of {expiration_seconds} s", audience.unwrap_or("the API"));
        self.look_up(Some(&Content::from(token.into_bytes())))
            .map(Option::unwrap_or_default)
    }

    fn env_file(&self, volume: &str, path: &str) -> Result<Option<Content>, LookupError> {
        let file = self.files.get(&(volume.to_owned(), path.to_owned()));
        self.look_up(file.map(|file| Content::from(file.clone())).as_ref())
    }
}
