//! `apply` on Pods that have ended, which are changed without a supervisor.

use serde_json::json;

use super::*;
use crate::pod::test_pods::{TestPods, manifest, record_of};

/// A manifest of the Pod `web` with these parts of metadata and specification.
fn web(metadata: &Value, spec: &Value) -> Value {
    let mut web = manifest("web", "nginx:1", "a");
    for (part, fields) in [("metadata", metadata), ("spec", spec)] {
        for (name, value) in fields.as_object().into_iter().flatten() {
            web[part][name] = value.clone();
        }
    }
    web
}

fn configuration(manifest: &Value) -> PodConfiguration {
    let mut pod = record_of(manifest).pod;
    pod.metadata.uid = None;
    pod.metadata.creation_timestamp = None;
    let mut written = manifest.clone();
    written["metadata"]["namespace"] = "default".into();
    PodConfiguration { pod, written }
}

/// The result for this manifest, and whether a Pod was created.
async fn applied(pods: &TestPods, manifest: &Value) -> (Result<Applied, String>, bool) {
    let mut created = false;
    let applied = apply_with(
        &pods.paths,
        &configuration(manifest),
        Overwrite::Always,
        Mode::Write,
        &mut |pod| {
            created = true;
            Ok(pod.clone())
        },
    )
    .await;
    (applied.map_err(|error| error.to_string()), created)
}

/// Adds a Pod that `apply` has created, and that has ended.
fn add_applied(pods: &TestPods, manifest: &Value) {
    let pod = annotated(&configuration(manifest)).unwrap();
    pods.add_ended(&Typed::from(pod).to_value());
}

/// Changes the existing Pod as another writer.
async fn patch(pods: &TestPods, patch: &Value) {
    let mut change = |pod: &Pod| {
        let kind = Typed::from(pod.clone()).kind();
        let patch = objects::Patch::Strategic(patch.clone());
        let value = patch.apply(kind, &Typed::from(pod.clone()).to_value())?;
        match objects::read(kind, &value)? {
            Typed::Pod(pod) => Ok::<_, ObjectError>(*pod),
            _ => panic!("not a Pod"),
        }
    };
    update(&pods.paths, "default", "web", Part::Pod, Mode::Write, &mut change)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_new_pod_keeps_its_configuration_and_an_equal_one_changes_nothing() {
    let pods = TestPods::new();
    let web = web(&json!({ "labels": { "tier": "front" } }), &json!({}));
    let (created, is_new) = applied(&pods, &web).await;
    let created = created.unwrap();
    assert!(is_new && created.outcome == Outcome::Created);
    let annotation = &created.pod.metadata.annotations.as_ref().unwrap()[last_applied::ANNOTATION];
    let mut kept = configuration(&web).written;
    kept["metadata"]["annotations"] = json!({});
    assert_eq!(serde_json::from_str::<Value>(annotation).unwrap(), kept);
    assert!(annotation.ends_with("}\n"));

    pods.add_ended(&Typed::from(created.pod).to_value());
    let (again, is_new) = applied(&pods, &web).await;
    let again = again.unwrap();
    assert!(!is_new && again.outcome == Outcome::Unchanged && !again.lacked_annotation);
}

/// A case of a three-way merge: its name, the first metadata and specification, the patch of another writer, the second
/// metadata and specification, the outcome, and the Pod's values at some paths.
type Case = (
    &'static str,
    (Value, Value),
    Value,
    (Value, Value),
    Outcome,
    &'static [(&'static str, &'static str)],
);

#[tokio::test]
async fn pods_are_merged_three_ways() {
    use Outcome::{Configured, Unchanged};
    let none = || json!({});
    let labels = |labels: Value| (json!({ "labels": labels }), none());
    let spec = |spec: Value| (none(), spec);
    let cases: Vec<Case> = vec![
        (
            "a label that leaves the file is removed",
            labels(json!({ "a": "1", "b": "1" })),
            none(),
            labels(json!({ "a": "1" })),
            Configured,
            &[("/metadata/labels", r#"{"a":"1"}"#)],
        ),
        (
            "a label of another writer stays",
            labels(json!({ "a": "1" })),
            json!({ "metadata": { "labels": { "theirs": "1" } } }),
            labels(json!({ "a": "2" })),
            Configured,
            &[("/metadata/labels", r#"{"a":"2","theirs":"1"}"#)],
        ),
        (
            "only another writer changed something",
            labels(json!({ "a": "1" })),
            json!({ "metadata": { "labels": { "theirs": "1" } }, "spec": { "activeDeadlineSeconds": 60 } }),
            labels(json!({ "a": "1" })),
            Unchanged,
            &[
                ("/metadata/labels", r#"{"a":"1","theirs":"1"}"#),
                ("/spec/activeDeadlineSeconds", "60"),
            ],
        ),
        (
            "a label of the file that another writer changed is restored",
            labels(json!({ "a": "1" })),
            json!({ "metadata": { "labels": { "a": "theirs" } } }),
            labels(json!({ "a": "1" })),
            Configured,
            &[("/metadata/labels", r#"{"a":"1"}"#)],
        ),
        (
            "all labels leave the file",
            labels(json!({ "a": "1" })),
            none(),
            (none(), none()),
            Configured,
            &[("/metadata/labels", "null")],
        ),
        (
            "containers merge by name, and a pull policy stays as it was set for the first image",
            (none(), none()),
            none(),
            spec(json!({ "containers": [{ "name": "main", "image": "nginx:latest", "command": ["a"] }] })),
            Configured,
            &[
                ("/spec/containers/0/image", "\"nginx:latest\""),
                ("/spec/containers/0/imagePullPolicy", "\"IfNotPresent\""),
            ],
        ),
        (
            "an image that another writer changed is restored",
            (none(), none()),
            json!({ "spec": { "containers": [{ "name": "main", "image": "theirs:1" }] } }),
            (none(), none()),
            Configured,
            &[("/spec/containers/0/image", "\"nginx:1\"")],
        ),
        (
            "finalizers merge as a set",
            (json!({ "finalizers": ["example.com/a", "example.com/b"] }), none()),
            json!({ "metadata": { "finalizers": ["example.com/theirs"] } }),
            (json!({ "finalizers": ["example.com/a"] }), none()),
            Configured,
            &[("/metadata/finalizers", r#"["example.com/theirs","example.com/a"]"#)],
        ),
        (
            "a scheduling gate that leaves the file is removed",
            spec(json!({ "schedulingGates": [{ "name": "example.com/a" }, { "name": "example.com/b" }] })),
            none(),
            spec(json!({ "schedulingGates": [{ "name": "example.com/b" }] })),
            Configured,
            &[("/spec/schedulingGates", r#"[{"name":"example.com/b"}]"#)],
        ),
        (
            "a deadline is set, and default values are no change",
            (none(), none()),
            none(),
            spec(json!({ "activeDeadlineSeconds": 60, "terminationGracePeriodSeconds": 30 })),
            Configured,
            &[("/spec/activeDeadlineSeconds", "60")],
        ),
    ];
    for (name, (metadata, spec), theirs, (new_metadata, new_spec), outcome, places) in cases {
        let pods = TestPods::new();
        add_applied(&pods, &web(&metadata, &spec));
        if theirs != json!({}) {
            patch(&pods, &theirs).await;
        }
        let second = web(&new_metadata, &new_spec);
        let (result, is_new) = applied(&pods, &second).await;
        let result = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!is_new && !result.lacked_annotation, "{name}");
        assert_eq!(result.outcome, outcome, "{name}");
        let pod = Typed::from(result.pod.clone()).to_value();
        for (place, value) in places {
            let found = pod.pointer(place).map_or("null".to_owned(), Value::to_string);
            assert_eq!(found, *value, "{name}: {place}");
        }
        // As in kubectl, a list with more elements than the file is a patch of its order, which changes nothing.
        let (again, _) = applied(&pods, &second).await;
        assert_eq!(again.unwrap().pod, result.pod, "{name}");
    }
}

#[tokio::test]
async fn what_kubernetes_refuses_is_refused_in_its_words() {
    for (first, second, said) in [
        (
            json!({}),
            json!({ "restartPolicy": "Always" }),
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,",
        ),
        (
            json!({}),
            json!({ "containers": [{ "name": "main", "image": "nginx:1", "command": ["a"] }, { "name": "other", "image": "nginx:1" }] }),
            "spec.containers: Forbidden: pod updates may not add or remove containers",
        ),
        (
            json!({ "activeDeadlineSeconds": 60 }),
            json!({}),
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
        ),
        (
            json!({}),
            json!({ "schedulingGates": [{ "name": "example.com/a" }] }),
            "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'example.com/a'",
        ),
    ] {
        let pods = TestPods::new();
        add_applied(&pods, &web(&json!({}), &first));
        let (refused, _) = applied(&pods, &web(&json!({}), &second)).await;
        let refused = refused.unwrap_err();
        let expected = format!("Pod \"web\" is invalid: {said}");
        assert!(refused.starts_with(&expected), "{refused}");
    }
}

#[tokio::test]
async fn a_pod_without_the_annotation_loses_nothing_and_gets_it() {
    let pods = TestPods::new();
    pods.add_ended(&web(&json!({ "labels": { "a": "1" } }), &json!({})));
    let plain = web(&json!({}), &json!({}));
    let (first, _) = applied(&pods, &plain).await;
    let first = first.unwrap();
    assert!(first.lacked_annotation && first.outcome == Outcome::Configured);
    let metadata = first.pod.metadata;
    assert_eq!(metadata.labels.unwrap()["a"], "1");
    assert!(metadata.annotations.unwrap().contains_key(last_applied::ANNOTATION));
    let (again, _) = applied(&pods, &plain).await;
    let again = again.unwrap();
    assert!(!again.lacked_annotation && again.outcome == Outcome::Unchanged);
}

#[tokio::test]
async fn an_annotation_that_is_too_long_is_refused_before_the_pod_is_created() {
    let pods = TestPods::new();
    let env: Vec<Value> = (0..9000)
        .map(|index| json!({ "name": format!("VARIABLE_{index}"), "value": "x" }))
        .collect();
    let containers = json!([{ "name": "main", "image": "nginx:1", "env": env }]);
    let (refused, is_new) = applied(&pods, &web(&json!({}), &json!({ "containers": containers }))).await;
    assert!(!is_new);
    let refused = refused.unwrap_err();
    assert!(
        refused.starts_with("Pod \"web\" is invalid: metadata.annotations: Too long"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_generated_name_cannot_be_applied() {
    let pods = TestPods::new();
    let mut generated = web(&json!({ "generateName": "web-" }), &json!({}));
    generated["metadata"].as_object_mut().unwrap().remove("name");
    let mut configuration = configuration(&web(&json!({}), &json!({})));
    configuration.pod.metadata.name = None;
    configuration.pod.metadata.generate_name = Some("web-".to_owned());
    configuration.written = generated;
    let refused = apply(&pods.paths, &configuration, Overwrite::Always, Mode::DryRun)
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), "from web-: cannot use generate name with apply");
}

#[tokio::test]
async fn a_pod_that_must_be_new_is_refused_if_it_exists() {
    let pods = TestPods::new();
    let web = web(&json!({}), &json!({}));
    pods.add_pod(&web);
    let refused = create(&pods.paths, &configuration(&web).pod, Mode::DryRun).await;
    assert_eq!(refused.unwrap_err().to_string(), "pods \"web\" already exists");
}

#[tokio::test]
async fn a_concurrent_apply_finds_the_pod_created_first() {
    let pods = TestPods::new();
    let web = configuration(&web(&json!({}), &json!({})));
    let applied = apply_with(&pods.paths, &web, Overwrite::Always, Mode::Write, &mut |pod| {
        // The Pod as it is on its node.
        let mut on_node = pod.clone();
        on_node.spec.get_or_insert_default().node_name = Some("host".to_owned());
        pods.add_pod(&Typed::from(on_node).to_value());
        let late = record_of(&manifest("web", "nginx:1", "a"));
        Err(pods.records.create(&late).unwrap_err().into())
    })
    .await;
    assert_eq!(applied.unwrap().outcome, Outcome::Unchanged);
}
