//! Fields that a kind does not have: refused, or dropped (`fieldValidation` of the API server's requests).

use serde_json::Value;

use super::error::{Problem, Segment};

/// What happens to fields that a kind does not have.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    /// They are problems.
    #[default]
    Refused,
    /// The object is read without them.
    Dropped,
}

impl UnknownFields {
    /// Takes the fields to drop out of the problems of an object.
    pub(super) fn take(self, problems: &mut Vec<Problem>) -> Vec<Problem> {
        if self == Self::Refused {
            return Vec::new();
        }
        let (dropped, others): (Vec<_>, Vec<_>) = std::mem::take(problems)
            .into_iter()
            .partition(Problem::is_unknown_field);
        *problems = others;
        dropped
    }
}

/// Removes these fields from an object.
pub(super) fn remove(object: &mut Value, fields: &[Problem]) {
    for field in fields {
        let Some((Segment::Field(last) | Segment::Key(last), parents)) = field.path.segments().split_last() else {
            continue;
        };
        let mut parent = Some(&mut *object);
        for segment in parents {
            parent = parent.and_then(|value| match segment {
                Segment::Field(name) | Segment::Key(name) => value.get_mut(name.as_str()),
                Segment::Index(index) => value.get_mut(*index),
            });
        }
        if let Some(Value::Object(map)) = parent {
            map.remove(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::error::FieldPath;
    use super::*;

    #[test]
    fn only_unknown_fields_are_taken() {
        let path = FieldPath::default().field("a");
        let problems = vec![
            Problem::unknown_field(&path, ", did you mean \"b\"?"),
            Problem::at(&path, "unknown field \"a\""),
        ];
        let mut refused = problems.clone();
        assert_eq!(UnknownFields::Refused.take(&mut refused), []);
        assert_eq!(refused, problems);
        let mut others = problems.clone();
        assert_eq!(UnknownFields::Dropped.take(&mut others), problems[..1]);
        assert_eq!(others, problems[1..]);
    }

    #[test]
    fn fields_are_removed_at_any_depth() {
        let root = FieldPath::default();
        let item = root.field("list").index(1);
        let fields = [
            root.field("a"),
            item.field("x.y"),
            root.field("list").index(7).field("a"),
            root.field("none").field("a"),
            root.clone(),
        ];
        let fields = fields.map(|path| Problem::unknown_field(&path, ""));
        let mut object = json!({ "a": 1, "b": 2, "list": [{ "x.y": 1 }, { "x.y": 2, "z": 3 }] });
        remove(&mut object, &fields);
        assert_eq!(object, json!({ "b": 2, "list": [{ "x.y": 1 }, { "z": 3 }] }));
    }
}
