//! One operation of a JSON patch, as received.

use std::str::FromStr;

use serde_json::Value;

use super::error::{Cause, Kind, OperationError};
use crate::go_text;

#[derive(Debug)]
pub(super) struct Operation<'p> {
    members: &'p Value,
}

impl<'p> Operation<'p> {
    pub(super) fn new(members: &'p Value) -> Self {
        Self { members }
    }

    pub(super) fn kind(&self) -> Result<Kind, OperationError> {
        let name = self.members.get("op").and_then(Value::as_str).unwrap_or("unknown");
        Kind::from_str(name).map_err(|()| OperationError::UnknownKind(go_text::shorten(name.to_owned())))
    }

    /// The place that the operation changes or tests.
    pub(super) fn path(&self) -> Result<&'p str, Cause> {
        self.text("path", Cause::NoPath)
    }

    /// The place from which the operation takes its value.
    pub(super) fn from(&self) -> Result<&'p str, Cause> {
        self.text("from", Cause::NoFrom)
    }

    pub(super) fn value(&self) -> Option<&'p Value> {
        self.members.get("value")
    }

    fn text(&self, member: &str, missing: Cause) -> Result<&'p str, Cause> {
        match self.members.get(member) {
            None | Some(Value::Null) => Err(missing),
            Some(Value::String(text)) => Ok(text),
            Some(Value::Bool(_)) => Err(Cause::NotAString("bool")),
            Some(Value::Number(_)) => Err(Cause::NotAString("number")),
            Some(Value::Array(_)) => Err(Cause::NotAString("array")),
            Some(Value::Object(_)) => Err(Cause::NotAString("object")),
        }
    }
}
