//! Reads the manifests named on a command line: files, directories and standard input, within limits.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use microkube_manifest::kinds::{Document, Kind};
use microkube_manifest::{Input, MAX_TEXT_BYTES, Manifests, MissingPullSecret};
use serde_json::{Value, json};

use super::failure::Failure;
use super::namespace::NamespaceArg;
use super::selector::Selector;
use super::validate::ValidateArg;

/// Maximum total size of all manifests of a command line, in bytes.
const MAX_TOTAL_BYTES: usize = 64 << 20;
/// Maximum number of files of one directory.
const MAX_FILES: usize = 10_000;
/// The extensions that `kubectl` reads in a directory.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// Namespace of Pods that specify none.
const DEFAULT_NAMESPACE: &str = "default";
/// Name of standard input in messages, as in kubectl.
const STDIN: &str = "STDIN";

/// Manifests by their paths.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct FilenameArgs {
    /// Manifests in YAML or JSON: files, directories (*.yaml, *.yml, *.json), or `-` for stdin
    #[arg(short, long, value_name = "PATH")]
    pub(super) filename: Vec<PathBuf>,
    /// Process the directories of -f recursively
    #[arg(short = 'R', long, requires = "filename")]
    pub(super) recursive: bool,
}

impl FilenameArgs {
    /// These paths, without subdirectories.
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        Self {
            filename: paths.to_vec(),
            recursive: false,
        }
    }
}

/// An object other than a Pod, as its author wrote it.
#[derive(Debug)]
pub(super) struct Configuration {
    document: Document,
    /// `None` for kinds outside of namespaces.
    namespace: Option<String>,
}

impl Configuration {
    pub(super) fn kind(&self) -> &'static Kind {
        self.document.kind()
    }

    /// The name of its file.
    pub(super) fn source(&self) -> &str {
        self.document.source()
    }

    /// The object with its namespace.
    pub(super) fn value(&self) -> Value {
        let mut value = self.document.written();
        place(&mut value, self.namespace.as_deref());
        value
    }
}

/// The manifests that were read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) manifests: Manifests,
    /// The objects other than Pods.
    pub(super) configurations: Vec<Configuration>,
    /// What happened to unknown fields.
    pub(super) validate: ValidateArg,
    /// The content of standard input, if it was read.
    pub(super) consumed_stdin: Option<Vec<u8>>,
}

impl Loaded {
    /// Leaves out the objects whose labels do not match.
    ///
    /// # Errors
    /// If there are no others.
    pub(super) fn select(&mut self, selector: &Selector) -> Result<(), Failure> {
        self.configurations.retain(|configuration| {
            let metadata = configuration.document.object().metadata();
            selector.matches(metadata.labels.as_ref())
        });
        let manifests = &mut self.manifests;
        let pods = std::mem::take(&mut manifests.pods);
        let written = std::mem::take(&mut manifests.written);
        let missing = std::mem::take(&mut manifests.missing_pull_secrets);
        for (index, (pod, written)) in pods.into_iter().zip(written).enumerate() {
            if !selector.matches(pod.metadata.labels.as_ref()) {
                continue;
            }
            let of_pod = missing.iter().filter(|missing| missing.pod == index).cloned();
            let pod_index = manifests.pods.len();
            manifests
                .missing_pull_secrets
                .extend(of_pod.map(|missing| MissingPullSecret {
                    pod: pod_index,
                    ..missing
                }));
            manifests.pods.push(pod);
            manifests.written.push(written);
        }
        if self.configurations.is_empty() && manifests.pods.is_empty() {
            return Err(Failure::from(anyhow!(
                "no objects passed: the selector matches no object in the manifests"
            )));
        }
        Ok(())
    }

    /// Fails if there is no Pod.
    pub(super) fn with_pods(self) -> Result<Self, Failure> {
        if self.manifests.pods.is_empty() {
            let problem =
                "the manifests contain no Pod; add one (`apiVersion: v1`, `kind: Pod`, `metadata` and `spec`)";
            return Err(Failure::from(anyhow!(problem)));
        }
        Ok(self)
    }
}

/// Reads and checks everything in these paths. All objects are placed in the namespace given on the command line.
pub(super) fn load(files: &FilenameArgs, namespace: &NamespaceArg) -> Result<Loaded, Failure> {
    load_validated(files, namespace, ValidateArg::default())
}

/// Like [`load`], possibly without unknown fields. Verbs warn of these once they are on the host where Pods run, because
/// they read the manifests again there.
pub(super) fn load_validated(
    files: &FilenameArgs,
    namespace: &NamespaceArg,
    validate: ValidateArg,
) -> Result<Loaded, Failure> {
    let mut texts = read(files).map_err(Failure::from)?;
    let inputs: Vec<Input<'_>> = texts.iter().map(|(source, text)| Input { source, text }).collect();
    let read = microkube_manifest::load_all_with(&inputs, validate.unknown_fields());
    let (mut manifests, documents) = read.map_err(Failure::from)?;
    let given = namespace.namespace.as_deref();
    if let Some(namespace) = given {
        move_into(&mut manifests, namespace).map_err(Failure::from)?;
    }
    let configurations = documents.into_iter().map(|document| configuration(document, given));
    let configurations = configurations.collect::<Result<_, _>>().map_err(Failure::from)?;
    let stdin = texts.iter().position(|(source, _)| source == STDIN);
    Ok(Loaded {
        manifests,
        configurations,
        validate,
        consumed_stdin: stdin.map(|index| texts.swap_remove(index).1),
    })
}

/// Like [`load`], for verbs that need Pods.
pub(super) fn load_into(files: &FilenameArgs, namespace: &NamespaceArg) -> Result<Loaded, Failure> {
    load(files, namespace)?.with_pods()
}

/// Puts an object in a namespace, or outside of all namespaces.
pub(super) fn place(object: &mut Value, namespace: Option<&str>) {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        match namespace {
            Some(namespace) => metadata.insert("namespace".to_owned(), namespace.into()),
            None => metadata.remove("namespace"),
        };
    }
}

fn configuration(document: Document, given: Option<&str>) -> anyhow::Result<Configuration> {
    let own = document.object().metadata().namespace.clone();
    let own = own.filter(|own| !own.is_empty());
    let namespace = match (own, given) {
        _ if !document.kind().namespaced => None,
        (Some(own), Some(given)) if own != given => return Err(other_namespace(&own, given)),
        (Some(own), _) => Some(own),
        (None, given) => Some(given.unwrap_or(DEFAULT_NAMESPACE).to_owned()),
    };
    Ok(Configuration { document, namespace })
}

fn other_namespace(own: &str, given: &str) -> anyhow::Error {
    anyhow!(
        "the namespace from the provided object {own:?} does not match the namespace {given:?}. You must pass \
         '--namespace={own}' to perform this operation."
    )
}

/// A manifest of a Pod that specifies `default` cannot be distinguished from one that specifies nothing.
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
            return Err(other_namespace(own, namespace));
        }
        namespace.clone_into(own);
    }
    Ok(())
}

/// The texts of manifests. `Debug` shows only their names: Secrets are among them.
pub(super) struct Texts {
    /// The texts, with their names in messages.
    pub(super) texts: Vec<(String, Vec<u8>)>,
    /// The content of standard input, if it was read.
    pub(super) consumed_stdin: Option<Vec<u8>>,
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.texts.iter().map(|(name, _)| name)).finish()
    }
}

/// Reads everything in these paths.
pub(super) fn texts(files: &FilenameArgs) -> anyhow::Result<Texts> {
    let texts = read(files)?;
    let stdin = texts.iter().find(|(source, _)| source == STDIN);
    Ok(Texts {
        consumed_stdin: stdin.map(|(_, text)| text.clone()),
        texts,
    })
}

/// The texts with their names in messages.
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

/// The manifests of a directory, sorted by name; those in subdirectories only if `recursive` is set.
fn directory(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        let context = || format!("cannot read the directory {}", directory.display());
        for entry in std::fs::read_dir(&directory).with_context(context)? {
            let entry = entry.with_context(context)?;
            let file = entry.path();
            let extension = file.extension().and_then(|extension| extension.to_str());
            // As in kubectl, links to directories are not followed, so there are no loops.
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
        bail!("no *.yaml, *.yml or *.json files in the directory {}", path.display());
    }
    files.sort();
    Ok(files)
}

/// Reads one byte more than a manifest may have, so that the loader reports larger ones.
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

    #[test]
    fn debug_shows_only_the_names_of_texts() {
        let texts = Texts {
            texts: vec![("secret.yaml".to_owned(), b"hunter2".to_vec())],
            consumed_stdin: Some(b"hunter2".to_vec()),
        };
        assert_eq!(format!("{texts:?}"), r#"["secret.yaml"]"#);
    }

    fn load_names(paths: &[PathBuf]) -> Result<Vec<String>, String> {
        names_of(&FilenameArgs::of(paths))
    }

    fn names_of(files: &FilenameArgs) -> Result<Vec<String>, String> {
        match load_into(files, &NamespaceArg { namespace: None }) {
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
    fn manifests_of_a_directory_are_sorted_by_name_without_subdirectories() {
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
        // A file named explicitly may have any extension.
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
        assert!(load_names(&[at("d.yaml")]).unwrap_err().starts_with("no *.yaml"));
        // A link to a parent directory does not cause a loop.
        std::fs::create_dir(at("d.yaml/deep")).unwrap();
        std::fs::write(at("d.yaml/deep/f.yaml"), named("f")).unwrap();
        std::os::unix::fs::symlink(dir.path(), at("d.yaml/deep/up")).unwrap();
        let all = recursive(dir.path().to_owned());
        assert_eq!(names_of(&all).unwrap(), ["a", "b", "c", "f"]);
        assert_eq!(names_of(&recursive(at("c.json"))).unwrap(), ["c"]);
        assert!(load_names(&[at("none.yaml")]).unwrap_err().contains("No such file"));
    }

    #[test]
    fn a_pod_defined_in_two_files_is_refused_with_both_positions() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("1.yaml"), dir.path().join("2.yaml"));
        std::fs::write(&first, named("web")).unwrap();
        std::fs::write(&second, named("web")).unwrap();
        assert_eq!(
            load_names(&[first.clone(), second.clone()]).unwrap_err(),
            format!(
                "{}:1:45: metadata.name: Duplicate value: \"web\": another Pod with this name is at {}:1:45",
                second.display(),
                first.display()
            )
        );
    }

    #[test]
    fn endless_files_are_read_only_up_to_a_limit() {
        let error = load_names(&[PathBuf::from("/dev/zero")]).unwrap_err();
        assert_eq!(error, "/dev/zero: the file is larger than 4 MiB; is it a manifest?");
    }

    #[test]
    fn objects_of_other_kinds_are_placed_in_the_namespace_of_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects.yaml");
        let load = |text: &str, namespace: Option<&str>| {
            std::fs::write(&path, text).unwrap();
            let namespace = NamespaceArg {
                namespace: namespace.map(str::to_owned),
            };
            load(&FilenameArgs::of(std::slice::from_ref(&path)), &namespace)
                .map(|loaded| {
                    loaded
                        .configurations
                        .iter()
                        .map(Configuration::value)
                        .collect::<Vec<_>>()
                })
                .map_err(|failure| failure.error.to_string())
        };
        let config_map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: default}}";
        let class =
            "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: c, namespace: x}, provisioner: p}";
        let secret = "{apiVersion: v1, kind: Secret, metadata: {name: s}, data: null}";
        let text = format!("{config_map}\n---\n{class}\n---\n{secret}\n");
        let values = load(&text, None).unwrap();
        let metadata = [
            json!({ "name": "c", "namespace": "default" }),
            json!({ "name": "c" }),
            json!({ "name": "s", "namespace": "default" }),
        ];
        assert_eq!(
            values.iter().map(|value| value["metadata"].clone()).collect::<Vec<_>>(),
            metadata
        );
        assert!(values[2].get("data").is_some_and(Value::is_null));
        assert_eq!(load(secret, Some("shop")).unwrap()[0]["metadata"]["namespace"], "shop");
        let error = load(config_map, Some("shop")).unwrap_err();
        assert!(
            error.contains("\"default\" does not match the namespace \"shop\""),
            "{error}"
        );
    }

    #[test]
    fn objects_are_selected_by_their_labels() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects.yaml");
        let config_map = |name: &str, app: &str| {
            let metadata = json!({ "name": name, "labels": { "app": app } });
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata }).to_string()
        };
        let pod = |name: &str, app: &str| {
            let spec = json!({ "containers": [{ "name": "a", "image": "b" }], "imagePullSecrets": [{ "name": name }] });
            let metadata = json!({ "name": name, "labels": { "app": app } });
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }).to_string()
        };
        let texts = [pod("a", "x"), config_map("b", "x"), config_map("c", "y"), pod("d", "y")];
        std::fs::write(&path, texts.join("\n---\n")).unwrap();
        let files = FilenameArgs::of(&[path]);
        let load = || load(&files, &NamespaceArg { namespace: None }).unwrap();
        let mut loaded = load();
        loaded.select(&"app=y".parse().unwrap()).unwrap();
        let manifests = &loaded.manifests;
        assert_eq!(manifests.pods[0].metadata.name.as_deref(), Some("d"));
        assert_eq!(manifests.written[0].value["metadata"]["name"], "d");
        assert_eq!((manifests.pods.len(), manifests.written.len()), (1, 1));
        let missing: Vec<_> = manifests
            .missing_pull_secrets
            .iter()
            .map(|one| (one.pod, &*one.name))
            .collect();
        assert_eq!(missing, [(0, "d")]);
        let names: Vec<_> = loaded
            .configurations
            .iter()
            .map(|one| one.value()["metadata"]["name"].clone())
            .collect();
        assert_eq!(names, ["c"]);
        assert!(load().select(&"app=z".parse().unwrap()).is_err());
    }

    #[test]
    fn the_command_line_namespace_applies_to_all_objects_or_is_an_error() {
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
