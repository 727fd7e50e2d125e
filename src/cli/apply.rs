//! `microkube apply`, and what it has in common with `create` and `run --detach`: starting the Pods of manifests.

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::Manifests;

use super::failure::{Failure, complain};
use super::manifests::{self, FilenameArgs, Loaded};
use super::namespace::NamespaceArg;
use super::pods::format::{Format, Objects};
use super::pods_host::{self, Place, Purpose};
use super::print::emit;
use crate::pod::operations::apply::{Applied, ApplyError, Existing, apply, try_apply};
use crate::stderr::report;

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

/// Which manifests, and what is printed about them.
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

/// Whether to start the Pods, and what to print.
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

/// Where a command is only tried out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DryRun {
    /// Start the Pods
    #[default]
    None,
    /// Only validate them
    Client,
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
    let paths = match pods_host::go_to_pods(purpose, loaded.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    for warning in &manifests.warnings {
        report!("warning: {warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut start = |pod: &Pod| match output.dry_run {
        DryRun::None => runtime.block_on(apply(&paths, pod, &manifests, existing)),
        DryRun::Client => try_apply(&paths, pod, existing),
    };
    let (errors, shown) = start_each(&manifests, output, &mut start, &mut emit)?;
    if let Some(format) = &output.output {
        let one = shown.len() == 1;
        emit(&format.print(&Objects::of(&shown, one)?, true)?)?;
    }
    errors.iter().for_each(complain);
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

/// Starts the Pods that do not exist, and prints a line for each. Returns the errors, and the Pods without one.
fn start_each(
    manifests: &Manifests,
    output: &OutputArgs,
    start: &mut dyn FnMut(&Pod) -> Result<Applied, ApplyError>,
    tell: &mut dyn FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<(Vec<anyhow::Error>, Vec<Pod>)> {
    let (mut errors, mut shown) = (Vec::new(), Vec::new());
    for pod in &manifests.pods {
        let (outcome, pod) = match start(pod) {
            Ok(Applied::Created(pod)) => ("created", pod),
            Ok(Applied::Unchanged(pod)) => ("unchanged", pod),
            Err(error) => {
                errors.push(in_kubectls_words(error));
                continue;
            }
        };
        if output.output.is_none() {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let dry_run = if output.dry_run == DryRun::Client {
                " (dry run)"
            } else {
                ""
            };
            tell(&format!("pod/{name} {outcome}{dry_run}\n"))?;
        }
        shown.push(pod);
    }
    Ok((errors, shown))
}

/// The API server's errors as kubectl shows them.
fn in_kubectls_words(error: ApplyError) -> anyhow::Error {
    match error {
        ApplyError::AlreadyExists { .. } => anyhow!("Error from server (AlreadyExists): {error}"),
        ApplyError::Forbidden { .. } => anyhow!("The {error}"),
        error => error.into_report(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::pods::test_pods::{TestPods, manifest, record_of};
    use super::*;

    /// What is told, and what went wrong.
    fn started(
        pods: &TestPods,
        wanted: &[serde_json::Value],
        dry_run: DryRun,
        existing: Existing,
    ) -> (String, Vec<String>) {
        let wanted = wanted.iter().map(|manifest| record_of(manifest).pod);
        let manifests = Manifests {
            pods: wanted.collect(),
            ..Manifests::default()
        };
        let output = OutputArgs { dry_run, output: None };
        let mut told = String::new();
        let mut start = |pod: &Pod| try_apply(&pods.paths, pod, existing);
        let (errors, _) = start_each(&manifests, &output, &mut start, &mut |text| {
            told.push_str(text);
            Ok(())
        })
        .unwrap();
        (told, errors.iter().map(|error| format!("{error:#}")).collect())
    }

    #[test]
    fn what_becomes_of_each_pod_is_told() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        let wanted = [manifest("web", "nginx:1", "a"), manifest("db", "db:1", "a")];
        let (told, errors) = started(&pods, &wanted, DryRun::None, Existing::Keep);
        assert_eq!(told, "pod/web unchanged\npod/db created\n");
        assert!(errors.is_empty(), "{errors:?}");
        let (told, _) = started(&pods, &wanted, DryRun::Client, Existing::Keep);
        assert_eq!(told, "pod/web unchanged (dry run)\npod/db created (dry run)\n");
    }

    #[test]
    fn a_pod_that_is_refused_hinders_no_other() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        pods.add_pod(&manifest("db", "db:1", "a"));
        let wanted = [
            manifest("web", "nginx:1", "b"),
            manifest("db", "db:2", "a"),
            manifest("new", "new:1", "a"),
        ];
        let (told, errors) = started(&pods, &wanted, DryRun::None, Existing::Keep);
        assert_eq!(told, "pod/new created\n");
        assert!(errors[0].starts_with("The Pod \"web\" is invalid: spec: Forbidden: pod updates may not change"));
        assert!(errors[1].contains("delete it and apply again"), "{errors:?}");
    }

    #[test]
    fn create_refuses_a_pod_that_exists() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        let wanted = [manifest("web", "nginx:1", "a")];
        let (_, errors) = started(&pods, &wanted, DryRun::None, Existing::Refuse);
        assert_eq!(
            errors,
            ["Error from server (AlreadyExists): pods \"web\" already exists"]
        );
    }
}
