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
        ("{.items[0].metadata.labels['app.kubernetes.io/name']}", "x"),
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
        ("{.items[7].metadata.name}", ""),
        ("{.kind} {.kind}", "List List"),
        ("{.kind .kind}", "ListList"),
        ("{\"a\\u0041\"}{1}{-2.5}{true}", "aA1-2.5true"),
        ("", ""),
    ] {
        assert_eq!(render(template), expected, "{template}");
    }
}

#[test]
fn what_cannot_be_understood_is_refused() {
    for (template, reason) in [
        ("{.a", "unclosed action"),
        ("{.a[0}", "expected"),
        ("{.a[x]}", "invalid array index"),
        ("{.a[]}", "invalid array index"),
        ("{.a[1:2:0]}", "step must be > 0"),
        ("{range .a}", "{end} is missing"),
        ("{end}", "nothing to end"),
        ("{foo}", "unrecognized identifier foo"),
        ("{\"a}", "unterminated quoted string"),
        ("{.a[?(@.b==)]}", "unexpected"),
        ("{.a[99999999999999999999]}", "invalid array index"),
        ("{range 3}{end}", "range needs a path"),
    ] {
        let error = Template::parse(template).unwrap_err().to_string();
        assert!(
            error.starts_with("error parsing jsonpath ") && error.contains(reason),
            "{template}: {error}"
        );
    }
}

#[test]
fn relaxed_expressions_may_lack_braces_and_the_first_dot() {
    let pods = pods();
    for expression in ["{.kind}", ".kind", "kind", "{kind}"] {
        let found = Template::parse_relaxed(expression).unwrap().find(&pods).unwrap();
        assert_eq!(found.len(), 1, "{expression}");
        assert_eq!(*found[0], json!("List"));
    }
}

#[test]
fn a_template_that_grows_without_a_bound_ends_with_an_error() {
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
            let _ = template.render(&json!({ "a": [{ "a": 1 }, [0, "a"]], "0": { "a": null } }));
        }
        if let Ok(template) = Template::parse_relaxed(&template) {
            let _ = template.find(&json!({ "a": [1] }));
        }
    }

    #[test]
    fn slices_are_those_of_python(from in -6_i64..6, to in -6_i64..6, step in 1_i64..4) {
        let list: Vec<i64> = (0..4).collect();
        let clamp = |bound: i64| usize::try_from(if bound < 0 { bound + 4 } else { bound }).unwrap_or(0).min(4);
        let expected: Vec<_> = list
            .get(clamp(from)..clamp(to))
            .unwrap_or_default()
            .iter()
            .step_by(usize::try_from(step).unwrap())
            .map(ToString::to_string)
            .collect();
        let template = Template::parse(&format!("{{[{from}:{to}:{step}]}}")).unwrap();
        prop_assert_eq!(template.render(&json!(list)).unwrap(), expected.join(" "));
    }
}
