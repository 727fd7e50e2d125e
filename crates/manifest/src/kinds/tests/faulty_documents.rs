//! Faulty documents with their exact messages and places, in `tests/manifests/kinds`: the lines that begin with `#!`
//! before a document are its expected messages.
//!
//! With `MICROKUBE_WRITE_EXPECTED=1` these lines are written instead of compared; review the difference before you
//! commit it.

use std::fmt::Write as _;
use std::path::Path;

use super::super::super::node::Node;
use super::super::super::support::IgnoredField;
use super::super::super::unknown_fields::UnknownFields;
use super::super::document;
use super::*;

/// The rules for unsupported fields are checked too.
fn everything_is_supported(_: &Node) -> (Vec<Problem>, Vec<IgnoredField>) {
    (Vec::new(), Vec::new())
}

fn faults(text: &str) -> Vec<String> {
    let input = Input {
        source: "x",
        text: text.as_bytes(),
    };
    match document::read(&[input], everything_is_supported, true, UnknownFields::Refused) {
        Ok(_) => vec!["accepted".to_owned()],
        Err(error) => error.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn faulty_documents_are_refused_in_the_words_of_kubernetes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/manifests/kinds");
    let (mut count, mut different) = (0, String::new());
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut written = Vec::new();
        for part in text.trim_end().split("\n---\n") {
            let expected: Vec<&str> = part.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
            let document: Vec<&str> = part.lines().filter(|line| !line.starts_with("#! ")).collect();
            let document = document.join("\n");
            let found: Vec<String> = faults(&document)
                .iter()
                .map(|fault| fault.strip_prefix("x:").unwrap_or(fault).to_owned())
                .collect();
            count += 1;
            if found != expected || found == ["accepted"] {
                let _ = writeln!(different, "{}:\n{document}\nfound: {found:#?}\n", path.display());
            }
            let lines: Vec<String> = found.iter().map(|fault| format!("#! {fault}")).collect();
            written.push(format!("{}\n{document}", lines.join("\n")));
        }
        if std::env::var_os("MICROKUBE_WRITE_EXPECTED").is_some() {
            std::fs::write(&path, format!("{}\n", written.join("\n---\n"))).unwrap();
        }
    }
    assert!(count >= 300, "{count}");
    assert!(different.is_empty(), "{different}");
}

#[test]
fn unsupported_fields_of_pods_are_refused_for_now() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: i, volumeDevices: [{name: v, devicePath: /d}]}]\n";
    let error = objects(pod).unwrap_err().to_string();
    assert!(
        error.starts_with("x.yaml:5:36: spec.containers[0].volumeDevices: not supported by microkube yet"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
}
