//! Tables of patches whose results follow from the rules.

use serde_json::Value;

use super::schema::schema;
use crate::{PatchError, kinds, merge_patch, strategic};

/// The cases of a table, with their names.
fn cases(table: &str) -> Vec<(String, Value)> {
    let cases: Vec<Value> = serde_yaml::from_str(table).unwrap();
    let name = |case: &Value| case["name"].as_str().unwrap().to_owned();
    cases.into_iter().map(|case| (name(&case), case)).collect()
}

/// Compares an outcome with the `result` or `error` of a case.
fn expect(name: &str, case: &Value, outcome: Result<Value, PatchError>) {
    match (outcome, case.get("error").and_then(Value::as_str)) {
        (Ok(result), None) => assert_eq!(result, case["result"], "{name}: {result}"),
        (Err(error), Some(expected)) => assert_eq!(error.to_string(), expected, "{name}"),
        (outcome, _) => panic!("{name}: {outcome:?}"),
    }
}

#[test]
fn strategic_merge_patches_apply_as_in_apimachinery() {
    for (name, case) in cases(include_str!("strategic_apply.yaml")) {
        let schema = match case.get("kind").and_then(Value::as_str) {
            Some(kind) => kinds::schema_of("v1", kind).unwrap(),
            None => schema(),
        };
        let outcome = strategic::apply(&case["object"], &case["patch"], schema);
        expect(&name, &case, outcome);
    }
}

#[test]
fn differences_become_the_patches_of_apimachinery() {
    for (name, case) in cases(include_str!("strategic_diff.yaml")) {
        let patch = strategic::diff(&case["original"], &case["modified"], schema()).unwrap();
        assert_eq!(patch, case["patch"], "{name}: {patch}");
        let result = strategic::apply(&case["original"], &patch, schema()).unwrap();
        assert_eq!(result, case["modified"], "{name}: {result}");
    }
}

#[test]
fn apply_sends_the_patches_of_kubectl() {
    for (name, case) in cases(include_str!("three_way.yaml")) {
        let applied = strategic::three_way(case.get("last"), &case["modified"], &case["current"], schema()).unwrap();
        assert_eq!(applied.patch, case["patch"], "{name}: {}", applied.patch);
        assert_eq!(applied.result, case["result"], "{name}: {}", applied.result);
    }
}

#[test]
fn conflicts_with_changes_of_others_are_those_of_apimachinery() {
    for (name, case) in cases(include_str!("conflict.yaml")) {
        let (last, current) = (case.get("last"), &case["current"]);
        let patch = match case.get("patch") {
            Some(patch) => patch.clone(),
            None => {
                strategic::three_way(last, &case["modified"], current, schema())
                    .unwrap()
                    .patch
            }
        };
        let changes = strategic::conflict(last, current, &patch, schema()).unwrap();
        assert_eq!(changes.as_ref(), case.get("changes"), "{name}: {changes:?}");
    }
}

#[test]
fn merge_patches_apply_as_in_rfc_7386() {
    for (name, case) in cases(include_str!("merge_patch.yaml")) {
        let outcome = merge_patch::apply(&case["object"], &case["patch"]);
        expect(&name, &case, outcome);
    }
}

#[test]
fn merge_patches_of_objects_are_maps() {
    let decoding = |received: &str| {
        format!(
            "error decoding patch: json: cannot unmarshal {received} into Go value of type map[string]interface {{}}"
        )
    };
    for (patch, expected) in [
        (serde_json::json!({}), None),
        (Value::Null, Some("Invalid JSON Patch".to_owned())),
        (serde_json::json!([{}]), Some(decoding("array"))),
        (serde_json::json!("a"), Some(decoding("string"))),
        (serde_json::json!(1), Some(decoding("number"))),
        (serde_json::json!(true), Some(decoding("bool"))),
    ] {
        let error = merge_patch::check_is_map(&patch).err();
        assert!(error.iter().all(|error| error.status() == 400), "{patch}");
        assert_eq!(error.map(|error| error.to_string()), expected, "{patch}");
    }
}

#[test]
fn apply_without_a_schema_sends_a_merge_patch() {
    for (name, case) in cases(include_str!("merge_three_way.yaml")) {
        let applied = merge_patch::three_way(case.get("last"), &case["modified"], &case["current"]);
        match applied {
            Ok(applied) => {
                assert_eq!(applied.patch, case["patch"], "{name}: {}", applied.patch);
                assert_eq!(applied.result, case["result"], "{name}: {}", applied.result);
            }
            Err(error) => expect(&name, &case, Err(error)),
        }
    }
}

#[test]
fn errors_of_secrets_do_not_show_their_values() {
    let secret = kinds::schema_of("v1", "Secret").unwrap();
    let patch = serde_json::json!({"data": {"$patch": "x", "password": "c2VjcmV0"}});
    let object = serde_json::json!({"data": {"password": "b2xk"}});
    assert_eq!(
        strategic::apply(&object, &patch, secret).unwrap_err().to_string(),
        "unknown patch type: x in map: map[$patch:… password:…]"
    );
}
