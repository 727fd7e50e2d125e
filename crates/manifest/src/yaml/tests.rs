use std::time::Duration;

use proptest::prelude::*;

use super::super::documents::{self, MAX_TEXT_BYTES};
use super::super::error::Segment;
use super::*;

fn read(text: &str) -> (Vec<Rc<Node>>, Vec<Problem>) {
    let (mut nodes, mut problems) = (Vec::new(), Vec::new());
    let mut budget = Budget::default();
    for document in documents::split(text.as_bytes()).unwrap() {
        let (more, found) = parse(&document, &mut budget);
        nodes.extend(more);
        problems.extend(found);
    }
    (nodes, problems)
}

fn one(text: &str) -> Rc<Node> {
    let (nodes, problems) = read(text);
    assert_eq!(problems, []);
    Rc::clone(&nodes[0])
}

fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => number.clone().into(),
        Value::String(text) => text.clone().into(),
        Value::OldBool(word) => format!("?{word}").into(),
        Value::List(elements) => elements.iter().map(|element| json(element)).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|(key, entry)| (key.clone(), json(&entry.value)))
            .collect(),
    }
}

fn problems(text: &str) -> Vec<String> {
    let shown = |problem: &Problem| match problem.location {
        Some(at) => format!("{}:{}: {}", at.line, at.column, problem.message),
        None => problem.message.clone(),
    };
    read(text).1.iter().map(shown).collect()
}

#[test]
fn values_are_read_as_by_kubernetes() {
    let node =
        one("a: 1\nb: [x, 1.5, true, ~, yes, \"yes\", 0644]\nc:\n  d: |\n    two\n    lines\n  e: !!str 5\n1: f\n");
    assert_eq!(
        json(&node),
        serde_json::json!({"a": 1, "b": ["x", 1.5, true, null, "?yes", "yes", 420], "c": {"d": "two\nlines\n", "e": "5"}, "1": "f"})
    );
    assert_eq!(
        json(&one("{\"a\": \"\\ud83d\\ude00\\u00e4\\\\u\\/\",\n\t\"b\": [\n\t\t1]}")),
        serde_json::json!({"a": "😀ä\\u/", "b": [1]})
    );
    assert_eq!(json(&one("a:\r\n  b: 1\r\n")), serde_json::json!({"a": {"b": 1}}));
}

#[test]
fn duplicates_tags_and_odd_keys_are_all_found() {
    assert_eq!(
        problems("a: 1\nb: {x: 1, x: 2}\na: !secret x\nc:\n- {d: 1}\n- {d: 1, d: 2}\n"),
        [
            "2:11: duplicate field \"b.x\", already set on line 2",
            "3:4: a: the YAML tag !secret is not allowed here",
            "3:1: duplicate field \"a\", already set on line 1",
            "6:10: duplicate field \"c[1].d\", already set on line 6",
        ]
    );
    assert_eq!(problems("a: {[1]: 2}\n"), ["1:5: a: keys must be plain strings"]);
    assert_eq!(
        problems("a: {yes: 2}\n"),
        ["1:5: a: keys must be plain strings: write `yes` in quotes"]
    );
    assert_eq!(
        problems("0x10: 2\n"),
        ["1:1: keys must be plain strings: write `0x10` in quotes"]
    );
    assert_eq!(
        problems("a: .inf\n"),
        ["1:4: a: Invalid value: .inf: must be a finite number"]
    );
    assert_eq!(problems("a: !!binary aGk=\nb: !!python/object:os.system x\n").len(), 2);
}

#[test]
fn tabs_get_a_hint_and_hide_no_other_problem() {
    assert_eq!(
        problems("a:\n\tb: 1\n\tc: {d: 1, d: 2}\n"),
        [
            "3:13: duplicate field \"a.d\", already set on line 3"
                .replace("3:13", "3:12")
                .replace("a.d", "a.c.d"),
            "2:1: not valid YAML: tabs are not allowed for indentation, use spaces (also on 1 more line)".to_owned(),
        ]
    );
    // Inside a string, tabs are part of the string.
    assert_eq!(json(&one("a: |\n  \tx\n")), serde_json::json!({"a": "\tx\n"}));
}

#[test]
fn comments_and_strings_may_contain_any_number_of_brackets() {
    let comments = "# - {name: x, value: [a]}  # it's optional\n".repeat(1000);
    let script = "  # usage: foo [-x] {y}, don't\n  awk '{ print\n".repeat(1000);
    let node = one(&format!("{comments}a: |\n{script}b: 1\n"));
    assert_eq!(node.get("a").and_then(Node::as_str).unwrap().lines().count(), 2000);
}

#[test]
fn a_syntax_error_does_not_hide_earlier_problems() {
    assert_eq!(
        problems("a: 1\na: 2\nb: [1\nc: 3\n"),
        [
            "2:1: duplicate field \"a\", already set on line 1",
            "4:2: not valid YAML: illegal placement of ':' indicator",
        ]
    );
}

#[test]
fn json_errors_use_json_terms() {
    assert_eq!(
        problems("{\"a\": 1,\n \"ä\": \"x\" \"b\": 2}\n"),
        ["2:11: not valid JSON: expected `,` or `}`"]
    );
    // This is YAML, although it begins like JSON.
    assert_eq!(
        json(&one("{\"a\": [x, 'y',],}\n")),
        serde_json::json!({"a": ["x", "y"]})
    );
    assert!(problems("{a: [x}\n")[0].contains("not valid YAML"));
}

#[test]
fn templates_that_parse_as_yaml_get_a_hint() {
    assert_eq!(
        problems("a: {{ .Values.a }}\n"),
        ["1:5: a: keys must be plain strings; if this is a template, render it first"]
    );
}

#[test]
fn merge_keys_and_anchors_are_followed() {
    let node = one(
        "base: &base {a: 1, b: 2}\nmore: &more {c: 3}\nx:\n  <<: *base\n  b: 3\nw: {<<: [*base, *more]}\nz: *more\n",
    );
    assert_eq!(
        json(&node),
        serde_json::json!({
            "base": {"a": 1, "b": 2}, "more": {"c": 3}, "x": {"a": 1, "b": 3}, "w": {"a": 1, "b": 2, "c": 3}, "z": {"c": 3}
        })
    );
    assert_eq!(
        problems("a: {<<: 1}\n"),
        ["1:5: a: the merge key << needs a mapping, or a list of mappings"]
    );
    assert_eq!(
        problems("a: &a [*a]\n"),
        ["1:8: not valid YAML: the alias refers to a node that contains it"]
    );
    assert!(
        problems("a: *nothing\n")[0].contains("unknown anchor"),
        "{:?}",
        problems("a: *nothing\n")
    );
}

/// CPU time of this thread: independent of the load on the machine.
fn cpu_time() -> Duration {
    Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}

#[test]
fn alias_bombs_are_refused_quickly() {
    let started = cpu_time();
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = level - 1;
        laughs += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(","));
    }
    assert!(problems(&laughs)[0].contains("after expanding aliases"));
    let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(20_000), "*a,".repeat(20_000));
    assert!(problems(&wide)[0].contains("after expanding aliases"));
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(10_000));
    assert!(problems(&long)[0].contains("after expanding aliases"));
    let merged = format!(
        "a: &a {{{}}}\nb: [{}]\n",
        (0..2000).map(|n| format!("k{n}: 1,")).collect::<String>(),
        "{<<: *a},".repeat(2000)
    );
    assert!(problems(&merged)[0].contains("after expanding aliases"));
    for unit in ["[", "[\n\n", "{a: ", "{a: #}\n", "{\"a]\": ", "[a, "] {
        for depth in [200, 100_000] {
            let found = problems(&unit.repeat(depth));
            let refused = found[0].contains("nested ") || found[0].contains("not valid JSON: EOF");
            assert!(refused, "{depth} {unit:?}: {}", found[0]);
        }
    }
    // A problem every few bytes, each with a long path.
    let duplicates = format!("{}{}", "{a: ".repeat(90), "a,".repeat(150_000));
    let found = problems(&duplicates);
    assert!(found[0].starts_with("1:363: duplicate field"), "{}", found[0]);
    assert!(found[MAX_PROBLEMS - 1].contains("not valid YAML"));
    assert_eq!(found.len(), MAX_PROBLEMS);
    assert!(problems(&"- ".repeat(10_000))[0].contains("levels deep"));
    let indented: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(problems(&indented)[0].contains("levels deep"));
    for unit in [
        "a,",
        "? ",
        "&a ",
        "!a ",
        "- - ",
        "a: ",
        "'",
        "\"",
        "%",
        "---\n",
        "|\n",
        "*a ",
        "x: &a1 *a\n",
        "\t",
        "\\",
        ": ",
        "#\n",
        "? a\n: b\n",
    ] {
        let text = unit.repeat(MAX_TEXT_BYTES / unit.len() / 4);
        let before = cpu_time();
        let _ = read(&text);
        let used = cpu_time().saturating_sub(before);
        assert!(used < Duration::from_secs(20), "{unit:?}: {used:?}");
    }
    let used = cpu_time().saturating_sub(started);
    assert!(used < Duration::from_secs(60), "{used:?}");
}

#[test]
fn fields_are_located_in_the_text() {
    let (nodes, _) = read("kind: Pod\n---\nspec:\n  containers:\n  - name: a\n    image: b\n  - {name: c}\n");
    let spec = FieldPath::default().field("spec");
    let containers = spec.field("containers");
    let at = |path: &FieldPath| {
        let at = nodes[1].locate(path.segments());
        (at.line, at.column)
    };
    assert_eq!(at(&containers), (4, 3));
    assert_eq!(at(&containers.index(0).field("image")), (6, 5));
    assert_eq!(at(&containers.index(0)), (5, 5));
    assert_eq!(at(&containers.index(1).field("name")), (7, 6));
    assert_eq!(at(&containers.index(1)), (7, 5));
    // The innermost value that exists.
    assert_eq!(at(&containers.index(1).field("image")), (7, 5));
    assert_eq!(at(&spec.field("nothing").index(3)), (3, 1));
}

/// The paths of all values in a document.
fn paths(value: &serde_json::Value, path: &FieldPath, all: &mut Vec<FieldPath>) {
    all.push(path.clone());
    match value {
        serde_json::Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                paths(element, &path.index(index), all);
            }
        }
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                paths(value, &path.field(key), all);
            }
        }
        _ => {}
    }
}

fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[a-z:#'\"\\\\ \u{e4}\u{1f600}\n-]{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map("[a-zA-Z./]{1,8}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_with_a_position_inside(text in "[-a-z:{}\\[\\]&*!|>'\"#?,\\t\\n\\r 0-9.~<\u{e4}]{0,80}") {
        let lines = documents::lines(&text).count().max(1);
        for problem in read(&text).1 {
            let at = problem.location.unwrap();
            prop_assert!(at.line >= 1 && at.line <= lines + 1, "{:?} {at:?}", problem.message);
            prop_assert!(at.column >= 1);
        }
    }

    #[test]
    fn json_is_read_and_every_value_has_a_position(value in prop::collection::btree_map("[a-z]{1,4}", any_value(), 1..4)) {
        let value = serde_json::Value::Object(value.into_iter().collect());
        let text = serde_json::to_string_pretty(&value).unwrap();
        let node = one(&text);
        prop_assert_eq!(&json(&node), &value);
        let mut all = Vec::new();
        paths(&value, &FieldPath::default(), &mut all);
        let text: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
        for path in all {
            let at = node.locate(path.segments());
            let found: String = text[at.line - 1][at.column - 1..].iter().collect();
            if let Some(Segment::Field(name)) = path.segments().last() {
                prop_assert!(found.starts_with(&format!("\"{name}\":")), "{path}: {found:?}");
            }
        }
    }
}
