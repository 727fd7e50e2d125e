//! The table, and the lookups in it.

use std::sync::OnceLock;

use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

use super::super::error::Problem;
use super::super::node::Node;
use super::super::schema::Schema;
use super::super::unknown_fields::{self, UnknownFields};
use super::super::{suggest, support};
use super::json;
use super::object::{Decoded, Object, decode};

/// A kind of object.
#[derive(Debug)]
pub struct Kind {
    /// `storage.k8s.io`; empty for the core group.
    pub group: &'static str,
    /// `v1`
    pub version: &'static str,
    /// `ConfigMap`
    pub kind: &'static str,
    /// `configmaps`
    pub plural: &'static str,
    /// `configmap`
    pub singular: &'static str,
    /// `cm`
    pub short_names: &'static [&'static str],
    /// Words that stand for several kinds: `all`.
    pub categories: &'static [&'static str],
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether `metadata.generation` counts the changes of its specification.
    pub has_generation: bool,
    /// `status`, `log` …
    pub subresources: &'static [&'static str],
    /// The columns of `get`, in order.
    pub columns: &'static [Column],
    schema: fn() -> &'static Schema,
    decode: fn(&Node, &Schema) -> Decoded,
}

/// A column of a table of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// Whether only `-o wide` shows it.
    pub wide: bool,
}

const fn column(name: &'static str) -> Column {
    Column { name, wide: false }
}

const fn wide(name: &'static str) -> Column {
    Column { name, wide: true }
}

pub(super) const NAME: Column = column("Name");
pub(super) const AGE: Column = column("Age");

/// The functions of a type, as fields of [`Kind`].
macro_rules! schema_of {
    ($type:ty) => {
        || {
            static SCHEMA: OnceLock<Schema> = OnceLock::new();
            SCHEMA.get_or_init(Schema::of::<$type>)
        }
    };
}

/// All kinds, by kind. Columns as in `pkg/printers/internalversion/printers.go`.
static TABLE: [Kind; 8] = [
    Kind {
        group: "",
        version: "v1",
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        categories: &[],
        namespaced: true,
        has_generation: false,
        subresources: &[],
        columns: &[NAME, column("Data"), AGE],
        schema: schema_of!(ConfigMap),
        decode: decode::<ConfigMap>,
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        categories: &[],
        namespaced: false,
        has_generation: false,
        subresources: &["finalize", "status"],
        columns: &[NAME, column("Status"), AGE],
        schema: schema_of!(Namespace),
        decode: decode::<Namespace>,
    },
    Kind {
        group: "",
        version: "v1",
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short_names: &["pv"],
        categories: &[],
        namespaced: false,
        has_generation: false,
        subresources: &["status"],
        columns: &[
            NAME,
            column("Capacity"),
            column("Access Modes"),
            column("Reclaim Policy"),
            column("Status"),
            column("Claim"),
            column("StorageClass"),
            column("VolumeAttributesClass"),
            column("Reason"),
            AGE,
            wide("VolumeMode"),
        ],
        schema: schema_of!(PersistentVolume),
        decode: decode::<PersistentVolume>,
    },
    Kind {
        group: "",
        version: "v1",
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short_names: &["pvc"],
        categories: &[],
        namespaced: true,
        has_generation: false,
        subresources: &["status"],
        columns: &[
            NAME,
            column("Status"),
            column("Volume"),
            column("Capacity"),
            column("Access Modes"),
            column("StorageClass"),
            column("VolumeAttributesClass"),
            AGE,
            wide("VolumeMode"),
        ],
        schema: schema_of!(PersistentVolumeClaim),
        decode: decode::<PersistentVolumeClaim>,
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        namespaced: true,
        has_generation: true,
        subresources: &[
            "attach",
            "binding",
            "ephemeralcontainers",
            "eviction",
            "exec",
            "log",
            "portforward",
            "resize",
            "status",
        ],
        columns: &[
            NAME,
            column("Ready"),
            column("Status"),
            column("Restarts"),
            AGE,
            wide("IP"),
            wide("Node"),
            wide("Nominated Node"),
            wide("Readiness Gates"),
        ],
        schema: Schema::of_pod,
        decode: decode::<Pod>,
    },
    Kind {
        group: "",
        version: "v1",
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        short_names: &[],
        categories: &[],
        namespaced: true,
        has_generation: false,
        subresources: &[],
        columns: &[NAME, column("Type"), column("Data"), AGE],
        schema: schema_of!(Secret),
        decode: decode::<Secret>,
    },
    Kind {
        group: "",
        version: "v1",
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        categories: &[],
        namespaced: true,
        has_generation: false,
        subresources: &["token"],
        columns: &[NAME, AGE],
        schema: schema_of!(ServiceAccount),
        decode: decode::<ServiceAccount>,
    },
    Kind {
        group: "storage.k8s.io",
        version: "v1",
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short_names: &["sc"],
        categories: &[],
        namespaced: false,
        has_generation: false,
        subresources: &[],
        columns: &[
            NAME,
            column("Provisioner"),
            column("ReclaimPolicy"),
            column("VolumeBindingMode"),
            column("AllowVolumeExpansion"),
            AGE,
        ],
        schema: schema_of!(StorageClass),
        decode: decode::<StorageClass>,
    },
];

/// All kinds, by kind.
pub fn all() -> &'static [Kind] {
    &TABLE
}

/// The kind with this value of `apiVersion` and `kind`.
pub fn find(api_version: &str, kind: &str) -> Option<&'static Kind> {
    TABLE
        .iter()
        .find(|known| known.kind == kind && known.api_version() == api_version)
}

/// The kind that a user names: by plural, singular, kind or short name, in any case, also with its group
/// (`storageclasses.storage.k8s.io`).
pub fn named(name: &str) -> Option<&'static Kind> {
    let name = name.to_lowercase();
    let (name, group) = match name.split_once('.') {
        Some((name, group)) => (name, Some(group)),
        None => (name.as_str(), None),
    };
    TABLE.iter().find(|known| {
        let with_version = || group.and_then(|group| group.strip_prefix(known.version)?.strip_prefix('.'));
        let is_group = group.is_none_or(|group| group == known.group) || with_version() == Some(known.group);
        is_group && (known.plural == name || known.singular == name || known.short_names.contains(&name))
    })
}

impl Kind {
    /// The value of `apiVersion`.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The kind of a list of its objects: `ConfigMapList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// The name in messages: `configmaps`, `storageclasses.storage.k8s.io`.
    pub fn qualified_plural(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// All fields with their descriptions.
    pub fn schema(&self) -> &'static Schema {
        (self.schema)()
    }

    /// Converts a value to an object of this kind, without defaults and validation. The error has all unknown fields
    /// and wrong types; the problems have no places.
    pub fn read(&self, value: &Value) -> Result<Object, Vec<Problem>> {
        let (object, problems) = self.decode(&json::to_node(value));
        match object {
            Some(object) if problems.is_empty() => Ok(object),
            _ => Err(problems),
        }
    }

    /// Removes the fields that this kind does not have from an object, and returns them without places.
    pub fn drop_unknown_fields(&self, value: &mut Value) -> Vec<Problem> {
        let (_, mut problems) = self.decode(&json::to_node(value));
        let dropped = UnknownFields::Dropped.take(&mut problems);
        unknown_fields::remove(value, &dropped);
        dropped
    }

    /// Sets the defaults in an object of this kind, which may be invalid. The error is that of [`Kind::read`].
    pub fn default(&self, value: &mut Value) -> Result<(), Vec<Problem>> {
        let mut object = self.read(value)?;
        object.set_defaults();
        *value = object.to_value();
        Ok(())
    }

    /// All problems of a defaulted object of this kind.
    pub fn validate(&self, value: &Value) -> Vec<Problem> {
        match self.read(value) {
            Ok(object) => object.validate(),
            Err(problems) => problems,
        }
    }

    /// All problems of the change of an object of this kind; both are defaulted.
    pub fn validate_update(&self, old: &Value, new: &Value) -> Vec<Problem> {
        match (self.read(old), self.read(new)) {
            (Ok(old), Ok(new)) => new.validate_update(&old),
            (old, new) => old.err().into_iter().chain(new.err()).flatten().collect(),
        }
    }

    /// Converts a value with places, with all unknown fields and wrong types.
    pub(super) fn decode(&self, node: &Node) -> Decoded {
        (self.decode)(node, self.schema())
    }

    /// The unsupported parts of an object of this kind.
    pub fn unsupported(&self, value: &Value) -> Vec<Problem> {
        self.check_support(&json::to_node(value), support::check)
    }

    pub(super) fn check_support(&self, node: &Node, check: SupportCheck) -> Vec<Problem> {
        match self.kind {
            "Pod" => check(node).0,
            _ => Vec::new(),
        }
    }
}

impl Object {
    /// Its entry in the table.
    pub fn kind(&self) -> &'static Kind {
        let name = self.kind_name();
        // A test finds each variant in the table.
        TABLE.iter().find(|known| known.kind == name).unwrap_or(&TABLE[0])
    }
}

/// Finds what is not supported in a Pod: [`support::check`], except in tests of the rules for unsupported fields.
pub(super) type SupportCheck = fn(&Node) -> (Vec<Problem>, Vec<support::IgnoredField>);

/// The message about a kind that is not in the table, with the kind that was probably meant.
pub(super) fn no_match(api_version: &str, kind: &str) -> String {
    let kinds: Vec<&str> = TABLE.iter().map(|known| known.kind).collect();
    let other = TABLE.iter().find(|known| known.kind == kind);
    let hint = match (other, suggest::nearest(kind, &kinds)) {
        (Some(known), _) => format!("; write `apiVersion: {}` for a {kind}", known.api_version()),
        (None, Some(near)) => format!("; did you mean {near:?}?"),
        (None, None) => String::new(),
    };
    let (kind, version) = (suggest::shorten(kind), suggest::shorten(api_version));
    format!("no matches for kind {kind:?} in version {version:?}{hint}")
}
