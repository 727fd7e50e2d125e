//! Names of objects.

use std::fmt;

use crate::error::StoreError;
use crate::label::{is_dns_label, problem_of_name};
use crate::resource::Resource;

/// The name of an object, unique within its type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `None` for objects outside of namespaces.
    pub namespace: Option<String>,
    pub name: String,
}

impl Key {
    /// An object in a namespace.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: Some(namespace.into()),
            name: name.into(),
        }
    }

    /// An object outside of namespaces.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self {
            namespace: None,
            name: name.into(),
        }
    }

    /// Checks that an object of this type can have this name.
    pub(crate) fn check(&self, resource: &Resource) -> Result<(), StoreError> {
        check_type(resource)?;
        let invalid = |field, problem| StoreError::invalid(resource, &self.name, field, problem);
        match (&self.namespace, resource.namespaced) {
            (Some(namespace), true) => check_namespace(resource, &self.name, namespace)?,
            (None, true) => return Err(invalid("metadata.namespace", "Required value".to_owned())),
            (Some(_), false) => {
                let problem = "Forbidden: not allowed on this type".to_owned();
                return Err(invalid("metadata.namespace", problem));
            }
            (None, false) => {}
        }
        match problem_of_name(&self.name) {
            None => Ok(()),
            Some(problem) => Err(invalid("metadata.name", invalid_value(&self.name, problem))),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Checks that objects of a type can be stored.
pub(crate) fn check_type(resource: &Resource) -> Result<(), StoreError> {
    if resource.is_valid() {
        return Ok(());
    }
    Err(StoreError::InvalidType {
        name: resource.qualified_plural(),
    })
}

/// Checks the name of the namespace of an object or scope.
pub(crate) fn check_namespace(resource: &Resource, name: &str, namespace: &str) -> Result<(), StoreError> {
    if is_dns_label(namespace) {
        return Ok(());
    }
    let problem = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                   and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                   '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    let problem = invalid_value(namespace, problem);
    Err(StoreError::invalid(resource, name, "metadata.namespace", problem))
}

fn invalid_value(value: &str, problem: &str) -> String {
    format!("Invalid value: {value:?}: {problem}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_types::{config_maps, namespaces};

    #[test]
    fn every_valid_name_is_accepted() {
        for name in ["a", "a.b", "system:node", "Upper Case", "...", "é", &"a".repeat(253)] {
            Key::namespaced("default", name).check(&config_maps()).unwrap();
            Key::cluster(name).check(&namespaces()).unwrap();
        }
    }

    #[test]
    fn a_name_that_is_no_single_file_name_is_refused() {
        for name in ["", ".", "..", "a/b", "/", "a%2f", "a\0b", "a\nb", &"a".repeat(254)] {
            let error = Key::cluster(name).check(&namespaces()).unwrap_err();
            assert!(error.to_string().contains("metadata.name: Invalid value"), "{error}");
        }
        for namespace in ["", "..", "a/b", "_cluster", "-", "A", "a.b", &"a".repeat(64)] {
            let error = Key::namespaced(namespace, "a").check(&config_maps()).unwrap_err();
            assert!(
                error.to_string().contains("metadata.namespace: Invalid value"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_namespace_is_required_or_forbidden() {
        assert_eq!(
            Key::cluster("a").check(&config_maps()).unwrap_err().to_string(),
            "ConfigMap \"a\" is invalid: metadata.namespace: Required value"
        );
        assert!(Key::namespaced("default", "a").check(&namespaces()).is_err());
    }

    #[test]
    fn a_type_whose_name_is_no_file_name_is_refused() {
        for (plural, group) in [
            ("", ""),
            ("..", ""),
            ("a/b", ""),
            ("a", ".."),
            ("a", "b/c"),
            ("a.b", ""),
        ] {
            let resource = Resource {
                plural: plural.into(),
                group: group.into(),
                ..namespaces()
            };
            let error = Key::cluster("a").check(&resource).unwrap_err();
            assert!(matches!(error, StoreError::InvalidType { .. }), "{error}");
        }
    }
}
