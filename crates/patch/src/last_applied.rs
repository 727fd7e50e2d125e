//! The annotation in which `kubectl apply` keeps the last applied configuration.

use serde_json::Value;

use super::error::PatchError;
use super::object::Object;

/// The annotation's name.
pub const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Whether an object has the annotation.
pub fn is_in(object: &Value) -> bool {
    let annotations = object.get("metadata").and_then(|metadata| metadata.get("annotations"));
    annotations.is_some_and(|annotations| annotations.get(ANNOTATION).is_some())
}

/// The text of the annotation. kubectl treats an empty one as a missing one.
pub fn text(object: &Value) -> Option<&str> {
    let annotations = object.get("metadata")?.get("annotations")?;
    annotations.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

/// The configuration that was last applied to an object, if any.
pub fn read(object: &Value) -> Result<Option<Value>, PatchError> {
    let Some(text) = text(object) else {
        return Ok(None);
    };
    let configuration: Value = serde_json::from_str(text).map_err(|_| PatchError::NotAnObject)?;
    if !configuration.is_object() {
        return Err(PatchError::NotAnObject);
    }
    Ok(Some(configuration))
}

/// A configuration without the annotation, as `diff` merges it.
pub fn without(mut configuration: Value) -> Result<Value, PatchError> {
    annotations(&mut configuration)?.remove(ANNOTATION);
    Ok(configuration)
}

/// The configuration with a copy of itself in the annotation, as `apply` sends it. Replaces a previous annotation.
pub fn record(configuration: Value) -> Result<Value, PatchError> {
    let mut configuration = without(configuration)?;
    let text = written(&configuration);
    annotations(&mut configuration)?.insert(ANNOTATION.to_owned(), Value::String(text));
    Ok(configuration)
}

/// The annotations, added if they are missing: kubectl records `annotations: {}`.
fn annotations(object: &mut Value) -> Result<&mut Object, PatchError> {
    let object = object.as_object_mut().ok_or(PatchError::NotAnObject)?;
    let metadata = entry(object, "metadata")?;
    entry(metadata, "annotations")
}

fn entry<'m>(map: &'m mut Object, name: &str) -> Result<&'m mut Object, PatchError> {
    let value = map.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Object::new());
    }
    value.as_object_mut().ok_or(PatchError::NotAnObject)
}

/// JSON as Go's encoder writes it: with escapes for HTML, and a line end.
pub fn written(value: &Value) -> String {
    // These characters occur only in strings.
    let mut text = value
        .to_string()
        .replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_recorded_configuration_is_read_again() {
        let configuration = json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "<a & b>\u{2028}"}});
        let recorded = record(configuration).unwrap();
        assert_eq!(
            recorded["metadata"]["annotations"][ANNOTATION],
            json!(concat!(
                r#"{"data":{"k":"\u003ca \u0026 b\u003e\u2028"},"kind":"ConfigMap","metadata":{"annotations":{},"name":"c"}}"#,
                "\n"
            ))
        );
        assert_eq!(
            read(&recorded).unwrap().unwrap(),
            json!({"kind": "ConfigMap", "metadata": {"annotations": {}, "name": "c"}, "data": {"k": "<a & b>\u{2028}"}})
        );
    }

    #[test]
    fn a_previous_annotation_is_not_recorded() {
        let once = record(json!({"metadata": {"annotations": {"a": "b"}}})).unwrap();
        assert_eq!(record(once.clone()).unwrap(), once);
    }

    #[test]
    fn a_configuration_without_annotation_has_annotations_like_the_recorded_one() {
        let plain = json!({"metadata": {"annotations": {}, "name": "c"}});
        let recorded = record(plain.clone()).unwrap();
        assert!(is_in(&recorded) && !is_in(&plain) && !is_in(&json!({})));
        for configuration in [json!({"metadata": {"name": "c"}}), recorded.clone()] {
            assert_eq!(without(configuration).unwrap(), plain);
        }
        assert_eq!(read(&recorded).unwrap(), Some(plain));
    }

    #[test]
    fn objects_without_the_annotation_have_no_last_configuration() {
        for object in [
            json!({}),
            json!({"metadata": null}),
            json!({"metadata": {"annotations": {ANNOTATION: ""}}}),
        ] {
            assert_eq!(read(&object), Ok(None), "{object}");
        }
    }

    #[test]
    fn faulty_annotations_and_configurations_are_refused() {
        for text in ["{", "1", "[]"] {
            let object = json!({"metadata": {"annotations": {ANNOTATION: text}}});
            assert_eq!(read(&object), Err(PatchError::NotAnObject), "{text}");
        }
        for configuration in [
            json!(1),
            json!({"metadata": 1}),
            json!({"metadata": {"annotations": []}}),
        ] {
            assert_eq!(record(configuration), Err(PatchError::NotAnObject));
        }
    }
}
