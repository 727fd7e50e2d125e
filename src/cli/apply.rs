//! `microkube apply`, and its common part with `create` and `run --detach`: writing the objects of manifests and starting
//! their Pods.

mod overwrite;
mod set_last_applied;
mod view_last_applied;

use std::process::ExitCode;

use anyhow::anyhow;
use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::kinds::{self, Kind};
use microkube_manifest::{Manifests, WrittenPod};
use microkube_patch::last_applied;
use microkube_store::Object;
use serde_json::Value;
use tokio::runtime::Runtime;

use self::set_last_applied::SetLastAppliedArgs;
use self::view_last_applied::ViewLastAppliedArgs;
use super::delete::ReplacedArgs;
use super::edit::{self, EditLastAppliedArgs};
use super::failure::{Failure, complain};
use super::field_manager::FieldManagerArg;
use super::manifests::{self, Configuration, FilenameArgs, Loaded};
use super::namespace::NamespaceArg;
use super::object_failure::as_kubectl_error;
use super::objects::dry_run::DryRun;
use super::pods::arguments::SelectorArg;
use super::pods_host::{self, Place, Purpose};
use super::print::emit;
use super::results::{OutputArgs, Results};
use super::save_config::{SaveConfigArg, configuration};
use super::selector::Selector;
use super::targets::{ChangeError, Target};
use super::validate::ValidateArg;
use crate::objects::{ObjectError, Objects, Outcome, Overwrite, key};
use crate::pod::operations::apply::{ApplyError, annotated, apply, create};
use crate::pod::operations::claims;
use crate::pod::operations::create::CreateError;
use crate::pod::operations::update::{Mode, UpdateError};
use crate::state::Paths;
use crate::stderr::{report, say};

/// Create or update objects from files or stdin
///
/// Removes fields that an earlier apply has set and that are no longer in the file; keeps fields that others have set.
/// The objects may be in any order: Pods start last, in the background. Only metadata, images, tolerations, scheduling
/// gates and the deadline of an existing Pod can change.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  microkube apply -f pod.yaml\n  microkube apply -f shop/ -n test\n  microkube apply -f - < pods.yaml\n  microkube \
                  apply -f config.yaml --dry-run=server -o yaml"
)]
pub struct ApplyArgs {
    #[command(subcommand)]
    last_applied: Option<LastApplied>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    selector: SelectorArg,
    /// Delete and create objects again that may not be changed like this
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    replaced: ReplacedArgs,
    /// With --overwrite=false: fail if others have changed what would be changed
    #[arg(long, action = clap::ArgAction::Set, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    overwrite: bool,
    /// Apply all objects of the manifests, which is the default
    #[arg(long)]
    all: bool,
    /// Not supported
    #[arg(long, hide = true)]
    server_side: bool,
}

/// What can be done with last applied configurations.
#[derive(Debug, clap::Subcommand)]
enum LastApplied {
    #[command(name = "view-last-applied")]
    View(ViewLastAppliedArgs),
    #[command(name = "set-last-applied")]
    Set(SetLastAppliedArgs),
    #[command(name = "edit-last-applied")]
    Edit(EditLastAppliedArgs),
}

/// The manifests, and the output about their objects.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("manifests").arg("filename").required(true)))]
pub(super) struct FileArgs {
    #[command(flatten)]
    pub(super) files: FilenameArgs,
    #[command(flatten)]
    pub(super) namespace: NamespaceArg,
    #[command(flatten)]
    pub(super) validate: ValidateArg,
    #[command(flatten)]
    _field_manager: FieldManagerArg,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) fn run(args: ApplyArgs) -> Result<ExitCode, Failure> {
    match args.last_applied {
        None => {}
        Some(LastApplied::View(args)) => return view_last_applied::run(&args),
        Some(LastApplied::Set(args)) => return set_last_applied::run(&args),
        Some(LastApplied::Edit(args)) => return edit::run_last_applied(args),
    }
    if args.server_side {
        let problem = "--server-side is not supported by microkube yet; without it, apply keeps the last applied \
                       configuration in an annotation, as kubectl does";
        return Err(Failure::from(anyhow!(problem)));
    }
    if args.all && args.selector.selector.is_some() {
        let problem = "cannot set --all and --selector at the same time";
        return Err(Failure::from(anyhow!(problem)));
    }
    let overwrite = match args.overwrite {
        true => Overwrite::Always,
        false => Overwrite::Never,
    };
    let writing = match args.force && args.files.output.dry_run == DryRun::None {
        true => Writing::ApplyByForce(overwrite, args.replaced),
        false => Writing::Apply(overwrite),
    };
    from_files(&args.files, args.selector.selector.as_ref(), writing)
}

/// How objects are written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Writing {
    /// Existing objects are changed.
    Apply(Overwrite),
    /// Existing objects are changed, or replaced if they may not be changed like this. Not for dry runs.
    ApplyByForce(Overwrite, ReplacedArgs),
    /// No object may exist.
    Create(SaveConfigArg),
}

impl Writing {
    fn is_apply(self) -> bool {
        !matches!(self, Self::Create(_))
    }

    fn word(self) -> &'static str {
        match self {
            Self::Apply(_) | Self::ApplyByForce(..) => "applying",
            Self::Create(_) => "creating",
        }
    }
}

/// Writes the objects and starts the Pods in these files.
pub(super) fn from_files(args: &FileArgs, selector: Option<&Selector>, writing: Writing) -> Result<ExitCode, Failure> {
    let mut loaded = manifests::load_validated(&args.files, &args.namespace, args.validate)?;
    if let Some(selector) = selector {
        loaded.select(selector)?;
    }
    start_all(loaded, &args.output, writing, writing)
}

/// Writes objects, and starts Pods that run independently of this command.
pub(super) fn start_all(
    loaded: Loaded,
    output: &OutputArgs,
    objects: Writing,
    pods: Writing,
) -> Result<ExitCode, Failure> {
    let purpose = match output.dry_run {
        DryRun::None if !loaded.manifests.pods.is_empty() => Purpose::Start,
        DryRun::Client | DryRun::Server if loaded.configurations.is_empty() => Purpose::Look,
        _ => Purpose::Objects,
    };
    let paths = match pods_host::go_to_pods(purpose, loaded.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut errors = Vec::new();
    let mut tell = emit;
    let mut results = Results::new(output, &mut tell)?;
    if objects.is_apply() {
        results = results.in_a_list();
    }
    loaded.validate.warn(&loaded.manifests.dropped_fields);
    let mut manifests = loaded.manifests;
    if purpose != Purpose::Look {
        let store = Objects::open(&paths).map_err(|error| as_kubectl_error(error, None))?;
        let store = if output.dry_run == DryRun::None {
            store
        } else {
            store.dry_run()
        };
        write_each(
            &paths,
            &store,
            &loaded.configurations,
            objects,
            &mut results,
            &mut errors,
        )?;
        prepare_for_pods(&store, &mut manifests).map_err(|error| as_kubectl_error(error, None))?;
    }
    let mode = match output.dry_run {
        DryRun::None => Mode::Write,
        DryRun::Client | DryRun::Server => Mode::DryRun,
    };
    let mut start = |pod: &Pod, written: &WrittenPod| {
        let started = runtime.block_on(start_pod(&paths, pod, written, pods, mode));
        match (started, pods) {
            (Err(ApplyError::Update(error)), Writing::ApplyByForce(_, replaced)) if is_update_refused(&error) => {
                recreate_pod(&paths, &runtime, pod, written, &replaced)
            }
            (started, _) => started,
        }
    };
    start_each(&manifests, pods, &mut start, &mut results, &mut errors)?;
    results.print(&mut errors)?;
    errors.iter().for_each(complain);
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

/// Writes the objects that Pods of a foreground command may need.
pub(super) fn write_first(paths: &Paths, objects: &Objects, configurations: &[Configuration]) -> anyhow::Result<()> {
    let output = OutputArgs::default();
    let mut tell = |_: &str| Ok(());
    let mut errors = Vec::new();
    let mut results = Results::new(&output, &mut tell)?;
    write_each(
        paths,
        objects,
        configurations,
        Writing::Apply(Overwrite::Always),
        &mut results,
        &mut errors,
    )?;
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Creates the namespaces of Pods, and warns of Secrets that do not exist. The Secrets of the manifests are in the store,
/// so the Pods' records need no copies of them.
pub(super) fn prepare_for_pods(objects: &Objects, manifests: &mut Manifests) -> Result<(), ObjectError> {
    let namespaces = manifests.pods.iter().map(|pod| pod.metadata.namespace.as_deref());
    for namespace in namespaces.flatten() {
        objects.ensure_namespace(namespace)?;
    }
    for missing in &manifests.missing_pull_secrets {
        let pod = manifests.pods.get(missing.pod);
        let namespace = pod.and_then(|pod| pod.metadata.namespace.as_deref());
        // Ignore a reference without a name.
        if let Some(kind) = kinds::find("v1", "Secret").filter(|_| !missing.name.is_empty())
            && objects
                .find(kind, &key(kind, namespace.unwrap_or_default(), &missing.name))?
                .is_none()
        {
            report!("warning: {missing}");
        }
    }
    manifests.pull_secrets.clear();
    Ok(())
}

/// Writes objects other than Pods: Namespaces first, the others in their order.
fn write_each(
    paths: &Paths,
    objects: &Objects,
    configurations: &[Configuration],
    writing: Writing,
    results: &mut Results<'_>,
    errors: &mut Vec<anyhow::Error>,
) -> anyhow::Result<()> {
    let mut ordered: Vec<&Configuration> = configurations.iter().collect();
    ordered.sort_by_key(|configuration| configuration.kind().kind != "Namespace");
    for configuration in ordered {
        let (kind, value) = (configuration.kind(), configuration.value());
        let written = match writing {
            Writing::Create(save_config) => save_config
                .object(value)
                .and_then(|value| objects.create(kind, &value))
                .map(|object| Written::of(Outcome::Created, object))
                .map_err(ChangeError::Object),
            Writing::Apply(overwrite) => apply_object(objects, kind, &value, overwrite).map_err(ChangeError::Object),
            Writing::ApplyByForce(overwrite, replaced) => match apply_object(objects, kind, &value, overwrite) {
                Err(error) if is_refused(&error) && kind.kind != "Namespace" => {
                    recreate(paths, objects, kind, &value, &replaced)
                }
                applied => applied.map_err(ChangeError::Object),
            },
        };
        match written {
            Ok(written) => written.tell(kind, results)?,
            Err(ChangeError::Object(ObjectError::Overwrites(conflict))) => {
                errors.push(overwrite::refused(kind, &conflict, configuration.source()));
            }
            Err(error) => {
                let doing = format!("error when {} {:?}", writing.word(), configuration.source());
                errors.push(error.while_doing(Some(&doing)));
            }
        }
    }
    claims::follow_changes(paths, objects, configurations.iter().map(Configuration::kind));
    Ok(())
}

fn apply_object(
    objects: &Objects,
    kind: &'static Kind,
    value: &Value,
    overwrite: Overwrite,
) -> Result<Written, ObjectError> {
    let applied = objects.apply(kind, value, overwrite)?;
    Ok(Written {
        lacked_annotation: applied.lacked_annotation,
        ..Written::of(applied.outcome, applied.object)
    })
}

/// Deletes an object, and creates it again from its configuration.
fn recreate(
    paths: &Paths,
    objects: &Objects,
    kind: &'static Kind,
    value: &Value,
    replaced: &ReplacedArgs,
) -> Result<Written, ChangeError> {
    let target = Target::of(kind, value)?;
    let configuration = last_applied::record(value.clone()).map_err(|error| ChangeError::Object(error.into()))?;
    replaced.delete(paths, kind, &target.key, &|_| Ok(()))?;
    let created = objects
        .create_again(kind, &configuration)
        .map_err(ChangeError::Object)?;
    Ok(Written::of(Outcome::Configured, created))
}

/// Whether a new object may have what a change may not.
fn is_refused(error: &ObjectError) -> bool {
    matches!(error.reason(), Some("Invalid" | "Conflict"))
}

/// An object that was written.
struct Written {
    outcome: Outcome,
    object: Value,
    /// Whether `apply` found no last applied configuration.
    lacked_annotation: bool,
}

impl Written {
    fn of(outcome: Outcome, object: Object) -> Self {
        Self {
            outcome,
            object: object.into_value(),
            lacked_annotation: false,
        }
    }

    /// Prints the result for the object, with kubectl's warnings.
    fn tell(self, kind: &Kind, results: &mut Results<'_>) -> anyhow::Result<()> {
        let name = self.object.pointer("/metadata/name").and_then(Value::as_str);
        let name = name.unwrap_or_default();
        if self.lacked_annotation {
            say!(
                "Warning: resource {}/{name} is missing the kubectl.kubernetes.io/last-applied-configuration annotation which is required \
                 by microkube apply. microkube apply should only be used on resources created declaratively by either microkube create \
                 --save-config or microkube apply. The missing annotation will be patched automatically.",
                kind.plural
            );
        }
        let deleted_at = self.object.pointer("/metadata/deletionTimestamp");
        if self.outcome != Outcome::Created && deleted_at.is_some_and(|at| !at.is_null()) {
            say!("Warning: Detected changes to resource {name} which is currently being deleted.");
        }
        let done = match self.outcome {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged => "unchanged",
        };
        results.add(kind, self.object, done)
    }
}

/// Creates and starts a Pod, or changes an existing one.
async fn start_pod(
    paths: &Paths,
    pod: &Pod,
    written: &WrittenPod,
    writing: Writing,
    mode: Mode,
) -> Result<Written, ApplyError> {
    let (outcome, pod, lacked_annotation) = match writing {
        Writing::Create(save_config) => {
            let pod = save_config.pod(pod, written)?;
            (Outcome::Created, create(paths, &pod, mode).await?, false)
        }
        Writing::Apply(overwrite) | Writing::ApplyByForce(overwrite, _) => {
            let applied = apply(paths, &configuration(pod, written), overwrite, mode).await?;
            (applied.outcome, applied.pod, applied.lacked_annotation)
        }
    };
    Ok(Written {
        outcome,
        object: kinds::Object::from(pod).to_value(),
        lacked_annotation,
    })
}

/// Deletes a Pod, and creates it again from its configuration.
fn recreate_pod(
    paths: &Paths,
    runtime: &Runtime,
    pod: &Pod,
    written: &WrittenPod,
    replaced: &ReplacedArgs,
) -> Result<Written, ApplyError> {
    let pod = annotated(&configuration(pod, written))?;
    let object = kinds::Object::from(pod.clone());
    let target = Target::of(object.kind(), &object.to_value()).map_err(ApplyError::Release)?;
    let deleted = replaced.delete(paths, target.kind, &target.key, &|_| Ok(()));
    deleted.map_err(ApplyError::Release)?;
    let created = runtime.block_on(create(paths, &pod, Mode::Write))?;
    Ok(Written {
        outcome: Outcome::Configured,
        object: kinds::Object::from(created).to_value(),
        lacked_annotation: false,
    })
}

fn is_update_refused(error: &UpdateError<ObjectError>) -> bool {
    match error {
        UpdateError::Invalid { .. } | UpdateError::Conflict { .. } => true,
        UpdateError::Change(error) => is_refused(error),
        _ => false,
    }
}

/// Starts the Pods that do not exist.
fn start_each(
    manifests: &Manifests,
    writing: Writing,
    start: &mut dyn FnMut(&Pod, &WrittenPod) -> Result<Written, ApplyError>,
    results: &mut Results<'_>,
    errors: &mut Vec<anyhow::Error>,
) -> anyhow::Result<()> {
    for (pod, written) in manifests.pods.iter().zip(&manifests.written) {
        let kind = kinds::Object::from(pod.clone()).kind();
        match start(pod, written) {
            Ok(written) => written.tell(kind, results)?,
            Err(ApplyError::Update(UpdateError::Change(ObjectError::Overwrites(conflict)))) => {
                errors.push(overwrite::refused(kind, &conflict, &written.source));
            }
            Err(error) => {
                let doing = format!("error when {} {:?}", writing.word(), written.source);
                errors.push(as_kubectl_pod_error(kind, error, Some(&doing)));
            }
        }
    }
    Ok(())
}

/// Words the API server's errors about Pods as kubectl does. `doing` is what was attempted.
pub(super) fn as_kubectl_pod_error(kind: &'static Kind, error: ApplyError, doing: Option<&str>) -> anyhow::Error {
    let prefix = doing.map(|doing| format!("{doing}: ")).unwrap_or_default();
    match error {
        ApplyError::AlreadyExists { .. } => anyhow!("Error (AlreadyExists): {prefix}{error}"),
        ApplyError::Create(CreateError::Namespace(_)) => anyhow!("Error (Forbidden): {prefix}{error}"),
        ApplyError::Object(error) => as_kubectl_error(error, doing),
        ApplyError::Update(error) => ChangeError::of_pod(kind, error).while_doing(doing),
        error => error.into_report(),
    }
}

#[cfg(test)]
mod tests;
