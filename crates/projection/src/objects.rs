//! Looking up the objects that a Pod refers to.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::content::Content;
use crate::error::{LookupError, ProjectionError};
use crate::object_kind::ObjectKind;

/// Where a Pod's objects, tokens and env files come from.
pub trait Objects {
    /// The ConfigMap, or `None` if it does not exist.
    ///
    /// # Errors
    /// If it is unknown whether it exists.
    fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, LookupError>;

    /// The Secret, or `None` if it does not exist.
    ///
    /// # Errors
    /// If it is unknown whether it exists.
    fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, LookupError>;

    /// A token of the Pod's service account, bound to the Pod. Without an audience it is for the API server.
    ///
    /// # Errors
    /// If there is no token for this Pod.
    fn token(&self, audience: Option<&str>, expiration_seconds: i64) -> Result<Content, LookupError>;

    /// The file at a relative path in a volume of the Pod, for `fileKeyRef`; `None` if it does not exist. The path must
    /// not lead out of the volume, even through symbolic links.
    ///
    /// # Errors
    /// If the file cannot be read.
    fn env_file(&self, volume: &str, path: &str) -> Result<Option<Content>, LookupError>;
}

/// The objects of one namespace. Each is looked up once, so all keys come from the same version of it.
pub(crate) struct Namespaced<'o> {
    namespace: &'o str,
    pub(crate) objects: &'o dyn Objects,
    config_maps: HashMap<String, Option<Arc<ConfigMap>>>,
    secrets: HashMap<String, Option<Arc<Secret>>>,
}

impl<'o> Namespaced<'o> {
    pub(crate) fn new(namespace: &'o str, objects: &'o dyn Objects) -> Self {
        Self {
            namespace,
            objects,
            config_maps: HashMap::new(),
            secrets: HashMap::new(),
        }
    }

    /// The ConfigMap; `None` if it is optional and does not exist.
    pub(crate) fn config_map(&mut self, name: &str, optional: bool) -> Result<Option<Arc<ConfigMap>>, ProjectionError> {
        let found = once(&mut self.config_maps, name, || {
            self.objects.config_map(self.namespace, name)
        });
        required(ObjectKind::ConfigMap, name, optional, found)
    }

    /// The Secret; `None` if it is optional and does not exist.
    pub(crate) fn secret(&mut self, name: &str, optional: bool) -> Result<Option<Arc<Secret>>, ProjectionError> {
        let found = once(&mut self.secrets, name, || self.objects.secret(self.namespace, name));
        required(ObjectKind::Secret, name, optional, found)
    }
}

fn once<T: Clone>(
    known: &mut HashMap<String, T>,
    name: &str,
    look_up: impl FnOnce() -> Result<T, LookupError>,
) -> Result<T, LookupError> {
    if let Some(found) = known.get(name) {
        return Ok(found.clone());
    }
    let found = look_up()?;
    known.insert(name.to_owned(), found.clone());
    Ok(found)
}

fn required<T>(
    kind: ObjectKind,
    name: &str,
    optional: bool,
    found: Result<Option<T>, LookupError>,
) -> Result<Option<T>, ProjectionError> {
    let name = || name.to_owned();
    match found {
        Ok(None) if !optional => Err(ProjectionError::NotFound { kind, name: name() }),
        Ok(found) => Ok(found),
        Err(why) => Err(ProjectionError::Lookup {
            kind,
            name: name(),
            why,
        }),
    }
}
