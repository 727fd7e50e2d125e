//! The manifests in `tests/manifests`: faulty ones with their expected messages, and valid ones like those people use.
//!
//! With `MICROKUBE_WRITE_EXPECTED=1` the expected messages are written instead of compared; review the difference
//! before you commit it.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::node::{Node, Value};
use super::{Input, Manifests, documents, load, yaml};

fn files(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/manifests")
        .join(dir);
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension != "txt"))
        .collect();
    files.sort();
    files
}

fn load_file(path: &Path) -> Result<Manifests, String> {
    let text = std::fs::read(path).unwrap();
    let source = path.file_name().and_then(|name| name.to_str()).unwrap();
    load(&[Input { source, text: &text }]).map_err(|error| format!("{error}\n"))
}

#[test]
fn faulty_manifests_are_refused_in_the_expected_words() {
    let files = files("faulty");
    assert!(files.len() >= 150, "{}", files.len());
    let mut different = Vec::new();
    for file in files {
        let expected = file.with_extension("txt");
        let found = load_file(&file).err().unwrap_or_else(|| "accepted\n".to_owned());
        if std::env::var_os("MICROKUBE_WRITE_EXPECTED").is_some() {
            std::fs::write(&expected, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        if found != expected || found == "accepted\n" {
            different.push(format!("{}:\n{found}expected:\n{expected}", file.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn valid_manifests_load_unchanged() {
    let files = files("valid");
    assert!(files.len() >= 40, "{}", files.len());
    for file in files {
        let manifests = load_file(&file).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(manifests.missing_pull_secrets, [], "{}", file.display());
        let text = std::fs::read(&file).unwrap();
        let written = written_pods(&text);
        assert_eq!(written.len(), manifests.pods.len(), "{}", file.display());
        for (written, pod) in written.iter().zip(&manifests.pods) {
            let pod = serde_json::to_value(pod).unwrap();
            assert_has(&pod, written, &file.display().to_string());
        }
        for pod in &manifests.pods {
            // The Pod contains everything that the manifest does: its serialised form loads to the same Pod.
            let text = serde_json::to_vec(pod).unwrap();
            let again = load(&[Input {
                source: "again",
                text: &text,
            }])
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert_eq!(&again.pods[0], pod, "{}", file.display());
        }
    }
}

/// The Pods of a file, as written.
fn written_pods(text: &[u8]) -> Vec<Rc<Node>> {
    let mut pods = Vec::new();
    let mut budget = yaml::Budget::default();
    for document in documents::split(text).unwrap() {
        for node in yaml::parse(&document, &mut budget).0 {
            match node.get("kind").and_then(Node::as_str) {
                Some("Pod") => pods.push(node),
                Some("List") => {
                    let Value::Map(fields) = &node.value else { continue };
                    let Value::List(items) = &fields["items"].value.value else {
                        continue;
                    };
                    let is_pod = |item: &&Rc<Node>| item.get("kind").and_then(Node::as_str) == Some("Pod");
                    pods.extend(items.iter().filter(is_pod).map(Rc::clone));
                }
                _ => {}
            }
        }
    }
    pods
}

/// No written value is lost or changed. (The Pod contains more, because missing fields have defaults.)
fn assert_has(found: &serde_json::Value, written: &Node, place: &str) {
    match &written.value {
        Value::Null => {}
        Value::Map(entries) => {
            for (key, entry) in entries
                .iter()
                .filter(|(_, entry)| !matches!(entry.value.value, Value::Null))
            {
                let place = format!("{place}: {key}");
                let found = found.get(key).unwrap_or_else(|| panic!("{place} is lost"));
                assert_has(found, &entry.value, &place);
            }
        }
        Value::List(elements) => {
            assert_eq!(found.as_array().map(Vec::len), Some(elements.len()), "{place}");
            for (index, element) in elements.iter().enumerate() {
                assert_has(&found[index], element, &format!("{place}[{index}]"));
            }
        }
        Value::String(text) => assert_eq!(found.as_str(), Some(text.as_str()), "{place}"),
        Value::Bool(value) => assert_eq!(found.as_bool(), Some(*value), "{place}"),
        // Quantities are strings, however they are written.
        Value::Number(number) if found.is_string() => {
            let found = found.as_str().and_then(|text| text.parse().ok());
            assert_eq!(found, number.as_f64(), "{place}");
        }
        Value::Number(number) => assert_eq!(found.as_f64(), number.as_f64(), "{place}"),
        Value::OldBool(word) => panic!("{place}: {word}"),
    }
}
