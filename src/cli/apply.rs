//! `microkube apply`, and what it has in common with `create` and `run --detach`: starting the Pods of manifests.

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::detached::{make_way, start_detached};
use super::failure::{Failure, complain};
use super::kvm::{self, Place, Purpose};
use super::manifests::{self, FilenameArgs, Loaded};
use super::namespace::NamespaceArg;
use super::pods::format::{Format, Objects};
use super::print::emit;
use crate::manifest::Manifests;
use crate::state::{Paths, PodRecords, RecordsError};
use crate::stderr::say;

/// Start the Pods of manifests that are not there yet
///
/// The Pods go on without this command: see `get`, `describe`, `events`, `wait` and `delete`. A Pod that is there already, with the same
/// manifest, stays as it is.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube apply -f pod.yaml\n  microkube apply -f shop/ -n test\n  microkube apply -f - < pods.yaml"
)]
pub struct ApplyArgs {
    #[command(flatten)]
    files: FileArgs,
}

/// Which manifests, and what is said about them.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("manifests").arg("filename").required(true)))]
pub(super) struct FileArgs {
    #[command(flatten)]
    pub(super) files: FilenameArgs,
    #[command(flatten)]
    pub(super) namespace: NamespaceArg,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// What is done and said.
#[derive(Debug, Default, clap::Args)]
pub(super) struct OutputArgs {
    /// `client`: start nothing, print what would be started
    #[arg(long, value_enum, default_value_t = DryRun::None, value_name = "WHERE")]
    pub(super) dry_run: DryRun,
    /// Print the Pods, with all defaults: yaml, json, name, jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT", value_parser = object_format)]
    pub(super) output: Option<Format>,
}

fn object_format(text: &str) -> anyhow::Result<Format> {
    match text.parse()? {
        Format::Wide => bail!("there is no table to be wide: yaml, json, name, jsonpath=TEMPLATE or custom-columns=…"),
        format => Ok(format),
    }
}

/// Where a command is only tried.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DryRun {
    /// Start the Pods
    #[default]
    None,
    /// Only validate them
    Client,
}

/// What becomes of a Pod of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Created,
    Unchanged,
}

/// What a Pod of the same name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// It stays if it is the same.
    Keep,
    /// It is an error.
    Refuse,
}

/// Runs the verb.
pub(super) fn run(args: ApplyArgs) -> Result<ExitCode, Failure> {
    from_files(&args.files, Existing::Keep)
}

/// Starts the Pods of files.
pub(super) fn from_files(args: &FileArgs, existing: Existing) -> Result<ExitCode, Failure> {
    let loaded = manifests::load_into(&args.files, &args.namespace)?;
    start_all(loaded, &args.output, existing)
}

/// Starts Pods that live without this command.
pub(super) fn start_all(loaded: Loaded, output: &OutputArgs, existing: Existing) -> Result<ExitCode, Failure> {
    let manifests = loaded.manifests;
    let purpose = match output.dry_run {
        DryRun::None => Purpose::Start,
        DryRun::Client => Purpose::Look,
    };
    let paths = match kvm::go_to_pods(purpose, loaded.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    for warning in &manifests.warnings {
        say!("microkube: warning: {warning}");
    }
    let mut start = |pod: &Pod| start_detached(&paths, pod, &manifests).map(|record| record.pod);
    let (errors, shown) = start_each(&paths, &manifests, output, existing, &mut start, &mut emit)?;
    if let Some(format) = &output.output {
        let one = shown.len() == 1;
        emit(&format.print(&Objects::of(&shown, one)?, true)?)?;
    }
    errors.iter().for_each(complain);
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

/// Starts what is not there and tells what becomes of each Pod. Returns what went wrong, and the other Pods.
fn start_each(
    paths: &Paths,
    manifests: &Manifests,
    output: &OutputArgs,
    existing: Existing,
    start: &mut dyn FnMut(&Pod) -> anyhow::Result<Pod>,
    tell: &mut dyn FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<(Vec<anyhow::Error>, Vec<Pod>)> {
    let records = PodRecords::new(paths.clone());
    let (mut errors, mut shown) = (Vec::new(), Vec::new());
    for pod in &manifests.pods {
        let way = match output.dry_run {
            DryRun::None => make_way(paths, pod),
            DryRun::Client => Ok(()),
        };
        let mut result = way.and_then(|()| one(&records, pod, output.dry_run, existing, start));
        if let Err(error) = &result
            && matches!(error.downcast_ref(), Some(RecordsError::AlreadyExists(..)))
        {
            // Another command was faster. Its Pod may be the same.
            result = one(&records, pod, DryRun::Client, existing, start);
        }
        match result {
            Ok((outcome, pod)) => {
                if output.output.is_none() {
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    let outcome = match outcome {
                        Outcome::Created => "created",
                        Outcome::Unchanged => "unchanged",
                    };
                    let dry_run = if output.dry_run == DryRun::Client {
                        " (dry run)"
                    } else {
                        ""
                    };
                    tell(&format!("pod/{name} {outcome}{dry_run}\n"))?;
                }
                shown.push(pod);
            }
            Err(error) => errors.push(error),
        }
    }
    Ok((errors, shown))
}

fn one(
    records: &PodRecords,
    pod: &Pod,
    dry_run: DryRun,
    existing: Existing,
    start: &mut dyn FnMut(&Pod) -> anyhow::Result<Pod>,
) -> anyhow::Result<(Outcome, Pod)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if existing == Existing::Keep
        && let Some(prefix) = pod
            .metadata
            .generate_name
            .as_deref()
            .filter(|prefix| !prefix.is_empty())
    {
        bail!("from {prefix}: cannot use generate name with apply");
    }
    match records.find(namespace, name)? {
        Some(_) if existing == Existing::Refuse => {
            bail!("Error from server (AlreadyExists): pods {name:?} already exists")
        }
        Some(record) => {
            check_same(&record.pod, pod)?;
            Ok((Outcome::Unchanged, record.pod))
        }
        None if dry_run == DryRun::Client => Ok((Outcome::Created, pod.clone())),
        None => Ok((Outcome::Created, start(pod)?)),
    }
}

/// Refuses another Pod of the same name.
fn check_same(existing: &Pod, wanted: &Pod) -> anyhow::Result<()> {
    let name = wanted.metadata.name.as_deref().unwrap_or_default();
    // There is one node, whatever is wanted.
    let on_any_node = |pod: &Pod| PodSpec {
        node_name: None,
        ..pod.spec.clone().unwrap_or_default()
    };
    let (existing_spec, wanted_spec) = (&on_any_node(existing), &on_any_node(wanted));
    if unchangeable(existing_spec) != unchangeable(wanted_spec) {
        bail!(
            "The Pod {name:?} is invalid: spec: Forbidden: pod updates may not change fields other than \
             `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
             existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
        );
    }
    let same_metadata = existing.metadata.labels.clone().unwrap_or_default()
        == wanted.metadata.labels.clone().unwrap_or_default()
        && existing.metadata.annotations.clone().unwrap_or_default()
            == wanted.metadata.annotations.clone().unwrap_or_default();
    if existing_spec != wanted_spec || !same_metadata {
        return Err(anyhow!(
            "pod {name:?} exists with other labels, annotations, images, tolerations or another deadline: microkube does not change Pods \
             that run; delete it and apply again"
        ));
    }
    Ok(())
}

/// The spec without what Kubernetes lets change.
fn unchangeable(spec: &PodSpec) -> PodSpec {
    let mut spec = spec.clone();
    spec.active_deadline_seconds = None;
    spec.tolerations = None;
    for container in spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten())
    {
        container.image = None;
    }
    spec
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::pods::test_pods::{TestPods, record_of};
    use super::*;

    fn manifest(name: &str, image: &str, command: &str) -> serde_json::Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": image, "command": [command] }] },
        })
    }

    fn manifests(pods: &[serde_json::Value]) -> Manifests {
        let pods = pods.iter().map(|manifest| {
            let mut pod = record_of(manifest).pod;
            pod.metadata.uid = None;
            pod.metadata.creation_timestamp = None;
            pod
        });
        Manifests {
            pods: pods.collect(),
            ..Manifests::default()
        }
    }

    /// What is told, what went wrong, and which Pods were started.
    fn started(
        pods: &TestPods,
        wanted: &[serde_json::Value],
        output: &OutputArgs,
        existing: Existing,
    ) -> (String, Vec<String>, Vec<String>) {
        let (mut told, mut started) = (String::new(), Vec::new());
        let (errors, _) = start_each(
            &pods.paths,
            &manifests(wanted),
            output,
            existing,
            &mut |pod| {
                started.push(pod.metadata.name.clone().unwrap());
                Ok(pod.clone())
            },
            &mut |text| {
                told.push_str(text);
                Ok(())
            },
        )
        .unwrap();
        (told, errors.iter().map(|error| format!("{error:#}")).collect(), started)
    }

    #[test]
    fn what_is_there_stays_and_what_is_not_is_started() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        let wanted = [manifest("web", "nginx:1", "a"), manifest("db", "db:1", "a")];
        let (told, errors, names) = started(&pods, &wanted, &OutputArgs::default(), Existing::Keep);
        assert_eq!(told, "pod/web unchanged\npod/db created\n");
        assert_eq!((errors, names), (vec![], vec!["db".to_owned()]));
        let dry = OutputArgs {
            dry_run: DryRun::Client,
            output: None,
        };
        let (told, _, names) = started(&pods, &wanted, &dry, Existing::Keep);
        assert_eq!(told, "pod/web unchanged (dry run)\npod/db created (dry run)\n");
        assert_eq!(names, Vec::<String>::new());
    }

    #[test]
    fn another_pod_of_the_same_name_is_refused_and_hinders_no_other() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        pods.add_pod(&manifest("db", "db:1", "a"));
        let wanted = [
            manifest("web", "nginx:1", "b"),
            manifest("db", "db:2", "a"),
            manifest("new", "new:1", "a"),
        ];
        let (told, errors, _) = started(&pods, &wanted, &OutputArgs::default(), Existing::Keep);
        assert_eq!(told, "pod/new created\n");
        assert!(errors[0].starts_with("The Pod \"web\" is invalid: spec: Forbidden: pod updates may not change"));
        assert!(errors[1].contains("delete it and apply again"), "{errors:?}");
    }

    #[test]
    fn create_refuses_a_pod_that_exists() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        let wanted = [manifest("web", "nginx:1", "a")];
        let (_, errors, _) = started(&pods, &wanted, &OutputArgs::default(), Existing::Refuse);
        assert_eq!(
            errors,
            ["Error from server (AlreadyExists): pods \"web\" already exists"]
        );
    }

    #[test]
    fn of_two_commands_at_once_the_slower_one_finds_the_pod_of_the_other() {
        let pods = TestPods::new();
        let wanted = manifests(&[manifest("web", "nginx:1", "a")]);
        let mut told = String::new();
        let (errors, _) = start_each(
            &pods.paths,
            &wanted,
            &OutputArgs::default(),
            Existing::Keep,
            &mut |_| {
                // As it is on its node.
                let mut on_node = manifest("web", "nginx:1", "a");
                on_node["spec"]["nodeName"] = "host".into();
                pods.add_pod(&on_node);
                let late = record_of(&manifest("web", "nginx:1", "a"));
                Err(pods.records.create(&late).unwrap_err().into())
            },
            &mut |text| {
                told.push_str(text);
                Ok(())
            },
        )
        .unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(told, "pod/web unchanged\n");
    }
}
