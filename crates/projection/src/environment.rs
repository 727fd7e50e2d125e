//! The environment of a container (`makeEnvironmentVariables` in `pkg/kubelet/kubelet_pods.go`).

use std::collections::HashMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, FileKeySelector};
use microkube_manifest::expansion::{MAX_EXPANDED_BYTES, expand};
use microkube_manifest::names;

use crate::bound_pod::BoundPod;
use crate::env_file::{self, EnvFileError};
use crate::error::ProjectionError;
use crate::object_kind::ObjectKind;
use crate::objects::{Namespaced, Objects};
use crate::{pod_field, resource_field};

/// The largest environment. Linux starts no program with more: arguments and variables, each with its NUL and its
/// pointer, may use at most three quarters of the default stack of 8 MiB (`bprm_stack_limits` in `fs/exec.c`).
pub const MAX_ENVIRONMENT_BYTES: usize = 6 << 20;
/// The NUL at the end of a string and the pointer to it.
const BYTES_BESIDES_TEXT: usize = 1 + size_of::<usize>();

/// A container's variables from its manifest, without those of its image and of the Pod's host name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    /// Each name once, in the order of the manifest. Within one object, variables are in the order of its keys.
    pub variables: Vec<Variable>,
    /// Keys that are not valid names of variables, one entry for each object of `envFrom` that has such keys.
    pub skipped: Vec<SkippedKeys>,
}

/// `Debug` does not show the value, which may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    pub value: String,
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=({} bytes)", self.name, self.value.len())
    }
}

/// Keys of an object that cannot be variables, with their prefix. `Display` is the message of the event
/// `InvalidEnvironmentVariableNames`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedKeys {
    pub kind: ObjectKind,
    pub namespace: String,
    pub name: String,
    pub keys: Vec<String>,
}

impl fmt::Display for SkippedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ObjectKind::ConfigMap => "configMap",
            ObjectKind::Secret => "secret",
        };
        write!(
            f,
            "Keys [{}] from the EnvFrom {kind} {}/{} were skipped since they are considered invalid environment variable \
             names.",
            self.keys.join(", "),
            self.namespace,
            self.name
        )
    }
}

/// The environment of a container of this Pod.
///
/// Later variables replace earlier ones of the same name; `env` replaces `envFrom`. `$(NAME)` in a value refers to
/// variables before it, those of `envFrom` included. Values from objects and fields are not expanded.
///
/// # Errors
/// If something that is not optional is missing, or the result is not a valid environment for a program.
pub fn environment(
    pod: &BoundPod<'_>,
    container: &Container,
    objects: &dyn Objects,
) -> Result<Environment, ProjectionError> {
    let mut namespaced = Namespaced::new(pod.namespace(), objects);
    let mut variables = Variables::default();
    let mut skipped = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (kind, name, keys) = if let Some(reference) = &source.config_map_ref {
            let Some(config_map) = namespaced.config_map(&reference.name, reference.optional == Some(true))? else {
                continue;
            };
            let data = config_map.data.iter().flatten();
            let entries = data.map(|(key, value)| (key.as_str(), value.as_bytes()));
            (
                ObjectKind::ConfigMap,
                &reference.name,
                variables.import(prefix, entries)?,
            )
        } else if let Some(reference) = &source.secret_ref {
            let Some(secret) = namespaced.secret(&reference.name, reference.optional == Some(true))? else {
                continue;
            };
            let data = secret.data.iter().flatten();
            let entries = data.map(|(key, value)| (key.as_str(), value.0.as_slice()));
            (ObjectKind::Secret, &reference.name, variables.import(prefix, entries)?)
        } else {
            continue;
        };
        if !keys.is_empty() {
            skipped.push(SkippedKeys {
                kind,
                namespace: pod.namespace().to_owned(),
                name: name.clone(),
                keys,
            });
        }
    }
    for variable in container.env.iter().flatten() {
        if !is_variable_name(&variable.name) {
            return Err(ProjectionError::VariableName(variable.name.clone()));
        }
        let text = variable.value.as_deref().unwrap_or_default();
        if !text.is_empty() {
            variables.set_expanded(&variable.name, text)?;
        } else if let Some(source) = &variable.value_from {
            if let Some(value) = value_from(source, pod, container, &mut namespaced)? {
                variables.set(&variable.name, &value)?;
            }
        } else {
            variables.set(&variable.name, b"")?;
        }
    }
    Ok(Environment {
        variables: variables.finish()?,
        skipped,
    })
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && names::variable_name(name).is_empty()
}

/// The value; `None` if it is optional and missing.
fn value_from(
    source: &EnvVarSource,
    pod: &BoundPod<'_>,
    container: &Container,
    objects: &mut Namespaced<'_>,
) -> Result<Option<Vec<u8>>, ProjectionError> {
    if let Some(field) = &source.field_ref {
        return pod_field::for_variable(&field.field_path, pod).map(|value| Some(value.into_bytes()));
    }
    if let Some(field) = &source.resource_field_ref {
        return resource_field::for_variable(field, pod, container).map(|value| Some(value.into_bytes()));
    }
    let key_not_found = |kind: ObjectKind, name: &str, key: &str| ProjectionError::KeyNotFound {
        kind,
        namespace: pod.namespace().to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    if let Some(own) = &source.config_map_key_ref {
        let optional = own.optional == Some(true);
        let Some(config_map) = objects.config_map(&own.name, optional)? else {
            return Ok(None);
        };
        return match config_map.data.as_ref().and_then(|data| data.get(&own.key)) {
            Some(value) => Ok(Some(value.clone().into_bytes())),
            None if optional => Ok(None),
            None => Err(key_not_found(ObjectKind::ConfigMap, &own.name, &own.key)),
        };
    }
    if let Some(own) = &source.secret_key_ref {
        let optional = own.optional == Some(true);
        let Some(secret) = objects.secret(&own.name, optional)? else {
            return Ok(None);
        };
        return match secret.data.as_ref().and_then(|data| data.get(&own.key)) {
            Some(value) => Ok(Some(value.0.clone())),
            None if optional => Ok(None),
            None => Err(key_not_found(ObjectKind::Secret, &own.name, &own.key)),
        };
    }
    match &source.file_key_ref {
        Some(own) => value_from_file(own, pod, objects.objects),
        None => Ok(Some(Vec::new())),
    }
}

fn value_from_file(
    own: &FileKeySelector,
    pod: &BoundPod<'_>,
    objects: &dyn Objects,
) -> Result<Option<Vec<u8>>, ProjectionError> {
    let mut volumes = pod.spec().and_then(|spec| spec.volumes.as_ref()).into_iter().flatten();
    if !volumes.any(|volume| volume.name == own.volume_name) {
        return Err(ProjectionError::EnvFileVolume(own.volume_name.clone()));
    }
    let faulty = |why| ProjectionError::EnvFile {
        volume: own.volume_name.clone(),
        path: own.path.clone(),
        why,
    };
    let file = objects
        .env_file(&own.volume_name, &own.path)
        .map_err(|why| faulty(EnvFileError::Unreadable(why.0)))?
        // In the kubelet, `optional` covers only the key.
        .ok_or_else(|| faulty(EnvFileError::Missing))?;
    let value = env_file::value(file.as_bytes(), &own.key).map_err(faulty)?;
    if value.is_empty() {
        // The kubelet does not distinguish an empty value from a missing one.
        if own.optional == Some(true) {
            return Ok(None);
        }
        return Err(ProjectionError::EnvFileKey {
            key: own.key.clone(),
            path: own.path.clone(),
        });
    }
    Ok(Some(value))
}

/// The variables so far. A faulty value is an error only if no later one replaces it.
#[derive(Default)]
struct Variables {
    values: HashMap<String, String>,
    /// The names, in the order of their first values.
    order: Vec<String>,
    faults: HashMap<String, ProjectionError>,
    /// Bytes of all variables, as Linux counts them.
    size: usize,
}

impl Variables {
    /// Sets all entries of an object and returns the keys, with the prefix, that are not valid names of variables.
    fn import<'d>(
        &mut self,
        prefix: &str,
        entries: impl Iterator<Item = (&'d str, &'d [u8])>,
    ) -> Result<Vec<String>, ProjectionError> {
        let mut invalid = Vec::new();
        for (key, value) in entries {
            let name = format!("{prefix}{key}");
            if is_variable_name(&name) {
                self.set(&name, value)?;
            } else {
                // A long prefix times many keys is bounded as well.
                self.grow(name.len())?;
                invalid.push(name);
            }
        }
        Ok(invalid)
    }

    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), ProjectionError> {
        let text = String::from_utf8_lossy(value);
        let fault = if text.as_bytes() != value || value.contains(&0) {
            Some(ProjectionError::VariableNotText(name.to_owned()))
        } else {
            None
        };
        self.insert(name, text.into_owned(), fault)
    }

    fn set_expanded(&mut self, name: &str, text: &str) -> Result<(), ProjectionError> {
        match expand(text, &self.values) {
            Ok(value) => self.set(name, value.as_bytes()),
            Err(_) => self.insert(name, String::new(), Some(too_long(name))),
        }
    }

    fn insert(&mut self, name: &str, value: String, fault: Option<ProjectionError>) -> Result<(), ProjectionError> {
        let text_bytes = name.len().saturating_add(1).saturating_add(value.len());
        let fault = fault.or_else(|| (text_bytes > MAX_EXPANDED_BYTES).then(|| too_long(name)));
        match fault {
            Some(fault) => self.faults.insert(name.to_owned(), fault),
            None => self.faults.remove(name),
        };
        let value_bytes = value.len();
        if let Some(earlier) = self.values.insert(name.to_owned(), value) {
            self.size = self.size.saturating_sub(earlier.len());
            return self.grow(value_bytes);
        }
        self.order.push(name.to_owned());
        self.grow(text_bytes.saturating_add(BYTES_BESIDES_TEXT))
    }

    fn grow(&mut self, bytes: usize) -> Result<(), ProjectionError> {
        self.size = self.size.saturating_add(bytes);
        if self.size > MAX_ENVIRONMENT_BYTES {
            return Err(ProjectionError::EnvironmentTooLarge(MAX_ENVIRONMENT_BYTES));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Variable>, ProjectionError> {
        let mut variables = Vec::with_capacity(self.order.len());
        for name in self.order {
            if let Some(fault) = self.faults.remove(&name) {
                return Err(fault);
            }
            let value = self.values.remove(&name).unwrap_or_default();
            variables.push(Variable { name, value });
        }
        Ok(variables)
    }
}

fn too_long(name: &str) -> ProjectionError {
    ProjectionError::VariableTooLong {
        name: name.to_owned(),
        max: MAX_EXPANDED_BYTES,
    }
}

#[cfg(test)]
mod tests;
