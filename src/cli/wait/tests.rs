use std::time::Duration;

use microkube_manifest::kinds;
use microkube_store::{Deletion, Key};
use proptest::prelude::*;
use serde_json::json;

use super::super::pods::test_pods::TestPods;
use super::*;
use crate::objects::test_store::config_map;
use crate::objects::{Objects, Part};

const LONG: Duration = Duration::from_secs(60);

/// The objects that these arguments name.
fn requested_by(words: &[&str]) -> Requested {
    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: WaitArgs,
    }
    let words = ["wait", "--for=create"].iter().chain(words);
    let args = <Cli as clap::Parser>::try_parse_from(words).unwrap().args;
    requested(&args).map_err(|failure| failure.error).unwrap()
}

/// The output about objects, and about failures.
fn result(pods: &TestPods, words: &[&str], condition: &str, timeout: Duration) -> (Vec<String>, Vec<String>) {
    let mut met = Vec::new();
    let condition = condition.parse().unwrap();
    let reader = Reader::new(pods.paths.clone());
    let failures = wait(
        &reader,
        &requested_by(words),
        &condition,
        timeout,
        &mut |kind, object| {
            met.push(
                text(kind, object, &FormatArgs::default(), Some(&Format::Name))?
                    .trim_end()
                    .to_owned(),
            );
            Ok(())
        },
    );
    let failures = failures.unwrap_or_else(|error| vec![error]);
    (met, failures.iter().map(|error| format!("{error:#}")).collect())
}

fn ready(status: &str) -> serde_json::Value {
    json!({ "phase": "Running", "podIP": "10.88.0.2", "conditions": [{ "type": "Ready", "status": status }] })
}

#[test]
fn a_condition_already_met_is_reported_at_once() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[]);
    pods.set_status(&uid, ready("True"));
    for condition in [
        "condition=Ready",
        "condition=ready=TRUE",
        "jsonpath={.status.phase}=Running",
        "jsonpath={.status.podIP}",
        "jsonpath=.status.conditions[?(@.type==\"Ready\")].status=True",
        "create",
    ] {
        let (met, failures) = result(&pods, &["pod/web"], condition, Duration::ZERO);
        assert_eq!(
            (met.as_slice(), failures.len()),
            (&["pod/web".to_owned()][..], 0),
            "{condition}: {failures:?}"
        );
    }
}

#[test]
fn objects_are_named_or_printed_in_a_format() {
    let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" } });
    let (kind, object) = (
        microkube_manifest::kinds::named("cm").unwrap(),
        Object::new(object).unwrap(),
    );
    let shown = |format: Option<&str>| {
        let format: Option<Format> = format.map(|format| format.parse().unwrap());
        text(kind, &object, &FormatArgs::default(), format.as_ref()).unwrap()
    };
    assert_eq!(shown(None), "configmap/a condition met\n");
    assert_eq!(shown(Some("name")), "configmap/a\n");
    assert_eq!(shown(Some("jsonpath={.kind}")), "ConfigMap");
}

#[test]
fn a_condition_accepts_dotted_keys_in_brackets_or_after_a_dot() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[("app.kubernetes.io/name", "shop"), ("tier", "front")]);
    pods.set_status(&uid, ready("True"));
    for condition in [
        r"jsonpath={.metadata.labels['app\.kubernetes\.io/name']}=shop",
        r"jsonpath={.metadata.labels.app\.kubernetes\.io/name}=shop",
        r"jsonpath=.metadata.labels['app\.kubernetes\.io/name']=shop",
        "jsonpath={['metadata.labels.tier']}=front",
    ] {
        let (met, failures) = result(&pods, &["pod/web"], condition, Duration::ZERO);
        assert_eq!((met, failures), (vec!["pod/web".to_owned()], vec![]), "{condition}");
    }
}

#[test]
fn timeouts_and_missing_pods_are_reported_with_kubectls_messages() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[]);
    pods.set_status(&uid, ready("False"));
    let timed_out = ["timed out waiting for the condition on pods/web"];
    for condition in [
        "condition=Ready",
        "delete",
        "jsonpath={.status.phase}=Failed",
        "jsonpath={.none}=1",
    ] {
        assert_eq!(
            result(&pods, &["pod/web"], condition, Duration::ZERO).1,
            timed_out,
            "{condition}"
        );
    }
    assert_eq!(
        result(&pods, &["pod/web"], "condition=Ready=false", Duration::ZERO).0,
        ["pod/web"]
    );
    assert_eq!(
        result(&pods, &["pod/none"], "condition=Ready", LONG).1,
        ["Error (NotFound): pods \"none\" not found"]
    );
    assert_eq!(result(&pods, &["pod/none"], "delete", LONG), (vec![], vec![]));
    let empty = TestPods::new();
    assert_eq!(
        result(&empty, &["pods", "--all"], "condition=Ready", LONG).1,
        ["no matching resources found"]
    );
    assert_eq!(result(&empty, &["pods", "--all"], "delete", LONG), (vec![], vec![]));
}

#[test]
fn changes_end_the_wait() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[]);
    std::thread::scope(|scope| {
        let waits = [
            ("pod/web", "condition=Ready"),
            ("pod/web", "delete"),
            ("pod/new", "create"),
        ]
        .map(|(name, condition)| {
            let pods = &pods;
            scope.spawn(move || result(pods, &[name], condition, LONG))
        });
        pods.add("new", &[]);
        pods.set_status(&uid, ready("True"));
        let [is_ready, is_deleted, is_created] = waits;
        assert_eq!(is_ready.join().unwrap().0, ["pod/web"]);
        pods.remove(&uid);
        assert_eq!(is_deleted.join().unwrap().0, ["pod/web"]);
        assert_eq!(is_created.join().unwrap().0, ["pod/new"]);
    });
}

#[test]
fn a_force_deleted_pod_counts_as_deleted_during_its_termination() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[]);
    let watched = requested_by(&["pod/web"]);
    let reader = Reader::new(pods.paths.clone());
    let (_, mut watch) = reader.follow(&watched.by_kind(), &watched).unwrap();
    pods.hide(&uid);
    let deleted = watch.try_next().unwrap().unwrap();
    let condition = "delete".parse().unwrap();
    let kind = kinds::named("pods").unwrap();
    assert!(matches!(
        waiting::check(kind, &deleted, &condition).unwrap(),
        waiting::Check::Met
    ));
    assert_eq!(result(&pods, &["pod/web"], "delete", LONG), (vec![], vec![]));
}

#[test]
fn objects_of_all_kinds_are_waited_for() {
    let pods = TestPods::new();
    pods.add("web", &[]);
    let objects = Objects::open(&pods.paths).unwrap();
    let config_maps = kinds::named("cm").unwrap();
    let key = Key::namespaced("default", "a");
    objects.create(config_maps, &config_map("default", "a")).unwrap();
    let words = &["cm/a", "pod/web"];
    let value = "jsonpath={.data.key}=value";
    assert_eq!(
        result(&pods, words, value, Duration::ZERO),
        (
            vec!["configmap/a".to_owned()],
            vec!["timed out waiting for the condition on pods/web".to_owned()]
        )
    );
    std::thread::scope(|scope| {
        let pods = &pods;
        let changed = scope.spawn(move || result(pods, &["cm/a"], "jsonpath={.data.key}=new", LONG));
        let created = scope.spawn(move || result(pods, &["cm,secrets", "b"], "create", Duration::ZERO));
        objects
            .change(config_maps, &key, Part::Main, |current| {
                let mut new = current.clone();
                new["data"]["key"] = "new".into();
                Ok(Some(new))
            })
            .unwrap();
        assert_eq!(changed.join().unwrap(), (vec!["configmap/a".to_owned()], vec![]));
        let missing =
            ["configmaps/b", "secrets/b"].map(|name| format!("timed out waiting for the condition on {name}"));
        assert_eq!(created.join().unwrap(), (vec![], missing.to_vec()));
    });
    objects.delete(config_maps, &key, &Deletion::default()).unwrap();
    assert_eq!(
        result(&pods, &["cm/a"], "condition=Ready", LONG).1,
        ["Error (NotFound): configmaps \"a\" not found"]
    );
    assert_eq!(
        result(&pods, &["cm", "--all", "-n", "none"], "condition=Ready", LONG).1,
        ["no matching resources found"]
    );
}

#[test]
fn a_condition_of_an_earlier_generation_is_not_met() {
    let object = |observed: i64| {
        json!({
            "metadata": { "generation": 2 },
            "status": { "observedGeneration": observed, "conditions": [{ "type": "Ready", "status": "True" }] },
        })
    };
    let condition: Condition = "condition=ready".parse().unwrap();
    assert!(!condition.is_met(&object(1)).unwrap());
    assert!(condition.is_met(&object(2)).unwrap());
    let of_condition = json!({
        "metadata": { "generation": 2 },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "observedGeneration": 1 }] },
    });
    assert!(!condition.is_met(&of_condition).unwrap());
}

#[test]
fn invalid_conditions_are_refused() {
    for (condition, part) in [
        ("ready", "unrecognized condition: \"ready\""),
        ("condition=", "must not be empty"),
        ("jsonpath=", "cannot be empty"),
        ("jsonpath={.a}=", "value cannot be empty"),
        ("jsonpath={.a[}", "error parsing jsonpath"),
    ] {
        let error = condition.parse::<Condition>().unwrap_err().to_string();
        assert!(error.contains(part), "{condition}: {error}");
    }
}

proptest! {
    #[test]
    fn any_condition_is_parsed_or_refused(text in "(condition=|jsonpath=|)[{}.\\[\\]a=\"'()]{0,20}") {
        let _ = text.parse::<Condition>();
    }
}
