use microkube_store::Key;
use tempfile::NamedTempFile;

use super::super::pods::test_pods::TestPods;
use super::*;

struct Node {
    _pods: TestPods,
    node: NodeObjects,
}

impl Node {
    /// A node with a ConfigMap.
    fn new() -> Self {
        let pods = TestPods::new();
        let node = NodeObjects::open(pods.paths.clone(), DryRun::None).unwrap();
        let config_map = json!({ "metadata": { "name": "c" }, "data": { "a": "1" } });
        node.objects.create(target().kind, &config_map).unwrap();
        Self { _pods: pods, node }
    }

    fn data(&self) -> Value {
        self.node.find(&target()).unwrap().unwrap()["data"].clone()
    }

    /// Edits the ConfigMap with these replacements, one for each time that the editor opens. Returns the end, the
    /// output, and the texts that the editor opened.
    fn edit(&self, replacements: &[(&str, &str)]) -> (Ended, String, Vec<String>) {
        self.edit_with(SavingArgs::default(), replacements)
    }

    fn edit_with(&self, saving: SavingArgs, replacements: &[(&str, &str)]) -> (Ended, String, Vec<String>) {
        let originals = vec![(target(), self.node.find(&target()).unwrap().unwrap())];
        self.edit_what(What::Objects(saving), originals, replacements)
    }

    fn edit_what(
        &self,
        what: What,
        originals: Vec<(Target, Value)>,
        replacements: &[(&str, &str)],
    ) -> (Ended, String, Vec<String>) {
        let (mut opened, mut told) = (Vec::new(), String::new());
        let mut rounds = replacements.iter();
        let mut launch = |text: &str| {
            opened.push(text.to_owned());
            let (old, new) = rounds.next().expect("the editor is not opened again");
            Ok(Edited {
                text: text.replace(old, new),
                file: NamedTempFile::new()?,
            })
        };
        let output = OutputArgs::default();
        let mut tell = |text: &str| {
            told.push_str(text);
            Ok(())
        };
        let mut results = Results::new(&output, &mut tell).unwrap();
        let ended = edit(
            &self.node,
            &originals,
            FileFormat::Yaml,
            what,
            &mut launch,
            &mut results,
        );
        let ended = ended.unwrap();
        (ended, told, opened)
    }
}

fn target() -> Target {
    Target {
        kind: microkube_manifest::kinds::named("cm").unwrap(),
        key: Key::namespaced("default", "c"),
    }
}

fn failure(ended: Ended) -> String {
    match ended {
        Ended::Failed { error, path } => {
            std::fs::remove_file(path).unwrap();
            error.to_string()
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn an_edited_object_is_patched() {
    let node = Node::new();
    let (ended, told, opened) = node.edit(&[("a: \"1\"", "a: \"2\"\n  b: \"3\"")]);
    assert!(matches!(ended, Ended::Saved), "{ended:?}");
    assert_eq!(
        (told.as_str(), node.data()),
        ("configmap/c edited\n", json!({ "a": "2", "b": "3" }))
    );
    assert!(opened[0].starts_with("# Please edit the object below."), "{opened:?}");
}

#[test]
fn kyaml_can_be_edited() {
    let node = Node::new();
    let originals = [(target(), node.node.find(&target()).unwrap().unwrap())];
    let text = FileFormat::Kyaml.header(&[]) + &FileFormat::Kyaml.text(&originals);
    assert!(text.contains("#\n---\n{\n  apiVersion: \"v1\",\n"), "{text}");
    let input = Input {
        source: "line",
        text: text.as_bytes(),
    };
    let unknown_fields = What::Objects(SavingArgs::default()).validate().unknown_fields();
    let documents = read_documents_with(&[input], unknown_fields).unwrap();
    assert_eq!(documents[0].written(), originals[0].1);
}

#[test]
fn nothing_is_written_without_a_change_or_with_an_empty_file() {
    let node = Node::new();
    let (ended, ..) = node.edit(&[("", "")]);
    assert!(matches!(ended, Ended::Cancelled("Edit cancelled, no changes made.")));
    let text = FileFormat::Yaml.text(&[(target(), node.node.find(&target()).unwrap().unwrap())]);
    let (ended, ..) = node.edit(&[(&text, "\n")]);
    assert!(matches!(
        ended,
        Ended::Cancelled("Edit cancelled, saved file was empty.")
    ));
    let (_, told, _) = node.edit(&[("a: \"1\"", "a: '1'")]);
    assert_eq!(told, "configmap/c skipped\n");
}

#[test]
fn a_faulty_file_is_opened_again_with_the_reasons() {
    let node = Node::new();
    let (ended, _, opened) = node.edit(&[("a: \"1\"", "a: [1"), ("a: [1", "a/b: \"1\""), ("a/b", "b")]);
    assert!(matches!(ended, Ended::Saved), "{ended:?}");
    assert_eq!(node.data(), json!({ "b": "1" }));
    assert!(
        opened[1].contains("# The edited file had a syntax error:\n# * line:"),
        "{}",
        opened[1]
    );
    assert!(
        opened[2].contains("# configmaps \"c\" was not valid:\n# * data[a/b]: Invalid value"),
        "{}",
        opened[2]
    );
}

#[test]
fn unknown_fields_are_refused_or_dropped() {
    let node = Node::new();
    let (_, _, opened) = node.edit(&[("\ndata:", "\ndat: {}\ndata:"), ("\ndat: {}", "")]);
    assert!(opened[1].contains("unknown field \"dat\""), "{}", opened[1]);
    let saving = SavingArgs {
        validate: ValidateArg::IGNORE,
        ..SavingArgs::default()
    };
    let (ended, told, _) = node.edit_with(saving, &[("\ndata:", "\ndat: {}\ndata:\n  b: \"2\"")]);
    assert!(matches!(ended, Ended::Saved), "{ended:?}");
    assert_eq!(told, "configmap/c edited\n");
    assert_eq!(node.data(), json!({ "a": "1", "b": "2" }));
}

#[test]
fn the_edited_object_is_kept_in_its_annotation_on_request() {
    let node = Node::new();
    let annotation = || {
        let object = node.node.find(&target()).unwrap().unwrap();
        object["metadata"]["annotations"][last_applied::ANNOTATION].clone()
    };
    node.edit(&[("a: \"1\"", "a: \"2\"")]);
    assert_eq!(annotation(), Value::Null);
    let saving = SavingArgs {
        save_config: true,
        ..SavingArgs::default()
    };
    node.edit_with(saving, &[("a: \"2\"", "a: \"3\"")]);
    let kept: Value = serde_json::from_str(annotation().as_str().unwrap()).unwrap();
    assert_eq!(kept["data"], json!({ "a": "3" }));
}

#[test]
fn the_last_applied_configuration_can_be_edited_alone() {
    let node = Node::new();
    let found = || vec![(target(), node.node.find(&target()).unwrap().unwrap())];
    let error = last_applied_of(found()).unwrap_err().to_string();
    assert!(
        error.starts_with("no last-applied-configuration annotation found"),
        "{error}"
    );
    let applied = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c", "namespace": "default" }, "data": { "a": "0" },
    });
    let patch = annotation_patch(applied).unwrap();
    node.node
        .change(&target(), Part::Main, &mut |current| {
            Ok(Some(patch.apply(target().kind, current)?))
        })
        .unwrap();
    let what = What::LastApplied(ValidateArg::default());
    let originals = last_applied_of(found()).unwrap();
    let (ended, told, opened) = node.edit_what(what, originals, &[("a: \"0\"", "a: \"5\"")]);
    assert!(matches!(ended, Ended::Saved), "{ended:?}");
    assert_eq!(told, "configmap/c edited\n");
    assert!(!opened[0].contains("uid"), "{}", opened[0]);
    assert_eq!(node.data(), json!({ "a": "1" }));
    assert_eq!(last_applied_of(found()).unwrap()[0].1["data"], json!({ "a": "5" }));
}

#[test]
fn editing_ends_if_errors_are_not_corrected_or_the_name_is_changed() {
    let node = Node::new();
    let (ended, ..) = node.edit(&[("a: \"1\"", "a: [1"), ("", "")]);
    assert_eq!(failure(ended), "Edit cancelled, no valid changes were saved.");
    let (ended, ..) = node.edit(&[("name: c", "name: d")]);
    assert_eq!(failure(ended), "At least one of apiVersion, kind and name was changed");
    assert_eq!(node.data(), json!({ "a": "1" }));
}

#[test]
fn a_file_that_is_moved_keeps_its_text_and_is_readable_only_by_its_user() {
    use std::os::unix::fs::PermissionsExt as _;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("edit.yaml");
    std::fs::write(&path, "a: b\n").unwrap();
    let kept = moved(&path, to.path()).unwrap();
    assert_eq!(kept, to.path().join("edit.yaml"));
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "a: b\n");
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!path.exists());
    // An existing file is not replaced.
    std::fs::write(&path, "").unwrap();
    assert!(moved(&path, to.path()).is_err());
}
