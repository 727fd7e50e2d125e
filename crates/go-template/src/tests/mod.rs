//! Templates against kubectl's output, and bounds.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{MAX_TEMPLATE_BYTES, Template, go_text};

/// What kubectl 1.36 prints for templates and an object. Two messages differ: the maximum depth is microkube's, and
/// kubectl's message for the index after a list's last one depends on the list's capacity.
const KUBECTL: &str = include_str!("kubectl.json");

/// What a template prints, what is wrong with it, and why it fails.
fn outcome(template: &str, object: &Value, allows_missing: bool) -> (Option<String>, Option<String>, Option<String>) {
    match Template::parse(template) {
        Err(error) => (None, Some(error.to_string()), None),
        Ok(template) => match template.render(object, allows_missing) {
            Ok(text) => (Some(text), None, None),
            Err(error) => (Some(error.output().to_owned()), None, Some(error.to_string())),
        },
    }
}

#[test]
fn templates_print_and_fail_as_in_kubectl() {
    let data: Value = serde_json::from_str(KUBECTL).unwrap();
    let mut differences = Vec::new();
    for case in data["cases"].as_array().unwrap() {
        let text = |key: &str| case.get(key).and_then(Value::as_str).map(str::to_owned);
        let template = text("template").unwrap();
        let expected = (text("prints"), text("refused"), text("fails"));
        let found = outcome(&template, &data["object"], case.get("strict").is_none());
        if found != expected {
            differences.push(format!("{template}\n  expected: {expected:?}\n  found:    {found:?}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{}\n{} differ",
        differences.join("\n"),
        differences.len()
    );
}

/// The value with the same keys, but one string everywhere.
fn with_strings(value: &Value, string: &str) -> Value {
    match value {
        Value::String(_) => json!(string),
        Value::Array(list) => list.iter().map(|item| with_strings(item, string)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, item)| (key.clone(), with_strings(item, string)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

#[test]
fn messages_about_secret_values_do_not_contain_them() {
    let data: Value = serde_json::from_str(KUBECTL).unwrap();
    let object = with_strings(&data["object"], "S3CR3T");
    let (mut failed, mut otherwise_shown) = (0, 0);
    for case in data["cases"].as_array().unwrap() {
        let Ok(template) = Template::parse(case["template"].as_str().unwrap()) else {
            continue;
        };
        if let Err(error) = template.render_secret(&object, case.get("strict").is_none()) {
            assert!(!error.to_string().contains("S3CR3T"), "{error}");
            failed += 1;
            let shown = template.render(&object, case.get("strict").is_none());
            otherwise_shown += usize::from(shown.unwrap_err().to_string().contains("S3CR3T"));
        }
    }
    assert!(
        failed > 50 && otherwise_shown > 0,
        "{failed} failed, {otherwise_shown} show values"
    );
}

#[test]
fn values_are_shown_as_in_gos_fmt() {
    let value = json!({ "b": [1, 2.5, null, "x"], "a": { "k": true }, "c": 1e21 });
    assert_eq!(go_text(&value), "map[a:map[k:true] b:[1 2.5 <nil> x] c:1e+21]");
}

#[test]
fn templates_are_bounded() {
    let object = json!({ "list": [1, 2, 3] });
    let fails = |template: &str, part: &str| {
        let (_, refused, failed) = outcome(template, &object, true);
        let message = refused.or(failed).unwrap_or_default();
        assert!(message.contains(part), "{template:.80}: {message:.300}");
    };
    fails(&"x".repeat(MAX_TEMPLATE_BYTES + 1), "larger than 65536 bytes");
    fails(
        &format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000)),
        "more than 100 levels deep",
    );
    fails(&"{{if true}}".repeat(5000), "more than 100 levels deep");
    fails(&"{{if true}}a{{else ".repeat(3000), "unexpected");
    fails(
        &format!("{{{{if 0}}}}{}{{{{end}}}}", "{{else if 0}}".repeat(3000)),
        "levels deep",
    );
    fails("{{range 1000000000}}{{end}}", "more than 10000000 steps");
    fails(
        r#"{{define "a"}}{{template "a"}}{{end}}{{template "a"}}"#,
        "maximum template depth",
    );
    let nested = format!(
        "{}{{{{template \"a\"}}}}{}",
        "{{if true}}".repeat(90),
        "{{end}}".repeat(90)
    );
    fails(
        &format!("{{{{define \"a\"}}}}{nested}{{{{end}}}}{{{{template \"a\"}}}}"),
        "maximum template depth",
    );
    fails(r#"{{range 100}}{{printf "%1000000d" 1}}{{end}}"#, "bytes");
    fails(r#"{{$x := "aaaa"}}{{range 40}}{{$x = print $x $x}}{{end}}"#, "bytes");
}

#[test]
fn a_deep_recursion_fits_in_a_small_stack() {
    let body = format!(
        "{{{{define \"a\"}}}}{}{{{{template \"a\" {}1{}}}}}{}{{{{end}}}}{{{{template \"a\"}}}}",
        "{{with 1}}".repeat(40),
        "(print ".repeat(40),
        ")".repeat(40),
        "{{end}}".repeat(40)
    );
    let run = move || outcome(&body, &Value::Null, true);
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap();
    let (_, _, failed) = thread.join().unwrap();
    assert!(failed.unwrap().contains("maximum template depth"));
}

/// Text from pieces of templates.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{{",
        "}}",
        "{{- ",
        " -}}",
        " ",
        "\n",
        ".",
        "..",
        ".a",
        ".list",
        ".n",
        "$",
        "$x",
        ":=",
        "=",
        "|",
        "(",
        ")",
        ",",
        "\"a\"",
        "\"",
        "`",
        "'a'",
        "1",
        "-1",
        "2.5",
        "0x",
        "1e9",
        "nil",
        "true",
        "if ",
        "else",
        "end",
        "{{end}}",
        "{{else}}",
        "range ",
        "with ",
        "define \"a\"",
        "template \"a\" ",
        "block \"b\" .",
        "break",
        "continue",
        "/*",
        "*/",
        "print ",
        "printf ",
        "\"%5.2[1]*v%d\"",
        "index ",
        "slice ",
        "len ",
        "eq ",
        "lt ",
        "and ",
        "or ",
        "not ",
        "html ",
        "js ",
        "urlquery ",
        "exists ",
        "base64decode ",
        "call ",
        "é",
        "\u{200b}",
        "@",
        "\\",
    ]);
    prop::collection::vec(piece, 0..25).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_template_panics(template in prop_oneof![pieces(), any::<String>(), pieces().prop_map(|p| format!("{{{{{p}}}}}"))]) {
        let object = json!({ "a": { "a": "é" }, "list": [1, "x", null, [2]], "n": 3 });
        outcome(&template, &object, true);
        outcome(&template, &object, false);
    }

    #[test]
    fn no_format_panics(format in "(%[-+# 0]{0,3}(\\[[0-9x]{0,2}\\])?[0-9*]{0,3}(\\.[0-9*]{0,5})?[a-zA-Z%é]){1,4}") {
        let template = format!("{{{{printf {format:?} .a .list -5 2.5 \"é\" nil true}}}}");
        outcome(&template, &json!({ "a": { "a": "é" }, "list": [1, "x", null, [2]] }), true);
    }
}
