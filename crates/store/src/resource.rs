//! Descriptions of types for the store.

use std::borrow::Cow;

use crate::label;

/// A type of objects. The caller passes it to each call, because the store contains no rules for particular types.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    /// `apps`; empty for the core group.
    pub group: Cow<'static, str>,
    /// `v1`
    pub version: Cow<'static, str>,
    /// `Deployment`
    pub kind: Cow<'static, str>,
    /// `deployments`
    pub plural: Cow<'static, str>,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    pub generation: Generation,
}

/// The changes that raise `metadata.generation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Generation {
    /// Objects of the type have no generation.
    Absent,
    /// Changes of the specification: all fields except `metadata` and `status`.
    OfSpec,
    /// Changes of the specification or of annotations (Deployment).
    OfSpecAndAnnotations,
}

impl Resource {
    /// The type's value of `apiVersion`.
    #[must_use]
    pub fn api_version(&self) -> String {
        match self.group.as_ref() {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The name of the type in messages, and of its directory: `configmaps`, `deployments.apps`.
    #[must_use]
    pub fn qualified_plural(&self) -> String {
        qualified(&self.plural, &self.group)
    }

    /// The kind's name in messages: `ConfigMap`, `Deployment.apps`.
    #[must_use]
    pub fn qualified_kind(&self) -> String {
        qualified(&self.kind, &self.group)
    }

    /// Whether the type's name can be the name of a directory.
    pub(crate) fn is_valid(&self) -> bool {
        label::is_dns_label(&self.plural) && self.qualified_plural().split('.').all(label::is_dns_label)
    }
}

fn qualified(name: &str, group: &str) -> String {
    match group {
        "" => name.to_owned(),
        group => format!("{name}.{group}"),
    }
}

/// The objects of a type that a list or a watch covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All objects of the type.
    All,
    /// Only those in one namespace.
    Namespace(String),
}

impl Scope {
    pub(crate) fn contains(&self, namespace: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(only) => namespace == Some(only),
        }
    }
}
