//! Why a container's environment or a volume's files cannot be computed, with the kubelet's messages where it has them.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::env_file::EnvFileError;
use crate::object_kind::ObjectKind;
use crate::quote::quote;

/// Why an object could not be looked up. It becomes part of a Pod's status, so it must not contain an object's values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LookupError(pub String);

/// The text is the message of `CreateContainerConfigError`, or of the event `FailedMount` after
/// [`failed_mount_message`]. It never contains a value from an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProjectionError {
    #[error("{} {} not found", .kind.resource(), quote(.name))]
    NotFound { kind: ObjectKind, name: String },
    #[error("cannot read {} {}: {why}", .kind.resource(), quote(.name))]
    Lookup {
        kind: ObjectKind,
        name: String,
        why: LookupError,
    },
    /// A variable refers to a missing key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    KeyNotFound {
        kind: ObjectKind,
        namespace: String,
        name: String,
        key: String,
    },
    /// An item of a volume refers to a missing key of a ConfigMap.
    #[error("configmap references non-existent config key: {0}")]
    ConfigMapItem(String),
    /// An item of a volume refers to a missing key of a Secret.
    #[error("references non-existent secret key: {0}")]
    SecretItem(String),
    #[error("unsupported fieldPath: {0}")]
    FieldPath(String),
    #[error("fieldPath {} does not support subscript", quote(.0))]
    Subscript(String),
    #[error("invalid key subscript in {path}: {why}")]
    SubscriptKey { path: String, why: String },
    #[error("unsupported container resource : {0}")]
    Resource(String),
    #[error("container {0} not found")]
    ContainerNotFound(String),
    /// A request, a limit or a divisor.
    #[error("{field} is not a valid quantity: {}", quote(.text))]
    Quantity { field: String, text: String },
    #[error("cannot find the volume {} referenced by FileKeyRef", quote(.0))]
    EnvFileVolume(String),
    /// The kubelet logs the reason but does not show it in the Pod's status.
    #[error("couldn't parse env file")]
    EnvFile {
        volume: String,
        path: String,
        why: EnvFileError,
    },
    #[error("environment variable key {} not found in file {}", quote(.key), quote(.path))]
    EnvFileKey { key: String, path: String },
    /// Kubernetes' rule for names of variables.
    #[error(
        "{}: a valid environment variable name must consist only of printable ASCII characters other than '='",
        quote(.0)
    )]
    VariableName(String),
    /// Linux passes only strings without NUL to programs, and the runtime only UTF-8.
    #[error("environment variable {} is not UTF-8 text without NUL", quote(.0))]
    VariableNotText(String),
    #[error(
        "environment variable {} is too long: at most {max} bytes with its name",
        quote(.name)
    )]
    VariableTooLong { name: String, max: usize },
    #[error("environment is too large: at most {0} bytes")]
    EnvironmentTooLarge(usize),
    #[error("invalid path: {0}")]
    Path(PathError),
    /// Kubernetes' rule for modes.
    #[error("{path}: must be a number between 0 and 0777 (octal), both inclusive")]
    Mode { path: String },
    #[error("{directory} is a file and also the directory of {file}")]
    FileAndDirectory { directory: String, file: String },
    #[error("volume is too large: at most {0} bytes")]
    VolumeTooLarge(usize),
    #[error("failed to fetch token: {0}")]
    Token(LookupError),
    #[error("projected volume source {0} is not supported")]
    Source(&'static str),
    /// Several different errors.
    #[error("{}", list(.0))]
    Several(Vec<ProjectionError>),
}

/// A problem with a path in a volume (`validatePath` in `pkg/volume/util/atomic_writer.go`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("must not be empty: {}", quote(.0))]
    Empty(String),
    #[error("must be relative path: {0}")]
    Absolute(String),
    #[error("must be less than {0} characters")]
    TooLong(usize),
    #[error("filenames must be less than {0} characters")]
    NameTooLong(usize),
    #[error("must not contain '..': {0}")]
    Parent(String),
    #[error("must not start with '..': {0}")]
    Reserved(String),
    #[error("must not contain NUL: {}", quote(.0))]
    Nul(String),
}

impl ProjectionError {
    /// All errors as one, without duplicates (`NewAggregate` in `apimachinery/pkg/util/errors`); `None` if there is none.
    pub(crate) fn aggregate(errors: Vec<Self>) -> Option<Self> {
        let mut seen = HashSet::new();
        let mut different: Vec<Self> = errors
            .into_iter()
            .flat_map(|error| match error {
                Self::Several(errors) => errors,
                error => vec![error],
            })
            .filter(|error| seen.insert(error.to_string()))
            .collect();
        match different.len() {
            0 | 1 => different.pop(),
            _ => Some(Self::Several(different)),
        }
    }
}

fn list(errors: &[ProjectionError]) -> String {
    let mut text = String::from("[");
    for (index, error) in errors.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{error}");
    }
    text.push(']');
    text
}

/// The message of the event `FailedMount` for a volume whose files cannot be computed (`GenerateError` in
/// `pkg/volume/util/operationexecutor`).
pub fn failed_mount_message(volume: &str, error: &impl std::error::Error) -> String {
    format!("MountVolume.SetUp failed for volume {} : {error}", quote(volume))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(name: &str) -> ProjectionError {
        ProjectionError::NotFound {
            kind: ObjectKind::Secret,
            name: name.into(),
        }
    }

    #[test]
    fn several_errors_become_one_text_without_duplicates() {
        let text = |errors: Vec<ProjectionError>| ProjectionError::aggregate(errors).map(|error| error.to_string());
        assert_eq!(text(vec![]), None);
        assert_eq!(text(vec![missing("a")]).unwrap(), r#"secret "a" not found"#);
        assert_eq!(
            text(vec![missing("a"), missing("a")]).unwrap(),
            r#"secret "a" not found"#
        );
        assert_eq!(
            text(vec![missing("a"), missing("b"), missing("a")]).unwrap(),
            r#"[secret "a" not found, secret "b" not found]"#
        );
        let inner = ProjectionError::aggregate(vec![missing("a"), missing("b")]).unwrap();
        assert_eq!(
            text(vec![missing("c"), inner]).unwrap(),
            r#"[secret "c" not found, secret "a" not found, secret "b" not found]"#
        );
    }

    #[test]
    fn the_event_of_a_failed_mount_has_the_kubelets_text() {
        assert_eq!(
            failed_mount_message("config", &missing("x")),
            r#"MountVolume.SetUp failed for volume "config" : secret "x" not found"#
        );
    }
}
