use microkube_manifest::Input;

use super::super::pods::test_pods::{TestPods, manifest};
use super::*;

const APPLY: Writing = Writing::Apply(Overwrite::Always);
const CREATE: Writing = Writing::Create(SaveConfigArg::NO);

/// The output of a dry run, and the errors.
fn tried(pods: &TestPods, wanted: &[Value], dry_run: DryRun, writing: Writing) -> (String, Vec<String>) {
    let texts: Vec<String> = wanted.iter().map(Value::to_string).collect();
    let input = |text| Input { source: "x.yaml", text };
    let inputs: Vec<Input<'_>> = texts.iter().map(|text| input(text.as_bytes())).collect();
    let manifests = microkube_manifest::load(&inputs).unwrap();
    printed(dry_run, |results, errors| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut start = |pod: &Pod, written: &WrittenPod| {
            runtime.block_on(start_pod(&pods.paths, pod, written, writing, Mode::DryRun))
        };
        start_each(&manifests, writing, &mut start, results, errors)
    })
}

/// A manifest with the annotation that `apply` adds.
fn applied(manifest: &Value) -> Value {
    let mut placed = manifest.clone();
    manifests::place(&mut placed, Some("default"));
    last_applied::record(placed).unwrap()
}

fn printed(
    dry_run: DryRun,
    write: impl FnOnce(&mut Results<'_>, &mut Vec<anyhow::Error>) -> anyhow::Result<()>,
) -> (String, Vec<String>) {
    let output = OutputArgs {
        dry_run,
        ..OutputArgs::default()
    };
    let (mut told, mut errors) = (String::new(), Vec::new());
    let mut tell = |text: &str| {
        told.push_str(text);
        Ok(())
    };
    write(&mut Results::new(&output, &mut tell).unwrap(), &mut errors).unwrap();
    (told, errors.iter().map(|error| format!("{error:#}")).collect())
}

/// The output about the objects in a file.
fn written(pods: &TestPods, text: &str, writing: Writing) -> (String, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x.yaml"), text).unwrap();
    let files = FilenameArgs::of(&[directory.path().join("x.yaml")]);
    let loaded = manifests::load(&files, &NamespaceArg { namespace: None }).unwrap();
    let objects = Objects::open(&pods.paths).unwrap();
    let (told, errors) = printed(DryRun::None, |results, errors| {
        write_each(&pods.paths, &objects, &loaded.configurations, writing, results, errors)
    });
    let errors = errors
        .iter()
        .map(|error| error.replace(&directory.path().display().to_string(), ""));
    (told, errors.collect())
}

#[test]
fn the_outcome_for_each_pod_is_reported() {
    let pods = TestPods::new();
    pods.add_pod(&applied(&manifest("web", "nginx:1", "a")));
    let wanted = [manifest("web", "nginx:1", "a"), manifest("db", "db:1", "a")];
    let (told, errors) = tried(&pods, &wanted, DryRun::None, APPLY);
    assert_eq!(told, "pod/web unchanged\npod/db created\n");
    assert!(errors.is_empty(), "{errors:?}");
    let (told, _) = tried(&pods, &wanted, DryRun::Client, APPLY);
    assert_eq!(told, "pod/web unchanged (dry run)\npod/db created (dry run)\n");
}

#[test]
fn a_refused_pod_does_not_affect_the_others() {
    let pods = TestPods::new();
    pods.add_pod(&manifest("web", "nginx:1", "a"));
    pods.add_pod(&manifest("db", "db:1", "a"));
    let wanted = [
        manifest("web", "nginx:1", "b"),
        manifest("db", "db:2", "a"),
        manifest("new", "new:1", "a"),
    ];
    let (told, errors) = tried(&pods, &wanted, DryRun::None, APPLY);
    assert_eq!(told, "pod/db configured\npod/new created\n");
    assert!(errors[0].starts_with("The Pod \"web\" is invalid: spec: Forbidden: pod updates may not change"));
    assert_eq!(errors.len(), 1, "{errors:?}");
}

#[test]
fn errors_about_pods_may_lack_what_was_attempted() {
    let error = || ApplyError::AlreadyExists { name: "web".to_owned() };
    let kind = kinds::named("pod").unwrap();
    assert_eq!(
        as_kubectl_pod_error(kind, error(), None).to_string(),
        "Error (AlreadyExists): pods \"web\" already exists"
    );
    assert_eq!(
        as_kubectl_pod_error(kind, error(), Some("doing")).to_string(),
        "Error (AlreadyExists): doing: pods \"web\" already exists"
    );
}

#[test]
fn create_refuses_a_pod_that_exists() {
    let pods = TestPods::new();
    pods.add_pod(&manifest("web", "nginx:1", "a"));
    let wanted = [manifest("web", "nginx:1", "a")];
    let (_, errors) = tried(&pods, &wanted, DryRun::None, CREATE);
    assert_eq!(
        errors,
        ["Error (AlreadyExists): error when creating \"x.yaml\": pods \"web\" already exists"]
    );
}

const OBJECTS: &str =
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: shop}, data: {a: b}, immutable: true}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {a: b}}}
---
{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: b}}
";

#[test]
fn objects_are_applied_with_namespaces_first() {
    let pods = TestPods::new();
    let created = "namespace/shop created\nconfigmap/c created\nsecret/s created\n";
    assert_eq!(written(&pods, OBJECTS, APPLY), (created.to_owned(), Vec::new()));
    // As in kubectl, `stringData` is always a change.
    let unchanged = "namespace/shop unchanged\nconfigmap/c unchanged\nsecret/s configured\n";
    assert_eq!(written(&pods, OBJECTS, APPLY), (unchanged.to_owned(), Vec::new()));
    let changed = OBJECTS.replace("data: {a: b}, immutable", "data: {a: c}, immutable");
    let (told, errors) = written(&pods, &changed, APPLY);
    assert_eq!(told, "namespace/shop unchanged\nsecret/s configured\n");
    assert_eq!(
        errors,
        ["The ConfigMap \"c\" is invalid: data: Forbidden: field is immutable when `immutable` is set"]
    );
    let (told, errors) = written(
        &pods,
        &changed,
        Writing::ApplyByForce(Overwrite::Always, ReplacedArgs::DEFAULT),
    );
    assert_eq!(
        told,
        "namespace/shop unchanged\nconfigmap/c configured\nsecret/s configured\n"
    );
    assert!(errors.is_empty(), "{errors:?}");
    let unchanged = "namespace/shop unchanged\nconfigmap/c unchanged\nsecret/s configured\n";
    assert_eq!(written(&pods, &changed, APPLY).0, unchanged);
}

#[test]
fn create_refuses_objects_that_exist() {
    let pods = TestPods::new();
    let text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}";
    assert_eq!(written(&pods, text, CREATE).0, "configmap/c created\n");
    let (told, errors) = written(&pods, text, CREATE);
    assert_eq!(told, "");
    assert_eq!(
        errors,
        ["Error (AlreadyExists): error when creating \"/x.yaml\": configmaps \"c\" already exists"]
    );
}
