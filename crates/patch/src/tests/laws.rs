//! Laws of patches on random objects.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::schema::schema;
use crate::{MAX_DEPTH, json_patch, kinds, merge_patch, strategic};

/// Unique names in any order.
fn names() -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(vec!["a", "b", "c", "d", "e", "f"], 0..=6).prop_shuffle()
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..3).prop_map(Value::from),
        "[x-z]{0,2}".prop_map(Value::from),
        any::<bool>().prop_map(Value::from)
    ]
}

/// A map whose fields are there or not.
fn map(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| prop::option::of(value).prop_map(move |value| Some((name.to_owned(), value?))))
        .collect();
    fields
        .prop_map(|fields| Value::Object(fields.into_iter().flatten().collect()))
        .boxed()
}

/// A list of maps with unique names.
fn named(item: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    (names(), prop::collection::vec(item, 6))
        .prop_map(|(names, items)| {
            let items = names.into_iter().zip(items).map(|(name, mut item)| {
                item["name"] = Value::from(name);
                item
            });
            Value::Array(items.collect())
        })
        .boxed()
}

/// An object that fits the schema of the tests.
fn object() -> BoxedStrategy<Value> {
    let tags = || names().prop_map(Value::from).boxed();
    let plain = || map(vec![("x", scalar().boxed()), ("y", map(vec![("z", scalar().boxed())]))]);
    let item = map(vec![
        ("x", scalar().boxed()),
        ("tags", tags()),
        ("items", named(plain())),
    ]);
    map(vec![
        ("a", scalar().boxed()),
        ("items", named(item)),
        (
            "list",
            prop::collection::vec(scalar(), 0..3).prop_map(Value::from).boxed(),
        ),
        ("map", plain()),
        ("tags", tags()),
        (
            "union",
            map(vec![("tags", tags()), ("x", scalar().boxed()), ("y", plain())]),
        ),
        ("unions", named(plain())),
        ("whole", plain()),
    ])
}

/// Any value, often with the names of directives and of fields in the schema.
fn anything() -> BoxedStrategy<Value> {
    let name = prop::sample::select(vec![
        "$deleteFromPrimitiveList/tags",
        "$patch",
        "$retainKeys",
        "$setElementOrder/items",
        "$setElementOrder/list",
        "$setElementOrder/tags",
        "items",
        "list",
        "name",
        "tags",
        "union",
        "unions",
    ]);
    let scalar = prop_oneof![
        Just(Value::Null),
        (-2..2).prop_map(Value::from),
        Just(json!(1.5)),
        prop::sample::select(vec!["", "a", "delete", "items", "merge", "replace", "tags"]).prop_map(Value::from),
    ];
    scalar
        .prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                3 => prop::collection::hash_map(name.clone(), inner, 0..5).prop_map(|fields| {
                    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
                }),
            ]
        })
        .boxed()
}

fn operations() -> impl Strategy<Value = Value> {
    let pointer = || {
        let part = prop::sample::select(vec!["-", "-1", "0", "1", "items", "name", "tags", "x~1y", ""]);
        prop::collection::vec(part, 0..4)
            .prop_map(|parts| parts.into_iter().map(|part| format!("/{part}")).collect::<String>())
    };
    let kind = prop::sample::select(vec!["add", "copy", "move", "remove", "replace", "test"]);
    let operation = (kind, pointer(), pointer(), anything())
        .prop_map(|(kind, path, from, value)| json!({"op": kind, "path": path, "from": from, "value": value}));
    prop::collection::vec(operation, 0..8).prop_map(Value::from)
}

/// Whether a patch changes nothing: it only orders lists and repeats what identifies their items.
fn only_orders(patch: &Value) -> bool {
    match patch {
        Value::Object(fields) => fields.iter().all(|(name, value)| {
            name.starts_with("$setElementOrder") || name == "$retainKeys" || name == "name" || only_orders(value)
        }),
        Value::Array(items) => items.iter().all(|item| item.is_object() && only_orders(item)),
        _ => false,
    }
}

/// Whether no map has a `null`. Lists may have one.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        scalar => scalar.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_difference_turns_the_original_into_the_modified_object(original in object(), modified in object()) {
        let patch = strategic::diff(&original, &modified, schema()).unwrap();
        prop_assert_eq!(strategic::apply(&original, &patch, schema()).unwrap(), modified.clone(), "{}", patch);
        prop_assert_eq!(strategic::diff(&modified, &modified, schema()).unwrap(), json!({}));
    }

    #[test]
    fn apply_turns_what_was_applied_into_the_configuration(last in object(), modified in object()) {
        let applied = strategic::three_way(Some(&last), &modified, &last, schema()).unwrap();
        prop_assert_eq!(&applied.result, &modified, "{}", applied.patch);
        let again = strategic::three_way(Some(&modified), &modified, &applied.result, schema()).unwrap();
        prop_assert_eq!(again.patch, json!({}));
    }

    #[test]
    fn apply_is_idempotent(last in prop::option::of(object()), modified in object(), current in object()) {
        let applied = strategic::three_way(last.as_ref(), &modified, &current, schema()).unwrap();
        let again = strategic::three_way(Some(&modified), &modified, &applied.result, schema()).unwrap();
        prop_assert!(only_orders(&again.patch), "{}", again.patch);
        prop_assert_eq!(again.result, applied.result);
    }

    #[test]
    fn the_order_of_a_patch_is_kept(list in names(), order in names()) {
        let items = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Value>();
        let object = json!({"items": items(&list), "tags": list});
        let patch = json!({"$setElementOrder/items": items(&order), "$setElementOrder/tags": order});
        let result = strategic::apply(&object, &patch, schema()).unwrap();
        let result: Vec<&str> = result["tags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        prop_assert_eq!(&result.iter().map(|name| json!({"name": name})).collect::<Value>(), &strategic::apply(&object, &patch, schema()).unwrap()["items"]);
        let ordered = |name: &&str| order.contains(name);
        let in_order: Vec<&str> = result.iter().copied().filter(ordered).collect();
        prop_assert_eq!(in_order, order.iter().copied().filter(|name| list.contains(name)).collect::<Vec<_>>());
        let others: Vec<&str> = result.iter().copied().filter(|name| !ordered(name)).collect();
        prop_assert_eq!(others, list.iter().copied().filter(|name| !ordered(name)).collect::<Vec<_>>());
    }

    #[test]
    fn merge_patches_follow_the_laws_of_rfc_7386(object in anything(), patch in anything(), other in anything()) {
        let once = merge_patch::apply(&object, &patch).unwrap();
        prop_assert_eq!(&merge_patch::apply(&once, &patch).unwrap(), &once);
        if !patch.is_object() {
            prop_assert_eq!(&once, &patch);
        }
        let empty = merge_patch::apply(&object, &json!({})).unwrap();
        prop_assert_eq!(empty, if object.is_object() { object.clone() } else { json!({}) });
        if let (Value::Object(_), Value::Object(_)) = (&object, &other) {
            let modified = without_nulls(&other);
            let difference = merge_patch::diff(&object, &modified).unwrap();
            prop_assert_eq!(merge_patch::apply(&object, &difference).unwrap(), modified);
        }
    }

    #[test]
    fn apply_without_a_schema_is_idempotent(last in object(), modified in object(), current in object()) {
        let applied = merge_patch::three_way(Some(&last), &modified, &current).unwrap();
        let again = merge_patch::three_way(Some(&modified), &modified, &applied.result).unwrap();
        prop_assert_eq!(again.patch, json!({}));
        prop_assert_eq!(again.result, applied.result);
        let applied = merge_patch::three_way(Some(&last), &modified, &last).unwrap();
        prop_assert_eq!(applied.result, modified);
    }

    #[test]
    fn an_added_value_is_there_and_can_be_removed(object in object(), value in anything()) {
        let add = json!({"op": "add", "path": "/new", "value": value});
        let test = json!({"op": "test", "path": "/new", "value": value});
        let remove = json!({"op": "remove", "path": "/new"});
        prop_assert_eq!(json_patch::apply(&object, &json!([add, test, remove])).unwrap(), object);
    }

    #[test]
    fn an_operation_and_its_reverse_change_nothing(mut object in object(), list in names(), from: prop::sample::Index, to: prop::sample::Index) {
        prop_assume!(!list.is_empty());
        let (from, to) = (from.index(list.len()), to.index(list.len()));
        object["list"] = Value::from(list);
        let (from, to) = (format!("/list/{from}"), format!("/list/{to}"));
        let patch = json!([{"op": "move", "from": from, "path": to}, {"op": "move", "from": to, "path": from}]);
        prop_assert_eq!(json_patch::apply(&object, &patch).unwrap(), object);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_patch_of_any_object_is_applied_or_refused(object in anything(), patch in anything(), operations in operations()) {
        let pod = kinds::schema_of("v1", "Pod").unwrap();
        for schema in [schema(), pod] {
            let _ = strategic::apply(&object, &patch, schema);
            let _ = strategic::diff(&object, &patch, schema);
            let _ = strategic::three_way(Some(&patch), &object, &patch, schema);
            let _ = strategic::three_way(None, &object, &patch, schema);
        }
        let _ = merge_patch::three_way(Some(&patch), &object, &patch);
        let _ = json_patch::apply(&object, &patch);
        if let Ok(result) = json_patch::apply(&object, &operations) {
            let text = result.to_string();
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), result);
        }
    }

    #[test]
    fn a_patch_leaves_no_directives_in_what_it_merges(object in object(), patch in anything()) {
        // Lists that are replaced keep their elements as they are.
        fn has_directive(value: &Value) -> bool {
            match value {
                Value::Object(fields) => fields
                    .iter()
                    .any(|(name, value)| name.starts_with('$') || (name != "list" && name != "whole" && has_directive(value))),
                Value::Array(items) => items.iter().any(has_directive),
                _ => false,
            }
        }
        let known = |name: &str| !matches!(name, "name");
        let patch: Map<String, Value> = match patch {
            Value::Object(fields) => fields.into_iter().filter(|(name, _)| known(name)).collect(),
            _ => Map::new(),
        };
        if let Ok(result) = strategic::apply(&object, &Value::Object(patch), schema()) {
            prop_assert!(!has_directive(&result), "{}", result);
        }
    }
}

#[test]
fn nested_patches_of_the_deepest_objects_apply() {
    let nested = |leaf: Value, levels: usize| (0..levels).fold(leaf, |value, _| json!({"map": value}));
    let object = nested(json!({"a": 1}), MAX_DEPTH - 1);
    let patch = nested(json!({"b": 2}), MAX_DEPTH - 1);
    let merged = nested(json!({"a": 1, "b": 2}), MAX_DEPTH - 1);
    assert_eq!(strategic::apply(&object, &patch, schema()).unwrap(), merged);
    assert_eq!(merge_patch::apply(&object, &patch).unwrap(), merged);
    assert_eq!(strategic::diff(&object, &merged, schema()).unwrap(), patch);
    let applied = strategic::three_way(None, &merged, &object, schema()).unwrap();
    assert_eq!((applied.patch, applied.result), (patch, merged));
}
