use serde_json::{Value, json};

use super::apply;

/// Compares an outcome with an object, or with the message of an error.
fn check(object: Value, patch: Value, expected: Result<Value, &str>) {
    let outcome = apply(&object, &patch).map_err(|error| error.to_string());
    assert_eq!(outcome, expected.map_err(str::to_owned), "{patch}");
}

#[test]
fn operations_apply_as_in_rfc_6902() {
    for (object, operation, result) in [
        // Appendix A.
        (
            json!({"foo": "bar"}),
            json!({"op": "add", "path": "/baz", "value": "qux"}),
            json!({"baz": "qux", "foo": "bar"}),
        ),
        (
            json!({"foo": ["bar", "baz"]}),
            json!({"op": "add", "path": "/foo/1", "value": "qux"}),
            json!({"foo": ["bar", "qux", "baz"]}),
        ),
        (
            json!({"baz": "qux", "foo": "bar"}),
            json!({"op": "remove", "path": "/baz"}),
            json!({"foo": "bar"}),
        ),
        (
            json!({"foo": ["bar", "qux", "baz"]}),
            json!({"op": "remove", "path": "/foo/1"}),
            json!({"foo": ["bar", "baz"]}),
        ),
        (
            json!({"baz": "qux", "foo": "bar"}),
            json!({"op": "replace", "path": "/baz", "value": "boo"}),
            json!({"baz": "boo", "foo": "bar"}),
        ),
        (
            json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
            json!({"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}),
            json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
        ),
        (
            json!({"foo": ["all", "grass", "cows", "eat"]}),
            json!({"op": "move", "from": "/foo/1", "path": "/foo/3"}),
            json!({"foo": ["all", "cows", "eat", "grass"]}),
        ),
        (
            json!({"foo": "bar"}),
            json!({"op": "add", "path": "/child", "value": {"grandchild": {}}}),
            json!({"foo": "bar", "child": {"grandchild": {}}}),
        ),
        (
            json!({"foo": "bar"}),
            json!({"op": "add", "path": "/baz", "value": "qux", "xyz": 123}),
            json!({"foo": "bar", "baz": "qux"}),
        ),
        (
            json!({"/": 9, "~1": 10}),
            json!({"op": "test", "path": "/~01", "value": 10}),
            json!({"/": 9, "~1": 10}),
        ),
        (
            json!({"foo": ["bar"]}),
            json!({"op": "add", "path": "/foo/-", "value": ["abc", "def"]}),
            json!({"foo": ["bar", ["abc", "def"]]}),
        ),
        // Sections 4.1 to 4.6.
        (
            json!({"a": 1}),
            json!({"op": "add", "path": "/a", "value": 2}),
            json!({"a": 2}),
        ),
        (
            json!({"a": [1]}),
            json!({"op": "add", "path": "/a/1", "value": 2}),
            json!({"a": [1, 2]}),
        ),
        (
            json!({"a": [1, 2]}),
            json!({"op": "replace", "path": "/a/0", "value": null}),
            json!({"a": [null, 2]}),
        ),
        (
            json!({"a": {"b": 1}}),
            json!({"op": "copy", "from": "/a", "path": "/c"}),
            json!({"a": {"b": 1}, "c": {"b": 1}}),
        ),
        (
            json!({"a": {"b": 1}}),
            json!({"op": "copy", "from": "/a", "path": "/a/c"}),
            json!({"a": {"b": 1, "c": {"b": 1}}}),
        ),
        (
            json!({"a": {"b": [1, "x"]}}),
            json!({"op": "test", "path": "/a", "value": {"b": [1, "x"]}}),
            json!({"a": {"b": [1, "x"]}}),
        ),
        (
            json!({"": {"x/y": 1}}),
            json!({"op": "remove", "path": "//x~1y"}),
            json!({"": {}}),
        ),
        (
            json!({"a": 1}),
            json!({"op": "replace", "path": "", "value": {"b": 2}}),
            json!({"b": 2}),
        ),
        (
            json!({"a": 1}),
            json!({"op": "test", "path": "", "value": {"a": 1}}),
            json!({"a": 1}),
        ),
        // The API server.
        (
            json!({"a": [1, 2]}),
            json!({"op": "remove", "path": "/a/-1"}),
            json!({"a": [1]}),
        ),
        (
            json!({"a": [1, 2]}),
            json!({"op": "add", "path": "/a/-1", "value": 3}),
            json!({"a": [1, 2, 3]}),
        ),
        (
            json!({"a": [1, 2]}),
            json!({"op": "add", "path": "/a/-3", "value": 3}),
            json!({"a": [3, 1, 2]}),
        ),
        (
            json!({}),
            json!({"op": "replace", "path": "/a", "value": 1}),
            json!({"a": 1}),
        ),
        (json!({}), json!({"op": "test", "path": "/a", "value": null}), json!({})),
        (
            json!({"a": null}),
            json!({"op": "test", "path": "/a"}),
            json!({"a": null}),
        ),
        (
            json!({}),
            json!({"op": "copy", "from": "/a", "path": "/b"}),
            json!({"b": null}),
        ),
        (json!({}), json!({"op": "add", "path": "/a"}), json!({"a": null})),
    ] {
        check(object, json!([operation]), Ok(result));
    }
}

#[test]
fn operations_that_do_not_apply_are_refused_in_the_words_of_the_api_server() {
    let object = json!({"a": {"b": 1}, "list": [1, 2], "scalar": "x", "null": null});
    for (operation, message) in [
        (
            json!({"op": "add", "path": "/x/y", "value": 1}),
            r#"add operation does not apply: doc is missing path: "/x/y": missing value"#,
        ),
        (
            json!({"op": "add", "path": "/scalar/y", "value": 1}),
            r#"add operation does not apply: doc is missing path: "/scalar/y": missing value"#,
        ),
        (
            json!({"op": "add", "path": "/null/y", "value": 1}),
            r#"add operation does not apply: doc is missing path: "/null/y": missing value"#,
        ),
        (
            json!({"op": "add", "path": "", "value": {}}),
            r#"add operation does not apply: doc is missing path: "": missing value"#,
        ),
        (
            json!({"op": "add", "path": "a", "value": {}}),
            r#"add operation does not apply: doc is missing path: "a": missing value"#,
        ),
        (
            json!({"op": "add", "path": "a/b", "value": {}}),
            r#"add operation does not apply: doc is missing path: "a/b": missing value"#,
        ),
        (
            json!({"op": "add", "value": {}}),
            "add operation failed to decode path: missing value",
        ),
        (
            json!({"op": "add", "path": "/list/3", "value": 1}),
            "error in add for path: '/list/3': Unable to access invalid index: 3: invalid index referenced",
        ),
        (
            json!({"op": "add", "path": "/list/-4", "value": 1}),
            "error in add for path: '/list/-4': Unable to access invalid index: -4: invalid index referenced",
        ),
        (
            json!({"op": "add", "path": "/list/x", "value": 1}),
            r#"error in add for path: '/list/x': value was not a proper array index: 'x': strconv.Atoi: parsing "x": invalid syntax"#,
        ),
        (
            json!({"op": "remove", "path": "/x"}),
            "error in remove for path: '/x': Unable to remove nonexistent key: x: missing value",
        ),
        (
            json!({"op": "remove", "path": "/x/y"}),
            r#"remove operation does not apply: doc is missing path: "/x/y": missing value"#,
        ),
        (
            json!({"op": "remove", "path": "/list/2"}),
            "error in remove for path: '/list/2': Unable to access invalid index: 2: invalid index referenced",
        ),
        (
            json!({"op": "remove", "path": "/list/-"}),
            r#"error in remove for path: '/list/-': strconv.Atoi: parsing "-": invalid syntax"#,
        ),
        (
            json!({"op": "remove", "path": "/list/99999999999999999999"}),
            r#"error in remove for path: '/list/99999999999999999999': strconv.Atoi: parsing "99999999999999999999": value out of range"#,
        ),
        (
            json!({"op": "remove", "path": 1}),
            "remove operation failed to decode path: missing value",
        ),
        (
            json!({"op": "replace", "path": "/x/y", "value": 1}),
            "replace operation does not apply: doc is missing path: /x/y: missing value",
        ),
        (
            json!({"op": "replace", "path": "/list/2", "value": 1}),
            "replace operation does not apply: doc is missing key: /list/2: missing value",
        ),
        (
            json!({"op": "replace", "value": 1}),
            "replace operation failed to decode path: operation missing path field: missing value",
        ),
        (
            json!({"op": "replace", "path": {}, "value": 1}),
            "replace operation failed to decode path: json: cannot unmarshal object into Go value of type string",
        ),
        (
            json!({"op": "replace", "path": "", "value": 1}),
            "replace operation value must be object or array",
        ),
        (
            json!({"op": "move", "from": "/x", "path": "/y"}),
            "error in move for path: 'x': Unable to remove nonexistent key: x: missing value",
        ),
        (
            json!({"op": "move", "from": "/x/y", "path": "/y"}),
            "move operation does not apply: doc is missing from path: /x/y: missing value",
        ),
        (
            json!({"op": "move", "from": "/a", "path": "/a/c"}),
            "move operation does not apply: doc is missing destination path: /a/c: missing value",
        ),
        (
            json!({"op": "move", "from": "/a", "path": "/list/9"}),
            "error in move for path: '/list/9': Unable to access invalid index: 9: invalid index referenced",
        ),
        (
            json!({"op": "move", "path": "/a"}),
            "move operation failed to decode from: operation, missing from field: missing value",
        ),
        (
            json!({"op": "move", "from": "/a"}),
            "move operation failed to decode path: operation missing path field: missing value",
        ),
        (
            json!({"op": "copy", "from": "/x/y", "path": "/y"}),
            "copy operation does not apply: doc is missing from path: /x/y: missing value",
        ),
        (
            json!({"op": "copy", "from": "/list/9", "path": "/y"}),
            "error in copy for from: '/list/9': Unable to access invalid index: 9: invalid index referenced",
        ),
        (
            json!({"op": "copy", "from": "/a", "path": "/x/y"}),
            "copy operation does not apply: doc is missing destination path: /x/y: missing value",
        ),
        (
            json!({"op": "copy", "from": "/a", "path": "/list/9"}),
            "error while adding value during copy: Unable to access invalid index: 9: invalid index referenced",
        ),
        (
            json!({"op": "test", "path": "/a/b", "value": 2}),
            "testing value /a/b failed: test failed",
        ),
        (
            json!({"op": "test", "path": "/a/b"}),
            "testing value /a/b failed: test failed",
        ),
        (
            json!({"op": "test", "path": "/a/x", "value": 2}),
            "testing value /a/x failed: test failed",
        ),
        (
            json!({"op": "test", "path": "/list", "value": [2, 1]}),
            "testing value /list failed: test failed",
        ),
        (
            json!({"op": "test", "path": "", "value": {}}),
            "testing value  failed: test failed",
        ),
        (
            json!({"op": "test", "path": "/x/y", "value": 1}),
            "test operation does not apply: is missing path: /x/y: missing value",
        ),
        (
            json!({"op": "test", "path": "/list/5", "value": 1}),
            "error in test for path: '/list/5': Unable to access invalid index: 5: invalid index referenced",
        ),
        (json!({"op": "spin", "path": "/a"}), "Unexpected kind: spin"),
        (json!({"path": "/a"}), "Unexpected kind: unknown"),
    ] {
        check(object.clone(), json!([operation]), Err(message));
    }
}

#[test]
fn operations_apply_in_their_order_and_all_or_none() {
    let object = json!({"a": 1});
    let add = json!({"op": "add", "path": "/b", "value": [1]});
    let test = json!({"op": "test", "path": "/b/0", "value": 1});
    let fail = json!({"op": "remove", "path": "/c"});
    check(object.clone(), json!([]), Ok(object.clone()));
    check(object.clone(), json!([add, test]), Ok(json!({"a": 1, "b": [1]})));
    check(
        object.clone(),
        json!([add, fail]),
        Err("error in remove for path: '/c': Unable to remove nonexistent key: c: missing value"),
    );
    assert_eq!(object, json!({"a": 1}));
}

#[test]
fn a_patch_is_a_list_of_maps() {
    for patch in [json!({"op": "add"}), json!([1]), json!("x"), json!(null)] {
        let error = apply(&json!({}), &patch).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.status()),
            (
                "error decoding patch: a JSON patch is a list of operations, each an object",
                400
            )
        );
    }
}

#[test]
fn failing_operations_are_unprocessable() {
    let error = apply(&json!({}), &json!([{"op": "test", "path": "/a", "value": 1}])).unwrap_err();
    assert_eq!(error.status(), 422);
}
