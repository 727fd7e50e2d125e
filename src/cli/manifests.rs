//! Which manifests a command line names: files, directories and standard input, read within limits.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use microkube_manifest::{Input, MAX_TEXT_BYTES, Manifests};

use super::failure::Failure;
use super::namespace::NamespaceArg;

/// All manifests of one command line together.
const MAX_TOTAL_BYTES: usize = 64 << 20;
/// Files of one directory.
const MAX_FILES: usize = 10_000;
/// What `kubectl` takes from a directory.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// Where a Pod is that names no namespace.
const DEFAULT_NAMESPACE: &str = "default";
/// How standard input is called in messages.
const STDIN: &str = "standard input";

/// Manifests by their paths.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct FilenameArgs {
    /// Manifests, YAML or JSON: files, directories (their *.yaml, *.yml and *.json), or `-` for standard input
    #[arg(short, long, value_name = "PATH")]
    pub(super) filename: Vec<PathBuf>,
    /// Also the manifests of all directories below those of -f
    #[arg(short = 'R', long, requires = "filename")]
    pub(super) recursive: bool,
}

impl FilenameArgs {
    /// These paths, without the directories below them.
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        Self {
            filename: paths.to_vec(),
            recursive: false,
        }
    }
}

/// What was read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) manifests: Manifests,
    /// What standard input had, if it was asked for.
    pub(super) consumed_stdin: Option<Vec<u8>>,
}

/// Reads and checks everything that the paths name.
fn load(files: &FilenameArgs) -> Result<Loaded, Failure> {
    let mut texts = read(files).map_err(Failure::usage)?;
    let inputs: Vec<Input<'_>> = texts.iter().map(|(source, text)| Input { source, text }).collect();
    let manifests = microkube_manifest::load(&inputs).map_err(Failure::usage)?;
    let stdin = texts.iter().position(|(source, _)| source == STDIN);
    Ok(Loaded {
        manifests,
        consumed_stdin: stdin.map(|index| texts.swap_remove(index).1),
    })
}

/// [`load`], with everything in the namespace that the command line names.
///
/// A manifest that says `default` cannot be told from one that says nothing.
pub(super) fn load_into(files: &FilenameArgs, namespace: &NamespaceArg) -> Result<Loaded, Failure> {
    let mut loaded = load(files)?;
    if let Some(namespace) = &namespace.namespace {
        move_into(&mut loaded.manifests, namespace).map_err(Failure::usage)?;
    }
    Ok(loaded)
}

fn move_into(manifests: &mut Manifests, namespace: &str) -> anyhow::Result<()> {
    if let Some(error) = microkube_manifest::names::dns_label(namespace).into_iter().next() {
        bail!("--namespace={namespace}: {error}");
    }
    let pods = manifests.pods.iter_mut();
    let of_pods = pods.map(|pod| {
        pod.metadata
            .namespace
            .get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned())
    });
    let secrets = manifests.pull_secrets.iter_mut();
    for own in of_pods.chain(secrets.map(|secret| &mut secret.namespace)) {
        if *own != DEFAULT_NAMESPACE && *own != namespace {
            bail!(
                "the namespace from the provided object {own:?} does not match the namespace {namespace:?}. You must pass \
                 '--namespace={own}' to perform this operation."
            );
        }
        namespace.clone_into(own);
    }
    Ok(())
}

/// The texts by the names that they have in messages.
fn read(named: &FilenameArgs) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut texts: Vec<(String, Vec<u8>)> = Vec::new();
    let mut total = 0;
    for path in &named.filename {
        let is_stdin = path.as_os_str() == "-";
        if is_stdin && texts.iter().any(|(source, _)| source == STDIN) {
            bail!("standard input can be read only once");
        }
        let files = if !is_stdin && path.is_dir() {
            directory(path, named.recursive)?
        } else {
            vec![path.clone()]
        };
        for file in files {
            let (source, text) = if is_stdin {
                (STDIN.to_owned(), bounded(std::io::stdin(), STDIN)?)
            } else {
                let source = file.display().to_string();
                let opened =
                    std::fs::File::open(&file).with_context(|| format!("cannot open the manifest {source}"))?;
                let text = bounded(opened, &source)?;
                (source, text)
            };
            total += text.len();
            if total > MAX_TOTAL_BYTES {
                bail!("the manifests together are larger than {} MiB", MAX_TOTAL_BYTES >> 20);
            }
            texts.push((source, text));
        }
    }
    Ok(texts)
}

/// The manifests of a directory, with those of the directories in it only if they are asked for, by name.
fn directory(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        let context = || format!("cannot read the directory {}", directory.display());
        for entry in std::fs::read_dir(&directory).with_context(context)? {
            let entry = entry.with_context(context)?;
            let file = entry.path();
            let extension = file.extension().and_then(|extension| extension.to_str());
            // As kubectl: links are not followed to other directories, so there is no way in circles.
            if entry.file_type().with_context(context)?.is_dir() {
                waiting.extend(recursive.then_some(file));
            } else if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && !file.is_dir() {
                files.push(file);
            }
        }
        if files.len() > MAX_FILES {
            bail!(
                "there are more than {MAX_FILES} manifests in the directory {}",
                path.display()
            );
        }
    }
    if files.is_empty() {
        bail!(
            "there is no *.yaml, *.yml or *.json in the directory {}",
            path.display()
        );
    }
    files.sort();
    Ok(files)
}

/// One byte more than a manifest may have: the loader says so then.
fn bounded(input: impl Read, source: &str) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    input
        .take(MAX_TEXT_BYTES as u64 + 1)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read the manifest {source}"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A Pod with this metadata, in one line.
    fn pod(metadata: Value) -> String {
        let spec = json!({ "containers": [{ "name": "a", "image": "b" }] });
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }).to_string()
    }

    fn named(name: &str) -> String {
        pod(json!({ "name": name }))
    }

    fn load_names(paths: &[PathBuf]) -> Result<Vec<String>, String> {
        names_of(&FilenameArgs::of(paths))
    }

    fn names_of(files: &FilenameArgs) -> Result<Vec<String>, String> {
        match load(files) {
            Ok(loaded) => Ok(loaded
                .manifests
                .pods
                .into_iter()
                .filter_map(|pod| pod.metadata.name)
                .collect()),
            Err(failure) => Err(format!("{:#}", failure.error)),
        }
    }

    #[test]
    fn directories_give_their_manifests_by_name_and_nothing_below_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (file, name) in [
            ("b.yaml", "b"),
            ("a.yml", "a"),
            ("c.json", "c"),
            ("note.txt", "x"),
            ("yaml", "y"),
        ] {
            std::fs::write(at(file), named(name)).unwrap();
        }
        std::fs::create_dir(at("d.yaml")).unwrap();
        std::fs::write(at("d.yaml/e.yaml"), "wrong").unwrap();
        assert_eq!(load_names(&[dir.path().to_owned()]).unwrap(), ["a", "b", "c"]);
        // Named, a file may be called as it likes.
        assert_eq!(load_names(&[at("note.txt"), at("c.json")]).unwrap(), ["x", "c"]);
        let recursive = |path: PathBuf| FilenameArgs {
            filename: vec![path],
            recursive: true,
        };
        assert!(
            names_of(&recursive(dir.path().to_owned()))
                .unwrap_err()
                .contains("e.yaml:1:1")
        );
        assert!(
            load_names(&[at("d.yaml")])
                .unwrap_err()
                .contains("e.yaml:1:1: not a Kubernetes object")
        );
        std::fs::remove_file(at("d.yaml/e.yaml")).unwrap();
        assert!(
            load_names(&[at("d.yaml")])
                .unwrap_err()
                .starts_with("there is no *.yaml")
        );
        // A link to a directory above is no way in circles.
        std::fs::create_dir(at("d.yaml/deep")).unwrap();
        std::fs::write(at("d.yaml/deep/f.yaml"), named("f")).unwrap();
        std::os::unix::fs::symlink(dir.path(), at("d.yaml/deep/up")).unwrap();
        let all = recursive(dir.path().to_owned());
        assert_eq!(names_of(&all).unwrap(), ["a", "b", "c", "f"]);
        assert_eq!(names_of(&recursive(at("c.json"))).unwrap(), ["c"]);
        assert!(load_names(&[at("none.yaml")]).unwrap_err().contains("No such file"));
    }

    #[test]
    fn a_pod_of_two_files_is_refused_with_both_places() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("1.yaml"), dir.path().join("2.yaml"));
        std::fs::write(&first, named("web")).unwrap();
        std::fs::write(&second, named("web")).unwrap();
        assert_eq!(
            load_names(&[first.clone(), second.clone()]).unwrap_err(),
            format!(
                "{}:1:45: metadata.name: Duplicate value: \"web\": the Pod of this name is at {}:1:45 already",
                second.display(),
                first.display()
            )
        );
    }

    #[test]
    fn files_without_end_are_not_read_to_their_end() {
        let error = load_names(&[PathBuf::from("/dev/zero")]).unwrap_err();
        assert_eq!(error, "/dev/zero: the file is larger than 4 MiB; is it a manifest?");
    }

    #[test]
    fn a_namespace_on_the_command_line_is_that_of_all_objects_or_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pod.yaml");
        let load = |text: &str, namespace: &str| {
            std::fs::write(&path, text).unwrap();
            let namespace = NamespaceArg {
                namespace: Some(namespace.to_owned()),
            };
            load_into(&FilenameArgs::of(std::slice::from_ref(&path)), &namespace)
                .map(|loaded| loaded.manifests.pods[0].metadata.namespace.clone().unwrap())
                .map_err(|failure| failure.error.to_string())
        };
        let plain = named("web");
        assert_eq!(load(&plain, "shop").unwrap(), "shop");
        let placed = pod(json!({ "name": "web", "namespace": "shop" }));
        assert_eq!(load(&placed, "shop").unwrap(), "shop");
        assert!(
            load(&placed, "other")
                .unwrap_err()
                .contains("the namespace from the provided object \"shop\" does not match")
        );
        assert!(
            load(&plain, "A_b")
                .unwrap_err()
                .contains("--namespace=A_b: a lowercase")
        );
    }
}
