//! JSON patch (RFC 6902) with the behaviour and the messages of the API server (its library is evanphx/json-patch v4).
//!
//! It differs from the RFC where the API server does: an index may be negative and counts from the end; `add`,
//! `remove`, `move` and `copy` cannot address the whole object; `replace` adds a missing field of a map; and a missing
//! field is `null` for `test` and `copy`. The crate `json-patch` is not used, because it bounds neither the size nor
//! the depth of the result, and has other messages.

mod error;
mod operation;
mod place;

use serde_json::Value;

pub use error::{Cause, Kind, OperationError};

use super::bounds;
use super::error::PatchError;
use super::limits::{self, Document, MAX_OPERATIONS};
use operation::Operation;

/// How many values the operations of one patch may visit. An element that moves because another one is inserted before it
/// costs an eighth of a visit.
const MAX_WORK: usize = 10_000_000;

/// Applies a JSON patch completely, or not at all.
pub fn apply(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    bounds::check(Document::Object, object)?;
    bounds::check(Document::Patch, patch)?;
    let operations = patch.as_array().ok_or(PatchError::NotOperations)?;
    if operations.iter().any(|operation| !operation.is_object()) {
        return Err(PatchError::NotOperations);
    }
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let mut patching = Patching {
        document: object.clone(),
        copied: 0,
        work: MAX_WORK,
    };
    for operation in operations {
        patching.apply(&Operation::new(operation))?;
    }
    bounds::check(Document::Result, &patching.document)?;
    Ok(patching.document)
}

/// An object that is being patched.
#[derive(Debug)]
struct Patching {
    document: Value,
    /// Bytes of all copies.
    copied: usize,
    /// How many values may still be visited.
    work: usize,
}

impl Patching {
    fn apply(&mut self, operation: &Operation<'_>) -> Result<(), PatchError> {
        match operation.kind()? {
            Kind::Add => self.add(operation),
            Kind::Remove => self.remove(operation),
            Kind::Replace => self.replace(operation),
            Kind::Move => self.r#move(operation),
            Kind::Copy => self.copy(operation),
            Kind::Test => self.test(operation),
        }
    }

    fn add(&mut self, operation: &Operation<'_>) -> Result<(), PatchError> {
        // The library does not say why it has no path.
        let path = operation
            .path()
            .map_err(|_| OperationError::undecoded(Kind::Add, "path", Cause::Missing))?;
        let value = operation.value().cloned().unwrap_or_default();
        self.check_depth(path, &value)?;
        let (place, work) =
            place::find(&mut self.document, path).ok_or_else(|| OperationError::no_path(Kind::Add, path))?;
        let work = work + place.moving();
        place
            .add(value)
            .map_err(|cause| OperationError::at(Kind::Add, path, cause))?;
        self.spend(work)
    }

    fn remove(&mut self, operation: &Operation<'_>) -> Result<(), PatchError> {
        let path = operation
            .path()
            .map_err(|_| OperationError::undecoded(Kind::Remove, "path", Cause::Missing))?;
        let (place, work) =
            place::find(&mut self.document, path).ok_or_else(|| OperationError::no_path(Kind::Remove, path))?;
        let work = work + place.moving();
        place
            .remove()
            .map_err(|cause| OperationError::at(Kind::Remove, path, cause))?;
        self.spend(work)
    }

    fn replace(&mut self, operation: &Operation<'_>) -> Result<(), PatchError> {
        let path = operation
            .path()
            .map_err(|cause| OperationError::undecoded(Kind::Replace, "path", cause))?;
        let value = operation.value().cloned().unwrap_or_default();
        if path.is_empty() {
            if !value.is_object() && !value.is_array() {
                return Err(OperationError::BadRoot.into());
            }
            self.document = value;
            return Ok(());
        }
        self.check_depth(path, &value)?;
        let (place, work) =
            place::find(&mut self.document, path).ok_or_else(|| OperationError::no_path(Kind::Replace, path))?;
        place.replace(value).map_err(|_| OperationError::no_key(path))?;
        self.spend(work)
    }

    fn r#move(&mut self, operation: &Operation<'_>) -> Result<(), PatchError> {
        let from = operation
            .from()
            .map_err(|cause| OperationError::undecoded(Kind::Move, "from", cause))?;
        let (place, work) =
            place::find(&mut self.document, from).ok_or_else(|| OperationError::no_from(Kind::Move, from))?;
        let work = work + place.moving();
        let key = place.key.clone();
        let value = place
            .remove()
            .map_err(|cause| OperationError::at(Kind::Move, &key, cause))?;
        self.spend(work)?;
        let path = operation
            .path()
            .map_err(|cause| OperationError::undecoded(Kind::Move, "path", cause))?;
        self.check_depth(path, &value)?;
        let (place, work) =
            place::find(&mut self.document, path).ok_or_else(|| OperationError::no_destination(Kind::Move, path))?;
        let work = work + place.moving();
        place
            .add(value)
            .map_err(|cause| OperationError::at(Kind::Move, path, cause))?;
        self.spend(work)
    }

    fn copy(&mut self, operation: &Operation<'_>) -> Result<(), PatchError> {
        let from = operation
            .from()
            .map_err(|cause| OperationError::undecoded(Kind::Copy, "from", cause))?;
        let (place, work) =
            place::find(&mut self.document, from).ok_or_else(|| OperationError::no_from(Kind::Copy, from))?;
        let value = place.get().map_err(|cause| OperationError::copy_from(from, cause))?;
        let size = value.map_or(Some(0), |value| limits::extent(value).map(|extent| extent.bytes));
        let size = size.ok_or(PatchError::TooDeep {
            document: Document::Result,
        })?;
        self.copied = self.copied.saturating_add(size);
        if self.copied > limits::MAX_BYTES {
            return Err(OperationError::CopiesTooLarge { copied: self.copied }.into());
        }
        let value = value.cloned().unwrap_or_default();
        self.spend(work)?;
        let path = operation
            .path()
            .map_err(|_| OperationError::undecoded(Kind::Copy, "path", Cause::Missing))?;
        self.check_depth(path, &value)?;
        let (place, work) =
            place::find(&mut self.document, path).ok_or_else(|| OperationError::no_destination(Kind::Copy, path))?;
        let work = work + place.moving();
        place.add(value).map_err(OperationError::Copied)?;
        self.spend(work)
    }

    fn test(&mut self, operation: &Operation<'_>) -> Result<(), PatchError> {
        let path = operation
            .path()
            .map_err(|cause| OperationError::undecoded(Kind::Test, "path", cause))?;
        let expected = operation.value();
        let equal = if path.is_empty() {
            expected == Some(&self.document)
        } else {
            let (place, _) =
                place::find(&mut self.document, path).ok_or_else(|| OperationError::no_path(Kind::Test, path))?;
            match place
                .get()
                .map_err(|cause| OperationError::at(Kind::Test, path, cause))?
            {
                None | Some(Value::Null) => expected.is_none_or(Value::is_null),
                actual => actual == expected,
            }
        };
        if !equal {
            return Err(OperationError::failed_test(path).into());
        }
        Ok(())
    }

    /// Refuses a value that would make the object too deep at this path. Counts the values that it visits.
    fn check_depth(&mut self, path: &str, value: &Value) -> Result<(), PatchError> {
        let too_deep = PatchError::TooDeep {
            document: Document::Result,
        };
        let extent = limits::extent(value).ok_or(too_deep.clone())?;
        self.spend(extent.values)?;
        if place::depth(path) + extent.depth > limits::MAX_DEPTH {
            return Err(too_deep);
        }
        Ok(())
    }

    fn spend(&mut self, work: usize) -> Result<(), PatchError> {
        self.work = self.work.checked_sub(work).ok_or(PatchError::TooMuchWork)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
