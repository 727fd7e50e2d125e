//! Names of objects.

use microkube_store::Object;

/// An object's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct ObjectName {
    /// `None` for objects outside of namespaces.
    pub(in crate::cli) namespace: Option<String>,
    pub(in crate::cli) name: String,
}

impl ObjectName {
    /// Whether this is the name of the object.
    pub(in crate::cli) fn is(&self, object: &Object) -> bool {
        self.name == object.name() && self.namespace.as_deref() == object.namespace()
    }
}
