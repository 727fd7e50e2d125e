//! `microkube diff`: what `apply` would change, shown by the program `diff` or another one.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use microkube_base::child;
use microkube_manifest::kinds::{Kind, Object as Typed};
use microkube_patch::last_applied;
use serde_json::{Map, Value};
use tempfile::TempDir;

use super::failure::Failure;
use super::field_manager::FieldManagerArg;
use super::manifests::{self, FilenameArgs};
use super::namespace::NamespaceArg;
use super::objects::dry_run::DryRun;
use super::pods::arguments::SelectorArg;
use super::pods_host::{self, Place, Purpose};
use super::save_config::configuration;
use super::targets::{ChangeError, NodeObjects, Target};
use super::yaml;
use crate::objects::{self, ObjectError, Overwrite, Part};

/// The environment variable with a program to use instead of `diff`, and its options.
const VARIABLE: &str = "KUBECTL_EXTERNAL_DIFF";
/// Shown in place of a secret value.
const MASK: &str = "***";
const MASK_BEFORE: &str = "*** (before)";
const MASK_AFTER: &str = "*** (after)";
/// The exit code if the objects differ. Errors have higher ones.
const EXIT_DIFFERENT: u8 = 1;
const EXIT_FAILED: u8 = 2;

/// Show what `apply` would change
///
/// Compares the objects of the node with the result of applying the files, and does not show values of Secrets. `diff
/// -u -N`, or the program in KUBECTL_EXTERNAL_DIFF, prints the differences.
///
/// Exits with 0 if there are no differences, with 1 if there are, and with more if an error occurred.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube diff -f config.yaml\n  KUBECTL_EXTERNAL_DIFF='diff -y' microkube diff -R -f shop/\n  microkube diff -f - < \
                  config.yaml"
)]
#[command(group(clap::ArgGroup::new("manifests").arg("filename").required(true)))]
pub struct DiffArgs {
    #[command(flatten)]
    files: FilenameArgs,
    #[command(flatten)]
    namespace: NamespaceArg,
    #[command(flatten)]
    selector: SelectorArg,
    #[command(flatten)]
    _field_manager: FieldManagerArg,
}

/// The exit code for a wrong command line of this verb. For `diff`, 1 would mean a difference.
pub(super) fn exit_code_of_usage(verb: Option<&OsStr>) -> ExitCode {
    match verb.is_some_and(|verb| verb == "diff") {
        true => ExitCode::from(EXIT_FAILED),
        false => ExitCode::FAILURE,
    }
}

pub(super) fn run(args: DiffArgs) -> Result<ExitCode, Failure> {
    let failed = |error: anyhow::Error| Failure {
        exit_code: EXIT_FAILED,
        error,
    };
    let mut loaded = manifests::load(&args.files, &args.namespace).map_err(|failure| failed(failure.error))?;
    if let Some(selector) = &args.selector.selector {
        loaded.select(selector).map_err(|failure| failed(failure.error))?;
    }
    let place = pods_host::go_to_pods(Purpose::Objects, loaded.consumed_stdin.as_deref());
    let paths = match place.map_err(|failure| failed(failure.error))? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let node = NodeObjects::open(paths, DryRun::Server).map_err(failed)?;
    let directories = Directories::new().map_err(failed)?;
    for configuration in &loaded.configurations {
        let (kind, value) = (configuration.kind(), configuration.value());
        let doing = format!("error when applying {:?}", configuration.source());
        let mut create = || {
            node.objects
                .create(kind, &value)
                .map(microkube_store::Object::into_value)
        };
        let (live, merged) = compared(&node, kind, &value, &doing, &mut create).map_err(failed)?;
        directories.add(kind, live, merged).map_err(failed)?;
    }
    for (pod, written) in loaded.manifests.pods.iter().zip(&loaded.manifests.written) {
        let wanted = Typed::from(pod.clone());
        let kind = wanted.kind();
        let value = configuration(pod, written).written;
        let doing = format!("error when applying {:?}", written.source);
        let (live, merged) = compared(&node, kind, &value, &doing, &mut || Ok(wanted.to_value())).map_err(failed)?;
        directories.add(kind, live, merged).map_err(failed)?;
    }
    directories.compare().map_err(failed)
}

/// An object as it is and as it would be after an apply of its configuration; `create` makes a new one. As in kubectl,
/// without the annotation of that apply.
fn compared(
    node: &NodeObjects,
    kind: &'static Kind,
    configuration: &Value,
    doing: &str,
    create: &mut dyn FnMut() -> Result<Value, ObjectError>,
) -> anyhow::Result<(Option<Value>, Value)> {
    let target = Target::of(kind, configuration)?;
    let live = node.find(&target)?;
    let merged = match &live {
        None => create().map_err(ChangeError::Object),
        Some(_) => {
            let plain = last_applied::without(configuration.clone())?;
            let mut merge = |current: &Value| Ok(objects::merge(kind, &plain, current, Overwrite::Always)?.object);
            let changed = node.try_change(&target, Part::Main, &mut merge);
            changed.map(|changed| changed.object)
        }
    };
    Ok((live, merged.map_err(|error| error.while_doing(Some(doing)))?))
}

/// The two compared directories, with one file per object.
struct Directories {
    live: TempDir,
    merged: TempDir,
}

impl Directories {
    fn new() -> anyhow::Result<Self> {
        let create = |prefix: &str| tempfile::Builder::new().prefix(prefix).tempdir();
        Ok(Self {
            live: create("LIVE-").context("cannot create a temporary directory")?,
            merged: create("MERGED-").context("cannot create a temporary directory")?,
        })
    }

    fn add(&self, kind: &Kind, mut live: Option<Value>, mut merged: Value) -> anyhow::Result<()> {
        if kind.kind == "Secret" {
            mask(live.as_mut(), &mut merged);
        }
        let name = file_name(kind, &merged);
        if let Some(live) = &live {
            write(self.live.path(), &name, live)?;
        }
        write(self.merged.path(), &name, &merged)
    }

    fn compare(&self) -> Result<ExitCode, anyhow::Error> {
        let given = std::env::var(VARIABLE).unwrap_or_default();
        let (program, options) = program(&given);
        let mut command = child::command(&program);
        command.args(options).arg(self.live.path()).arg(self.merged.path());
        let status = command.status().with_context(|| format!("cannot run {program:?}"))?;
        match status.code() {
            Some(0) => Ok(ExitCode::SUCCESS),
            Some(1) => Ok(ExitCode::from(EXIT_DIFFERENT)),
            Some(code) => Err(anyhow!("{program:?} failed with exit code {code}")),
            None => Err(anyhow!("a signal ended {program:?}")),
        }
    }
}

/// The diff program and its options. Like kubectl, drops options with other characters.
fn program(given: &str) -> (String, Vec<String>) {
    let is_plain = |option: &&str| option.chars().all(|c| c.is_ascii_alphanumeric() || "-=".contains(c));
    let mut words = given.split_whitespace();
    match words.next() {
        None => ("diff".to_owned(), vec!["-u".to_owned(), "-N".to_owned()]),
        Some(program) => (program.to_owned(), words.filter(is_plain).map(str::to_owned).collect()),
    }
}

/// `v1.ConfigMap.default.web`
fn file_name(kind: &Kind, object: &Value) -> String {
    let text = |field: &str| object.pointer(field).and_then(Value::as_str).unwrap_or_default();
    let group = match kind.group {
        "" => String::new(),
        group => format!("{group}."),
    };
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    // A name may be any valid file name.
    format!("{group}{}.{}.{namespace}.{name}", kind.version, kind.kind)
}

fn write(directory: &Path, name: &str, object: &Value) -> anyhow::Result<()> {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let path = directory.join(name);
    std::fs::write(&path, yaml::document(&object)).with_context(|| format!("cannot write {}", path.display()))
}

/// Hides the values of a Secret, but shows which ones differ. The last applied configuration contains them, too.
fn mask(mut live: Option<&mut Value>, merged: &mut Value) {
    let mut from = live.as_deref_mut().map(take_data).unwrap_or_default();
    let mut to = take_data(merged);
    for (key, old) in &mut from {
        match to.get_mut(key) {
            Some(new) if new != old => (*old, *new) = (MASK_BEFORE.into(), MASK_AFTER.into()),
            Some(new) => (*old, *new) = (MASK.into(), MASK.into()),
            None => *old = MASK.into(),
        }
    }
    for (key, new) in &mut to {
        if !from.contains_key(key) {
            *new = MASK.into();
        }
    }
    for (object, data) in [(live, from), (Some(merged), to)] {
        if let Some(object) = object
            && !data.is_empty()
        {
            object["data"] = Value::Object(data);
        }
    }
}

/// Takes the values out of a Secret.
fn take_data(secret: &mut Value) -> Map<String, Value> {
    if let Some(annotations) = secret
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(last_applied::ANNOTATION);
    }
    let data = secret.get_mut("data").and_then(Value::as_object_mut);
    data.map(std::mem::take).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_secrets_are_hidden_and_differences_are_visible() {
        let secret = |data: Value| json!({ "metadata": { "annotations": { last_applied::ANNOTATION: "x", "a": "b" } }, "data": data });
        let mut live = secret(json!({ "same": "1", "changed": "1", "gone": "1" }));
        let mut merged = secret(json!({ "same": "1", "changed": "2", "new": "1" }));
        mask(Some(&mut live), &mut merged);
        let metadata = json!({ "annotations": { "a": "b" } });
        assert_eq!(
            live,
            json!({ "metadata": metadata, "data": { "same": "***", "changed": "*** (before)", "gone": "***" } })
        );
        assert_eq!(
            merged,
            json!({ "metadata": metadata, "data": { "same": "***", "changed": "*** (after)", "new": "***" } })
        );
        let mut created = secret(json!({ "a": "1" }));
        mask(None, &mut created);
        assert_eq!(created["data"], json!({ "a": "***" }));
    }

    #[test]
    fn the_program_and_its_options_come_from_the_environment() {
        let words = |given: &str| {
            let (program, options) = program(given);
            (program, options.join(" "))
        };
        assert_eq!(words(""), ("diff".to_owned(), "-u -N".to_owned()));
        assert_eq!(
            words("colordiff -N -u --color=always ;rm a/b"),
            ("colordiff".to_owned(), "-N -u --color=always".to_owned())
        );
    }

    #[test]
    fn equal_objects_have_no_difference_and_others_have() {
        let compare = |live: Option<Value>, merged: Value| {
            let directories = Directories::new().unwrap();
            let kind = microkube_manifest::kinds::named("cm").unwrap();
            directories.add(kind, live, merged).unwrap();
            let (live, merged) = (directories.live.path(), directories.merged.path());
            let read = |directory: &Path| std::fs::read_to_string(directory.join("v1.ConfigMap.default.c")).ok();
            (read(live), read(merged).unwrap())
        };
        let object =
            |value: &str| json!({ "metadata": { "name": "c", "namespace": "default" }, "data": { "a": value } });
        let (live, merged) = compare(Some(object("1")), object("1"));
        assert_eq!(live, Some(merged));
        assert_eq!(compare(None, object("1")).0, None);
    }
}
