//! The manifests in `tests/manifests`: faulty ones beside what is printed about them, and valid ones as people have them.
//!
//! With `MICROKUBE_WRITE_EXPECTED=1` the expected texts are written instead of compared; read the difference before keeping it.

use std::path::{Path, PathBuf};

use super::{Input, Manifests, load};

fn files(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests").join(dir);
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
        assert!(manifests.warnings.is_empty(), "{:?}", manifests.warnings);
        for pod in &manifests.pods {
            // Everything that is written is in the Pod: it loads from its own words to the same.
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
