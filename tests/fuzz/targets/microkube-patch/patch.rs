//! Patches: any patch of any object is applied or refused, within the limits, and a patch that was made can be applied.
#![no_main]

use microkube_patch::{json_patch, kinds, merge_patch, strategic};
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));

/// The bytes are JSON documents: a kind, an object, and a patch, which is also another version of the object. Panics if
/// a result is too deep to be read again, or if applying a configuration to its own result changes it.
fn check(bytes: &[u8]) {
    let mut documents = serde_json::Deserializer::from_slice(bytes)
        .into_iter::<Value>()
        .map_while(Result::ok);
    let (Some(kind), Some(object), Some(patch)) = (documents.next(), documents.next(), documents.next()) else {
        return;
    };
    let schema = kind.as_str().and_then(|kind| kinds::schema_of("v1", kind));
    let schema = schema
        .or_else(|| kinds::schema_of("v1", "Pod"))
        .expect("Pods have a schema");

    for result in [
        json_patch::apply(&object, &patch),
        merge_patch::apply(&object, &patch),
        strategic::apply(&object, &patch, schema),
    ] {
        match result {
            Ok(result) => {
                let text = serde_json::to_vec(&result).expect("a value is JSON");
                serde_json::from_slice::<Value>(&text).expect("a result can be read again");
            }
            Err(error) => assert!(!error.to_string().is_empty() && error.to_string().len() < 16 * 1024),
        }
    }
    if let Ok(difference) = merge_patch::diff(&object, &patch) {
        merge_patch::apply(&object, &difference).expect("a merge patch that was made applies");
    }
    if let Ok(difference) = strategic::diff(&object, &patch, schema) {
        let _ = strategic::apply(&object, &difference, schema);
    }
    for last_applied in [None, Some(&object)] {
        let _ = merge_patch::three_way(last_applied, &patch, &object);
        let _ = strategic::three_way(last_applied, &patch, &object, schema);
    }
}
