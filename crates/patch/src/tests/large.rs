//! Large lists and patches. Code that compared all items with all others would run for many minutes here.

use serde_json::{Value, json};

use super::schema::schema;
use crate::{MAX_BYTES, MAX_OPERATIONS, PatchError, json_patch, merge_patch, strategic};

const ITEMS: usize = 50_000;

fn items(range: impl Iterator<Item = usize>, field: &str) -> Value {
    range
        .map(|number| json!({"name": format!("item-{number}"), field: number}))
        .collect()
}

#[test]
fn long_lists_are_merged_by_key() {
    let object = json!({"items": items(0..ITEMS, "x")});
    let patch = json!({"items": items((0..ITEMS).rev(), "y")});
    let result = strategic::apply(&object, &patch, schema()).unwrap();
    let merged = result["items"].as_array().unwrap();
    assert_eq!(merged.len(), ITEMS);
    assert_eq!(merged[0], json!({"name": "item-49999", "x": 49_999, "y": 49_999}));

    let delete = items(0..ITEMS, "x");
    let delete = delete.as_array().unwrap().iter();
    let delete: Value = delete
        .map(|item| json!({"name": item["name"], "$patch": "delete"}))
        .collect();
    let result = strategic::apply(&result, &json!({"items": delete}), schema()).unwrap();
    assert_eq!(result, json!({"items": []}));
}

#[test]
fn long_lists_are_compared_and_applied() {
    const HALF: usize = 10_000;
    let tags = |range: std::ops::Range<usize>| range.collect::<Vec<_>>();
    let original = json!({"items": items(0..2 * HALF, "x"), "tags": tags(0..2 * HALF)});
    let mut reversed = tags(HALF..3 * HALF);
    reversed.reverse();
    let modified = json!({"items": items((HALF..3 * HALF).rev(), "y"), "tags": reversed});
    let patch = strategic::diff(&original, &modified, schema()).unwrap();
    assert_eq!(strategic::apply(&original, &patch, schema()).unwrap(), modified);
    let applied = strategic::three_way(Some(&original), &modified, &original, schema()).unwrap();
    assert_eq!(applied.result, modified);
}

#[test]
fn results_larger_than_the_limit_are_refused() {
    let half = "x".repeat(MAX_BYTES * 2 / 3);
    let (object, patch) = (json!({"a": half}), json!({"b": half}));
    for result in [
        merge_patch::apply(&object, &patch),
        strategic::apply(&object, &patch, schema()),
        json_patch::apply(&object, &json!([{"op": "add", "path": "/b", "value": half}])),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, PatchError::TooLarge { .. }), "{error}");
        assert_eq!(error.status(), 413);
    }
}

#[test]
fn copies_that_double_an_object_end_at_the_limit() {
    let mut operations = vec![json!({"op": "add", "path": "/a", "value": ["x".repeat(100)]})];
    for _ in 0..100 {
        operations.push(json!({"op": "copy", "from": "/a", "path": "/a/-"}));
    }
    let error = json_patch::apply(&json!({}), &Value::from(operations)).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("Unable to complete the copy, the accumulated size increase of copy is ")
            && message.ends_with(", exceeding the limit 3145728"),
        "{message}"
    );
}

#[test]
fn copies_and_moves_that_deepen_an_object_end_at_the_limit() {
    let mut operations = vec![json!({"op": "add", "path": "/a", "value": {}})];
    for _ in 0..200 {
        operations.push(json!({"op": "add", "path": "/b", "value": {}}));
        operations.push(json!({"op": "move", "from": "/a", "path": "/b/a"}));
        operations.push(json!({"op": "move", "from": "/b", "path": "/a"}));
    }
    let error = json_patch::apply(&json!({}), &Value::from(operations)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the patched object is nested more than 127 levels deep; use fewer levels"
    );
}

#[test]
fn operations_that_move_a_long_list_again_and_again_are_refused() {
    let object = json!({"list": vec![0; 300_000]});
    let operation = json!({"op": "add", "path": "/list/0", "value": 1});
    let error = json_patch::apply(&object, &Value::from(vec![operation; MAX_OPERATIONS])).unwrap_err();
    assert_eq!(error, PatchError::TooMuchWork);
    let operation = json!({"op": "move", "from": "/list", "path": "/list"});
    let error = json_patch::apply(&object, &Value::from(vec![operation; MAX_OPERATIONS])).unwrap_err();
    assert_eq!(error, PatchError::TooMuchWork);
}

#[test]
fn as_many_operations_as_allowed_apply_to_a_long_list() {
    let object = json!({"list": vec![0; 1000]});
    let operation = json!({"op": "add", "path": "/list/0", "value": 1});
    let result = json_patch::apply(&object, &Value::from(vec![operation.clone(); MAX_OPERATIONS])).unwrap();
    assert_eq!(result["list"].as_array().unwrap().len(), 11_000);
    let error = json_patch::apply(&object, &Value::from(vec![operation; MAX_OPERATIONS + 1])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
    assert_eq!(error.status(), 413);
}
