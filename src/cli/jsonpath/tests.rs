use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pods() -> Value {
    json!({
        "kind": "List",
        "items": [
            { "metadata": { "name": "a", "labels": { "app.kubernetes.io/name": "x" } }, "status": { "phase": "Running", "n": 1 }, "ok": true },
            { "metadata": { "name": "b" }, "status": { "phase": "Pending", "n": 20 }, "ports": [80, 443, 8080] },
            { "metadata": { "name": "c" }, "status": { "phase": "Running", "n": 3.5 } },
        ],
    })
}

fn render(template: &str) -> String {
    Template::parse(template).unwrap().render(&pods()).unwrap()
}

#[test]
fn templates_are_filled_in_as_kubectl_does() {
    for (template, expected) in [
        ("{.kind}", "List"),
        ("kind is {.kind}.", "kind is List."),
        ("{.items[*].metadata.name}", "a b c"),
        ("{.items..name}", "a b c"),
        ("{$.items[0].metadata.name}", "a"),
        ("{@.items[-1].metadata.name}", "c"),
        ("{.items[0:2].metadata.name}", "a b"),
        ("{.items[:-1].metadata.name}", "a b"),
        ("{.items[-2:].metadata.name}", "b c"),
        ("{.items[::2].metadata.name}", "a c"),
        ("{.items[0,2].metadata.name}", "a c"),
        ("{.items[0]['kind','ok']}", "true"),
        (
            "{.items[0].metadata['name','labels']}",
            "a {\"app.kubernetes.io/name\":\"x\"}",
        ),
        ("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "x"),
        ("{.items[0].metadata.labels['app\\.kubernetes\\.io/name']}", "x"),
        // Without backslashes the dots separate steps.
        ("{.items[0].metadata.labels['app.kubernetes.io/name']}", ""),
        ("{['items'][0]['metadata.name']}", "a"),
        ("{.items[0]['metadata']['name']}", "a"),
        ("{.items[0]['metadata.*']}", "{\"app.kubernetes.io/name\":\"x\"} a"),
        // All values of one path come before those of the next.
        (
            "{.items[*]['metadata.name', 'status.phase']}",
            "a b c Running Pending Running",
        ),
        ("{['kind','items[0].metadata.name' ,'items..n']}", "List a 1 20 3.5"),
        ("{.items[0,-1,1:3].metadata.name}", "a c b c"),
        ("{.items[].metadata.name}", "a"),
        ("{.items[1].ports[5:5]}", ""),
        (
            "{range .items[*]}{.metadata.name}{\"\\t\"}{.status.phase}{\"\\n\"}{end}",
            "a\tRunning\nb\tPending\nc\tRunning\n",
        ),
        ("{range .items[*]}{range .ports[*]}<{@}>{end}{end}", "<80><443><8080>"),
        ("{.items[?(@.status.phase==\"Running\")].metadata.name}", "a c"),
        ("{.items[?(@.status.phase!='Running')].metadata.name}", "b"),
        ("{.items[?(@.status.n>3)].metadata.name}", "b c"),
        ("{.items[?(@.status.n <= 3.5)].metadata.name}", "a c"),
        ("{.items[?(@.ok==true)].metadata.name}", "a"),
        ("{.items[?(@.ports)].metadata.name}", "b"),
        ("{.items[1].ports}", "[80,443,8080]"),
        ("{.items[1].status}", "{\"n\":20,\"phase\":\"Pending\"}"),
        ("{.items[?(@.ports[0]==80)].metadata.name}", "b"),
        ("{.none.of[3].these}", ""),
        ("{.kind} {.kind}", "List List"),
        ("{ .items [0] .metadata .name }", "a"),
        ("{.kind .kind}", ""),
        ("{.kind \"text\"}", "text"),
        ("{.items[*] 3}", "3 3 3"),
        ("{\"a\\u0041\\x42\\t\"}{1}{-2.5}{true}", "aAB\t1-2.5true"),
        ("{'it\\'s'} {\"a\\\"b\"} {\"{[(}\"}", "it's a\"b {[(}"),
        // A dollar sign is the current value, in ranges too.
        ("{range .items[*]}{$.metadata.name}{@.ok}{end}", "atruebc"),
        ("{range .items[?(@.ports)].ports[::2]}{@},{end}{.kind}", "80,8080,List"),
        ("{range .none[*]}never{end}{.kind}", "List"),
        (
            "{.items[1]..}",
            "{\"metadata\":{\"name\":\"b\"},\"ports\":[80,443,8080],\"status\":{\"n\":20,\"phase\":\"Pending\"}} \
          {\"name\":\"b\"} b [80,443,8080] {\"n\":20,\"phase\":\"Pending\"} Pending",
        ),
        ("{...name}", "a b c"),
        ("{.items[?(@..n==20)].metadata['name']}", "b"),
        (
            "{.items[?(@.metadata.labels.app\\.kubernetes\\.io/name=='x')].metadata.name}",
            "a",
        ),
        (
            "{.items[?(@.metadata.labels['app\\.kubernetes\\.io/name']==\"x\")].metadata.name}",
            "a",
        ),
        ("{.items[?(@.status.phase==\"a)\\\"]b\")].metadata.name}", ""),
        ("{.items[?(@.ports[3])].metadata.name}", ""),
        ("{.items[?( @.status.n == 20 )].metadata.name}", "b"),
        ("{.a=b(c)}", ""),
        ("", ""),
    ] {
        assert_eq!(render(template), expected, "{template}");
    }
}

#[test]
fn invalid_templates_are_refused() {
    for (template, reason) in [
        ("{.a", "unclosed action"),
        ("{.a[0}", "unterminated array"),
        ("{.a[x]}", "invalid array index"),
        ("{.a[\"b\"]}", "invalid array index \"b\""),
        ("{.a['b}", "unterminated array"),
        ("{.a['b'c]}", "invalid array index"),
        ("{.a['b,c']}", "unrecognized character in action: U+002C ','"),
        ("{.a['b{end}']}", "unrecognized"),
        ("{.a....b}", "invalid multiple recursive descent"),
        ("{.a,.b}", "unrecognized character in action: U+002C ','"),
        ("{.a[?(@.b=1)]}", "unrecognized filter operator ="),
        ("{.a[?(@.b=~'x')]}", "unrecognized filter operator ="),
        ("{.a[?(@.b && @.c)]}", "unrecognized character in action: U+0026 '&'"),
        ("{.a[?(@.b]}", "unrecognized character in action: U+005D ']'"),
        ("{.a[?(@.b", "unterminated filter"),
        ("{\"\\q\"}", "invalid escape in quotes"),
        ("{1.2.3}", "cannot parse number 1.2.3"),
        ("{.a[1:2:0]}", "step must be > 0"),
        ("{range .a}", "{end} is missing"),
        ("{end}", "nothing to end"),
        ("{foo}", "unrecognized identifier foo"),
        ("{\"a}", "unterminated quoted string"),
        ("{.a[?(@.b==)]}", "unexpected"),
        ("{.a[99999999999999999999]}", "invalid array index"),
    ] {
        let error = Template::parse(template).unwrap_err().to_string();
        assert!(
            error.starts_with("error parsing jsonpath ") && error.contains(reason),
            "{template}: {error}"
        );
    }
}

#[test]
fn an_index_out_of_range_and_a_comparison_of_different_types_are_errors() {
    for (template, reason) in [
        (
            "{.items[7].metadata.name}",
            "array index out of bounds: index 7, length 3",
        ),
        ("{.items[-4]}", "array index out of bounds: index -1, length 3"),
        ("{.items[0:9]}", "array index out of bounds: index 8, length 3"),
        ("{.items[2:1]}", "starting index 2 is greater than ending index 1"),
        ("{.kind[0]}", "string is not array or slice"),
        (
            "{.items[0].metadata[*]}",
            "map[string]interface {} is not array or slice",
        ),
        (
            "{.items[0][?(@.name)]}",
            "map[string]interface {} is not array or slice and cannot be filtered",
        ),
        ("{.items[?(@.metadata.name==3)]}", "incompatible types for comparison"),
        ("{.items[?(@.metadata==3)]}", "invalid type for comparison"),
        ("{.items[?(@.ok<true)]}", "invalid type for comparison"),
        ("{.items[?(@.ports[*]==80)]}", "can only compare one element at a time"),
    ] {
        let error = Template::parse(template).unwrap().render(&pods()).unwrap_err();
        let expected = format!("error executing jsonpath {template:?}: Error executing template: {reason}");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn values_are_printed_as_go_prints_them() {
    let value = json!({ "a": { "url": "https://x.test/?a=b&c=<d>" }, "b": null, "c": "a&b" });
    let render = |template: &str| Template::parse(template).unwrap().render(&value).unwrap();
    assert_eq!(
        render("{.a}"),
        "{\"url\":\"https://x.test/?a=b\\u0026c=\\u003cd\\u003e\"}"
    );
    assert_eq!(render("{.a.url} {.b} {.c}"), "https://x.test/?a=b&c=<d> <nil> a&b");
    assert_eq!(render("{}"), render("{@}"));
}

#[test]
fn every_part_of_a_template_is_a_list_in_json() {
    let value = json!({ "data": { "a": "<b", "b": ["c", {}] } });
    let render = |template: &str| Template::parse(template).unwrap().render_as_json(&value).unwrap();
    assert_eq!(
        render("x{.data.a}{.none}"),
        "[\n    \"x\"\n]\n[\n    \"\\u003cb\"\n]\n[]\n"
    );
    assert_eq!(
        render("{.data}"),
        "[\n    {\n        \"a\": \"\\u003cb\",\n        \"b\": [\n            \"c\",\n            {}\n        ]\n    }\n]\n"
    );
    assert_eq!(
        render("{range .data.b[*]}{@}{end}{.data.b[*]}"),
        "[\n    \"c\"\n]\n[\n    {}\n]\n[\n    \"c\",\n    {}\n]\n"
    );
}

#[test]
fn missing_fields_can_be_errors() {
    let value = json!({ "a": { "b": 1 }, "list": [{ "c": 1 }, {}], "empty": [] });
    let render = |template: &str| {
        let template = Template::parse(template).unwrap().allowing_missing(false);
        template.render(&value).map_err(|error| error.to_string())
    };
    let missing = |template: &str, name: &str| {
        Err(format!(
            "error executing jsonpath {template:?}: Error executing template: {name} is not found"
        ))
    };
    for template in ["{.none}", "{.a.none.b}", "{.a.b.none}", "{range .none}{end}"] {
        assert_eq!(render(template), missing(template, "none"));
    }
    // Fields that some values have, or that a condition asks for, may be missing.
    for (template, expected) in [
        ("{.list[*].c}", "1"),
        ("{.empty[*].none}", ""),
        ("{.list[?(@.c==1)].c}", "1"),
        ("{.list[?(@.d)]}", ""),
    ] {
        assert_eq!(render(template), Ok(expected.to_owned()), "{template}");
    }
    assert_eq!(
        render("{.list[?(@.d)].c}{.none}"),
        missing("{.list[?(@.d)].c}{.none}", "none")
    );
}

#[test]
fn relaxed_expressions_may_lack_braces_and_the_first_dot() {
    let pods = pods();
    for expression in ["{.kind}", ".kind", "kind", "{kind}"] {
        let template = Template::parse_relaxed(expression).unwrap();
        let found = template.find(&pods).unwrap();
        assert_eq!(found.len(), 1, "{expression}");
        assert_eq!(*found[0], json!("List"));
    }
}

#[test]
fn a_template_with_unbounded_growth_is_an_error() {
    let deep = (0..200).fold(json!(1), |value, _| json!([value, 1, 2, 3]));
    let template = Template::parse("{..*..*..*..*..*}").unwrap();
    assert!(
        template
            .render(&deep)
            .unwrap_err()
            .to_string()
            .contains("visits more than")
    );
}

proptest! {
    #[test]
    fn any_template_is_filled_in_or_refused(template in "[{}.\\[\\]@$*?()='\"a0-9:,<>!\\\\ ]{0,40}|\\PC{0,20}") {
        if let Ok(template) = Template::parse(&template) {
            let value = json!({ "a": [{ "a": 1 }, [0, "a"]], "0": { "a": null } });
            let _ = template.render(&value);
            let _ = template.render_as_json(&value);
        }
        if let Ok(template) = Template::parse_relaxed(&template) {
            let _ = template.find(&json!({ "a": [1] }));
        }
    }

    #[test]
    fn slices_work_as_in_python_and_are_errors_out_of_range(from in -6_i64..6, to in -6_i64..6, step in 1_i64..4) {
        let list: Vec<i64> = (0..4).collect();
        let at = |bound: i64| if bound < 0 { bound + 4 } else { bound };
        let template = Template::parse(&format!("{{[{from}:{to}:{step}]}}")).unwrap();
        let rendered = template.render(&json!(list)).ok();
        let expected = match (at(from), at(to)) {
            (from, to) if from == to => Some(String::new()),
            (from, to) if (0..4).contains(&from) && (from..=4).contains(&to) => {
                let part = &list[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()];
                let texts = part.iter().step_by(usize::try_from(step).unwrap()).map(ToString::to_string);
                Some(texts.collect::<Vec<_>>().join(" "))
            }
            _ => None,
        };
        prop_assert_eq!(rendered, expected);
    }

    #[test]
    fn an_escaped_key_is_found_after_a_dot_and_in_brackets(key in "[a-z.\\[\\]{}$@, /=_-]{1,12}") {
        let escaped: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\{c}") }).collect();
        let value = json!({ "labels": { key: "found" } });
        for template in [format!("{{.labels.{escaped}}}"), format!("{{.labels['{escaped}']}}"), format!("{{['labels.{escaped}','none']}}")] {
            prop_assert_eq!(Template::parse(&template).unwrap().render(&value).unwrap(), "found", "{}", template);
        }
    }
}
