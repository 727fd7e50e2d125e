//! An object of any kind in the table.

use std::fmt;

use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, PodStatus, Secret, ServiceAccount,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::super::error::{FieldPath, Problem};
use super::super::node::Node;
use super::super::schema::Schema;
use super::super::{defaults, resources, typed, validation};

/// An object of any kind in the table.
#[derive(Clone, PartialEq)]
pub enum Object {
    ConfigMap(Box<ConfigMap>),
    Namespace(Box<Namespace>),
    PersistentVolume(Box<PersistentVolume>),
    PersistentVolumeClaim(Box<PersistentVolumeClaim>),
    Pod(Box<Pod>),
    Secret(Box<Secret>),
    ServiceAccount(Box<ServiceAccount>),
    StorageClass(Box<StorageClass>),
}

macro_rules! conversions {
    ($($kind:ident)*) => {
        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Box::new(object))
            }
        })*

        /// Calls the same function or method with the typed object of any kind.
        macro_rules! of_any_kind {
            ($object:expr, $typed:ident => $result:expr) => {
                match $object {
                    $(Object::$kind($typed) => $result,)*
                }
            };
        }
    };
}

conversions! { ConfigMap Namespace PersistentVolume PersistentVolumeClaim Pod Secret ServiceAccount StorageClass }

/// Shows only the object's identity, because values may be secret.
impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.kind_name())
            .field("namespace", &self.metadata().namespace)
            .field("name", &self.metadata().name)
            .finish_non_exhaustive()
    }
}

impl Object {
    /// `ConfigMap`
    pub(super) fn kind_name(&self) -> &'static str {
        fn name_of<T: k8s_openapi::Resource>(_: &T) -> &'static str {
            T::KIND
        }
        of_any_kind!(self, object => name_of(&**object))
    }

    pub fn metadata(&self) -> &ObjectMeta {
        of_any_kind!(self, object => &object.metadata)
    }

    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        of_any_kind!(self, object => &mut object.metadata)
    }

    /// The object as JSON, with `apiVersion` and `kind`.
    pub fn to_value(&self) -> Value {
        // These types have only string keys, so they always are JSON.
        of_any_kind!(self, object => serde_json::to_value(object).unwrap_or_default())
    }

    /// Sets the API server's defaults. The object may still be invalid.
    pub fn set_defaults(&mut self) {
        match self {
            Self::ConfigMap(object) => defaults::object::config_map(object),
            Self::Namespace(object) => defaults::object::namespace(object),
            Self::PersistentVolume(object) => defaults::object::persistent_volume(object),
            Self::PersistentVolumeClaim(object) => defaults::object::persistent_volume_claim(object),
            Self::Pod(object) => defaults::apply(object),
            Self::Secret(object) => defaults::object::secret(object),
            Self::ServiceAccount(object) => defaults::object::service_account(object),
            Self::StorageClass(object) => defaults::object::storage_class(object),
        }
    }

    /// Makes a defaulted object a new one: clients do not set its status.
    pub fn prepare_for_create(&mut self) {
        match self {
            Self::Namespace(object) => defaults::object::create_namespace(object),
            Self::PersistentVolume(object) => {
                object.status = None;
                defaults::object::persistent_volume(object);
            }
            Self::PersistentVolumeClaim(object) => {
                object.status = None;
                defaults::object::persistent_volume_claim(object);
            }
            Self::Pod(object) => {
                object.status = Some(PodStatus {
                    phase: Some("Pending".to_owned()),
                    qos_class: Some(resources::qos_class(object).as_str().to_owned()),
                    ..PodStatus::default()
                });
            }
            Self::ServiceAccount(object) => defaults::object::clean_service_account(object),
            Self::ConfigMap(_) | Self::Secret(_) | Self::StorageClass(_) => {}
        }
    }

    /// Makes a defaulted object a new version of `old`: keeps the parts that only subresources change.
    pub fn prepare_for_update(&mut self, old: &Self) {
        match (self, old) {
            (Self::Namespace(new), Self::Namespace(old)) => defaults::object::update_namespace(new, old),
            (Self::PersistentVolume(new), Self::PersistentVolume(old)) => new.status.clone_from(&old.status),
            (Self::PersistentVolumeClaim(new), Self::PersistentVolumeClaim(old)) => new.status.clone_from(&old.status),
            (Self::Pod(new), Self::Pod(old)) => new.status.clone_from(&old.status),
            (Self::ServiceAccount(new), _) => defaults::object::clean_service_account(new),
            _ => {}
        }
    }

    /// All problems of the defaulted object.
    pub fn validate(&self) -> Vec<Problem> {
        match self {
            Self::ConfigMap(object) => validation::config_map::validate(object),
            Self::Namespace(object) => validation::namespace::validate(object),
            Self::PersistentVolume(object) => validation::persistent_volume::validate(object),
            Self::PersistentVolumeClaim(object) => validation::persistent_volume_claim::validate(object),
            Self::Pod(object) => validation::validate(object),
            Self::Secret(object) => validation::secret::validate(object),
            Self::ServiceAccount(object) => validation::service_account::validate(object),
            Self::StorageClass(object) => validation::storage_class::validate(object),
        }
    }

    /// All problems of this object as the next version of `old`, its own problems included. Both are defaulted.
    pub fn validate_update(&self, old: &Self) -> Vec<Problem> {
        let mut problems = match (self, old) {
            (Self::ConfigMap(new), Self::ConfigMap(old)) => validation::config_map::validate_update(new, old),
            (Self::Namespace(new), Self::Namespace(old)) => validation::namespace::validate_update(new, old),
            (Self::PersistentVolume(new), Self::PersistentVolume(old)) => {
                validation::persistent_volume::validate_update(new, old)
            }
            (Self::PersistentVolumeClaim(new), Self::PersistentVolumeClaim(old)) => {
                validation::persistent_volume_claim::validate_update(new, old)
            }
            (Self::Pod(new), Self::Pod(old)) => validation::pod_update::validate(new, old),
            (Self::Secret(new), Self::Secret(old)) => validation::secret::validate_update(new, old),
            (Self::ServiceAccount(new), Self::ServiceAccount(old)) => {
                validation::service_account::validate_update(new, old)
            }
            (Self::StorageClass(new), Self::StorageClass(old)) => validation::storage_class::validate_update(new, old),
            (new, _) => {
                let what = format!("Invalid value: {:?}: field is immutable", new.kind_name());
                vec![Problem::at(&FieldPath::default().field("kind"), what)]
            }
        };
        let own = match self {
            Self::Pod(new) => validation::validate_existing(new),
            _ => self.validate(),
        };
        for problem in own {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        problems
    }
}

/// An object, unless its type refuses a value, and all problems of its fields and types.
pub(super) type Decoded = (Option<Object>, Vec<Problem>);

/// Converts a value to an object of this type.
pub(super) fn decode<T>(node: &Node, schema: &Schema) -> Decoded
where
    T: for<'n> Deserialize<'n> + k8s_openapi::Resource + Into<Object>,
{
    let (object, mut problems) = typed::deserialize::<T>(node, &FieldPath::default(), schema);
    let is_secret = T::KIND == "Secret";
    for problem in &mut problems {
        describe_bytes(problem, is_secret);
    }
    (object.map(Into::into), problems)
}

/// Clarifies problems with base64, and removes values from the problems of a Secret's data.
fn describe_bytes(problem: &mut Problem, is_secret: bool) {
    let is_in = |field: &str| problem.path.starts_with(&FieldPath::default().field(field));
    let (is_text, is_bytes) = (is_in("stringData"), is_in("data") || is_in("binaryData"));
    if is_bytes {
        problem.message = problem
            .message
            .replacen(": Invalid ", ": not valid base64: Invalid ", 1);
    }
    if !is_secret || !(is_text || is_bytes) {
        return;
    }
    let expected = match problem.path.segments().len() {
        1 => "a mapping",
        _ if is_text => "a string: write it in quotes",
        _ => "a base64-encoded string",
    };
    let what = if problem.message.contains(": not valid base64: ") {
        "not valid base64".to_owned()
    } else {
        format!("invalid type: <secret contents redacted>, expected {expected}")
    };
    problem.message = format!("{}: {what}", problem.path);
}
