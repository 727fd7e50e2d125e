//! `apply`: sets the fields in the configuration, removes fields that were in the last applied configuration but are
//! not in this one, and keeps fields that others have set. Like `kubectl apply`, it keeps the last applied
//! configuration in an annotation.

use microkube_manifest::kinds::Kind;
use microkube_patch::{kinds, last_applied, merge_patch, strategic};
use microkube_store::{Object, Written};
use serde_json::Value;

use super::error::{ObjectError, Overwritten};
use super::operations::{Objects, Part, key_in};

/// How many times an apply starts again because the object was created or deleted meanwhile, as in kubectl.
const ATTEMPTS: usize = 5;

/// Whether an apply replaces values that others have changed since the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    Always,
    /// The apply is refused with [`ObjectError::Overwrites`].
    Never,
}

/// The effect of applying a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Configured,
    Unchanged,
}

/// The result of applying a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub outcome: Outcome,
    pub object: Object,
    /// The object had no last applied configuration, because another command created it. No field was removed.
    pub lacked_annotation: bool,
}

/// The result of merging a configuration into an existing object.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// `None` if there is nothing to change.
    pub object: Option<Value>,
    /// The object has no last applied configuration, because another command created it. No field is removed.
    pub lacked_annotation: bool,
}

/// Merges the last applied configuration, the modified configuration and the current object. The modified configuration
/// has itself in its annotation if it is to become the last applied one.
///
/// # Errors
/// If one of the three is not an object of this kind, a limit is exceeded, or the patch conflicts with changes of others
/// and may not overwrite them.
pub fn merge(kind: &Kind, modified: &Value, current: &Value, overwrite: Overwrite) -> Result<Merged, ObjectError> {
    let last = last_applied::read(current)?;
    let schema = kinds::schema_of(&kind.api_version(), kind.kind);
    let applied = match schema {
        Some(schema) => strategic::three_way(last.as_ref(), modified, current, schema)?,
        None => merge_patch::three_way(last.as_ref(), modified, current)?,
    };
    // kubectl does not check kinds without a schema.
    if let (Overwrite::Never, Some(schema)) = (overwrite, schema)
        && let Some(changes) = strategic::conflict(last.as_ref(), current, &applied.patch, schema)?
    {
        return Err(ObjectError::Overwrites(Box::new(Overwritten {
            modified: modified.clone(),
            current: current.clone(),
            patch: applied.patch,
            changes,
        })));
    }
    microkube_patch::check_identity(&applied.patch)?;
    // kubectl also checks the patch: `stringData` counts as a change each time.
    let has_changes = applied.patch.as_object().is_some_and(|patch| !patch.is_empty());
    Ok(Merged {
        object: has_changes.then_some(applied.result),
        lacked_annotation: last.is_none(),
    })
}

impl Objects {
    /// Applies a configuration: the object as its author wrote it, with its namespace.
    ///
    /// # Errors
    /// If the object is invalid, or may not be changed like this.
    pub fn apply(
        &self,
        kind: &'static Kind,
        configuration: &Value,
        overwrite: Overwrite,
    ) -> Result<Applied, ObjectError> {
        let key = key_in(kind, configuration);
        if key.name.is_empty()
            && let Some(prefix) = configuration.pointer("/metadata/generateName").and_then(Value::as_str)
        {
            let prefix = prefix.to_owned();
            return Err(ObjectError::GenerateName { prefix });
        }
        let modified = last_applied::record(configuration.clone())?;
        let mut attempts = 1..=ATTEMPTS;
        loop {
            attempts.next();
            let result = match self.find(kind, &key)? {
                None => self.create(kind, &modified).map(|object| Applied {
                    outcome: Outcome::Created,
                    object,
                    lacked_annotation: false,
                }),
                Some(_) => self.configure(kind, &key, &modified, overwrite),
            };
            match result {
                Err(error) if (error.is_already_exists() || error.is_not_found()) && !attempts.is_empty() => {}
                result => return result,
            }
        }
    }

    fn configure(
        &self,
        kind: &'static Kind,
        key: &microkube_store::Key,
        modified: &Value,
        overwrite: Overwrite,
    ) -> Result<Applied, ObjectError> {
        let (mut has_changes, mut lacked_annotation) = (false, false);
        let written = self.change(kind, key, Part::Main, |current| {
            let merged = merge(kind, modified, current, overwrite)?;
            (has_changes, lacked_annotation) = (merged.object.is_some(), merged.lacked_annotation);
            Ok(merged.object)
        })?;
        Ok(Applied {
            outcome: if has_changes {
                Outcome::Configured
            } else {
                Outcome::Unchanged
            },
            object: Written::into_object(written),
            lacked_annotation,
        })
    }
}
