//! `microkube apply`, and its common part with `create` and `run --detach`: writing the objects of manifests and starting
//! their Pods.

use std::process::ExitCode;

use anyhow::anyhow;
use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::kinds::{self, Kind};
use microkube_manifest::{Manifests, WrittenPod};
use microkube_store::Object;
use serde_json::Value;

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
use super::targets::ChangeError;
use super::validate::ValidateArg;
use crate::objects::{ObjectError, Objects, Outcome, key};
use crate::pod::operations::apply::{ApplyError, apply, create};
use crate::pod::operations::create::CreateError;
use crate::pod::operations::update::Mode;
use crate::state::Paths;
use crate::stderr::{report, say};

/// Create or update objects from files or stdin
///
/// Removes fields that an earlier apply has set and that are no longer in the file; keeps fields that others have set.
/// The objects may be in any order: Pods start last, in the background. Only metadata, images, tolerations, scheduling
/// gates and the deadline of an existing Pod can change.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube apply -f pod.yaml\n  microkube apply -f shop/ -n test\n  microkube apply -f - < pods.yaml\n  microkube \
                  apply -f config.yaml --dry-run=server -o yaml"
)]
pub struct ApplyArgs {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    selector: SelectorArg,
    /// Apply all objects of the manifests, which is the default
    #[arg(long)]
    all: bool,
    /// Not supported
    #[arg(long, hide = true)]
    server_side: bool,
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
    if args.server_side {
        let problem = "--server-side is not supported by microkube yet; without it, apply keeps the last applied \
                       configuration in an annotation, as kubectl does";
        return Err(Failure::usage(anyhow!(problem)));
    }
    if args.all && args.selector.selector.is_some() {
        let problem = "cannot set --all and --selector at the same time";
        return Err(Failure::usage(anyhow!(problem)));
    }
    from_files(&args.files, args.selector.selector.as_ref(), Writing::Apply)
}

/// How objects are written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Writing {
    /// Existing objects are changed.
    Apply,
    /// No object may exist.
    Create(SaveConfigArg),
}

impl Writing {
    fn word(self) -> &'static str {
        match self {
            Self::Apply => "applying",
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
    let mut results = Results::new(output, &mut tell);
    loaded.validate.warn(&loaded.manifests.dropped_fields);
    let mut manifests = loaded.manifests;
    if purpose != Purpose::Look {
        let store = Objects::open(&paths).map_err(|error| as_kubectl_error(error, None))?;
        let store = if output.dry_run == DryRun::None {
            store
        } else {
            store.dry_run()
        };
        write_each(&store, &loaded.configurations, objects, &mut results, &mut errors)?;
        prepare_for_pods(&store, &mut manifests).map_err(|error| as_kubectl_error(error, None))?;
    }
    let mode = match output.dry_run {
        DryRun::None => Mode::Write,
        DryRun::Client | DryRun::Server => Mode::DryRun,
    };
    let mut start = |pod: &Pod, written: &WrittenPod| runtime.block_on(start_pod(&paths, pod, written, pods, mode));
    start_each(&manifests, pods, &mut start, &mut results, &mut errors)?;
    results.print()?;
    errors.iter().for_each(complain);
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

/// Writes the objects that Pods of a foreground command may need.
pub(super) fn write_first(objects: &Objects, configurations: &[Configuration]) -> anyhow::Result<()> {
    let output = OutputArgs::default();
    let mut tell = |_: &str| Ok(());
    let mut errors = Vec::new();
    let mut results = Results::new(&output, &mut tell);
    write_each(objects, configurations, Writing::Apply, &mut results, &mut errors)?;
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
                .map(Written::created),
            Writing::Apply => objects.apply(kind, &value).map(|applied| Written {
                outcome: applied.outcome,
                object: applied.object.into_value(),
                lacked_annotation: applied.lacked_annotation,
            }),
        };
        match written {
            Ok(written) => written.tell(kind, results)?,
            Err(error) => {
                let doing = format!("error when {} {:?}", writing.word(), configuration.source());
                errors.push(as_kubectl_error(error, Some(&doing)));
            }
        }
    }
    Ok(())
}

/// An object that was written.
struct Written {
    outcome: Outcome,
    object: Value,
    /// Whether `apply` found no last applied configuration.
    lacked_annotation: bool,
}

impl Written {
    fn created(object: Object) -> Self {
        Self {
            outcome: Outcome::Created,
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
        Writing::Apply => {
            let applied = apply(paths, &configuration(pod, written), mode).await?;
            (applied.outcome, applied.pod, applied.lacked_annotation)
        }
    };
    Ok(Written {
        outcome,
        object: kinds::Object::from(pod).to_value(),
        lacked_annotation,
    })
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
mod tests {
    use microkube_manifest::Input;
    use microkube_patch::last_applied;

    use super::super::pods::test_pods::{TestPods, manifest};
    use super::*;

    const CREATE: Writing = Writing::Create(SaveConfigArg::NO);

    /// The output of a dry run, and the errors.
    fn tried(pods: &TestPods, wanted: &[Value], dry_run: DryRun, writing: Writing) -> (String, Vec<String>) {
        let texts: Vec<String> = wanted.iter().map(Value::to_string).collect();
        let input = |text| Input { source: "x.yaml", text };
        let inputs: Vec<Input<'_>> = texts.iter().map(|text| input(text.as_bytes())).collect();
        let manifests = microkube_manifest::load(&inputs).unwrap();
        printed(dry_run, |results, errors| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let mut start = |pod: &Pod, written: &WrittenPod| {
                runtime.block_on(start_pod(&pods.paths, pod, written, writing, Mode::DryRun))
            };
            start_each(&manifests, writing, &mut start, results, errors)
        })
    }

    /// A manifest with the annotation that `apply` adds.
    fn applied(manifest: &Value) -> Value {
        let mut placed = manifest.clone();
        manifests::place(&mut placed, Some("default"));
        last_applied::record(placed).unwrap()
    }

    fn printed(
        dry_run: DryRun,
        write: impl FnOnce(&mut Results<'_>, &mut Vec<anyhow::Error>) -> anyhow::Result<()>,
    ) -> (String, Vec<String>) {
        let output = OutputArgs { dry_run, output: None };
        let (mut told, mut errors) = (String::new(), Vec::new());
        let mut tell = |text: &str| {
            told.push_str(text);
            Ok(())
        };
        write(&mut Results::new(&output, &mut tell), &mut errors).unwrap();
        (told, errors.iter().map(|error| format!("{error:#}")).collect())
    }

    /// The output about the objects in a file.
    fn written(pods: &TestPods, text: &str, writing: Writing) -> (String, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("x.yaml"), text).unwrap();
        let files = FilenameArgs::of(&[directory.path().join("x.yaml")]);
        let loaded = manifests::load(&files, &NamespaceArg { namespace: None }).unwrap();
        let objects = Objects::open(&pods.paths).unwrap();
        let (told, errors) = printed(DryRun::None, |results, errors| {
            write_each(&objects, &loaded.configurations, writing, results, errors)
        });
        let errors = errors
            .iter()
            .map(|error| error.replace(&directory.path().display().to_string(), ""));
        (told, errors.collect())
    }

    #[test]
    fn the_outcome_for_each_pod_is_reported() {
        let pods = TestPods::new();
        pods.add_pod(&applied(&manifest("web", "nginx:1", "a")));
        let wanted = [manifest("web", "nginx:1", "a"), manifest("db", "db:1", "a")];
        let (told, errors) = tried(&pods, &wanted, DryRun::None, Writing::Apply);
        assert_eq!(told, "pod/web unchanged\npod/db created\n");
        assert!(errors.is_empty(), "{errors:?}");
        let (told, _) = tried(&pods, &wanted, DryRun::Client, Writing::Apply);
        assert_eq!(told, "pod/web unchanged (dry run)\npod/db created (dry run)\n");
    }

    #[test]
    fn a_refused_pod_does_not_affect_the_others() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        pods.add_pod(&manifest("db", "db:1", "a"));
        let wanted = [
            manifest("web", "nginx:1", "b"),
            manifest("db", "db:2", "a"),
            manifest("new", "new:1", "a"),
        ];
        let (told, errors) = tried(&pods, &wanted, DryRun::None, Writing::Apply);
        assert_eq!(told, "pod/db configured\npod/new created\n");
        assert!(errors[0].starts_with("The Pod \"web\" is invalid: spec: Forbidden: pod updates may not change"));
        assert_eq!(errors.len(), 1, "{errors:?}");
    }

    #[test]
    fn errors_about_pods_may_lack_what_was_attempted() {
        let error = || ApplyError::AlreadyExists { name: "web".to_owned() };
        let kind = kinds::named("pod").unwrap();
        assert_eq!(
            as_kubectl_pod_error(kind, error(), None).to_string(),
            "Error (AlreadyExists): pods \"web\" already exists"
        );
        assert_eq!(
            as_kubectl_pod_error(kind, error(), Some("doing")).to_string(),
            "Error (AlreadyExists): doing: pods \"web\" already exists"
        );
    }

    #[test]
    fn create_refuses_a_pod_that_exists() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        let wanted = [manifest("web", "nginx:1", "a")];
        let (_, errors) = tried(&pods, &wanted, DryRun::None, CREATE);
        assert_eq!(
            errors,
            ["Error (AlreadyExists): error when creating \"x.yaml\": pods \"web\" already exists"]
        );
    }

    const OBJECTS: &str =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: shop}, data: {a: b}, immutable: true}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {a: b}}}
---
{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: b}}
";

    #[test]
    fn objects_are_applied_with_namespaces_first() {
        let pods = TestPods::new();
        let created = "namespace/shop created\nconfigmap/c created\nsecret/s created\n";
        assert_eq!(
            written(&pods, OBJECTS, Writing::Apply),
            (created.to_owned(), Vec::new())
        );
        // As in kubectl, `stringData` is always a change.
        let unchanged = "namespace/shop unchanged\nconfigmap/c unchanged\nsecret/s configured\n";
        assert_eq!(
            written(&pods, OBJECTS, Writing::Apply),
            (unchanged.to_owned(), Vec::new())
        );
        let changed = OBJECTS.replace("data: {a: b}, immutable", "data: {a: c}, immutable");
        let (told, errors) = written(&pods, &changed, Writing::Apply);
        assert_eq!(told, "namespace/shop unchanged\nsecret/s configured\n");
        assert_eq!(
            errors,
            ["The ConfigMap \"c\" is invalid: data: Forbidden: field is immutable when `immutable` is set"]
        );
    }

    #[test]
    fn create_refuses_objects_that_exist() {
        let pods = TestPods::new();
        let text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}";
        assert_eq!(written(&pods, text, CREATE).0, "configmap/c created\n");
        let (told, errors) = written(&pods, text, CREATE);
        assert_eq!(told, "");
        assert_eq!(
            errors,
            ["Error (AlreadyExists): error when creating \"/x.yaml\": configmaps \"c\" already exists"]
        );
    }
}
