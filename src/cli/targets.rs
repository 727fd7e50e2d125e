//! Changes the objects that a command line names: Pods through their supervisors, all others in the store.

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::kinds::{Kind, Object as Typed};
use microkube_store::{Key, Written};
use serde_json::Value;

use super::failure::{Failure, complain};
use super::manifests::FilenameArgs;
use super::namespace::NamespaceArg;
use super::object_failure::as_kubectl_error;
use super::objects::arguments::{ObjectArgs, Requested, not_found};
use super::objects::dry_run::DryRun;
use super::objects::listing::Reader;
use super::pods::arguments::{ScopeArgs, SelectorArg};
use super::pods_host::{self, Place, Purpose};
use super::print::{emit, is_output_closed};
use super::results::{OutputArgs, Results};
use crate::objects::{self, ObjectError, Objects, Part};
use crate::pod::operations::claims;
use crate::pod::operations::update::{Mode, Part as PodPart, UpdateError, Updated, update};
use crate::pod::recorded_pod;
use crate::state::{Paths, PodRecords};

/// An object with its content.
pub(super) type Found = (Target, Value);

/// An object by its name.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) kind: &'static Kind,
    pub(super) key: Key,
}

impl Target {
    /// The name of this object.
    ///
    /// # Errors
    /// If it has none.
    pub(super) fn of(kind: &'static Kind, object: &Value) -> anyhow::Result<Self> {
        let text = |field: &str| object.pointer(field).and_then(Value::as_str).unwrap_or_default();
        let name = text("/metadata/name");
        if name.is_empty() {
            bail!(
                "resource name may not be empty: metadata.name of a {} is missing",
                kind.kind
            );
        }
        let key = objects::key(kind, text("/metadata/namespace"), name);
        Ok(Self { kind, key })
    }

    /// Whether both are the same object.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.kind.qualified_plural() == other.kind.qualified_plural() && self.key == other.key
    }
}

/// An object after a change.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) object: Value,
    /// Whether it differs from the stored one.
    pub(super) is_changed: bool,
}

/// The objects of this node, Pods included.
#[derive(Debug)]
pub(super) struct NodeObjects {
    pub(super) objects: Objects,
    paths: Paths,
    dry_run: DryRun,
}

impl NodeObjects {
    /// # Errors
    /// If the store cannot be opened.
    pub(super) fn open(paths: Paths, dry_run: DryRun) -> anyhow::Result<Self> {
        let objects = Objects::open(&paths).map_err(|error| as_kubectl_error(error, None))?;
        Ok(Self {
            objects: if dry_run == DryRun::None {
                objects
            } else {
                objects.dry_run()
            },
            paths,
            dry_run,
        })
    }

    /// The requested objects, and why others are missing.
    ///
    /// # Errors
    /// If the objects of a kind cannot be read at all.
    pub(super) fn requested(&self, requested: &Requested) -> anyhow::Result<(Vec<Found>, Vec<anyhow::Error>)> {
        let reader = Reader::new(self.paths.clone());
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for group in &requested.groups {
            let listing = reader.read(group, requested)?;
            let missing = listing.missing.iter();
            errors.extend(missing.map(|name| not_found(listing.kind, &name.name)));
            errors.extend(listing.damaged);
            for object in listing.objects {
                found.push((Target::of(listing.kind, &object)?, object));
            }
        }
        Ok((found, errors))
    }

    /// The object as it is now, if it exists.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn find(&self, target: &Target) -> anyhow::Result<Option<Value>> {
        if target.kind.kind != "Pod" {
            let found = self.objects.find(target.kind, &target.key);
            let found = found.map_err(|error| as_kubectl_error(error, None))?;
            return Ok(found.map(microkube_store::Object::into_value));
        }
        let records = PodRecords::new(self.paths.clone());
        let namespace = target.key.namespace.as_deref().unwrap_or_default();
        let Some(record) = records.find(namespace, &target.key.name)? else {
            return Ok(None);
        };
        Ok(recorded_pod::object(&records, record)?.map(|pod| Typed::from(pod).to_value()))
    }

    /// Changes an object: `change` returns its next content, or `None` to leave it alone.
    ///
    /// # Errors
    /// If the object does not exist, or may not be changed like this.
    pub(super) fn change(
        &self,
        target: &Target,
        part: Part,
        change: &mut dyn FnMut(&Value) -> Result<Option<Value>, ObjectError>,
    ) -> anyhow::Result<Changed> {
        self.try_change(target, part, change).map_err(ChangeError::into_report)
    }

    /// Like [`Self::change`], with a typed error.
    pub(super) fn try_change(
        &self,
        target: &Target,
        part: Part,
        change: &mut dyn FnMut(&Value) -> Result<Option<Value>, ObjectError>,
    ) -> Result<Changed, ChangeError> {
        if target.kind.kind == "Pod" {
            return self.change_pod(target, part, change);
        }
        let written = self.objects.change(target.kind, &target.key, part, change);
        let written = written.map_err(ChangeError::Object)?;
        Ok(Changed {
            is_changed: !matches!(written, Written::Unchanged(_)),
            object: written.into_object().into_value(),
        })
    }

    /// Asks the Pod's supervisor for a change.
    fn change_pod(
        &self,
        target: &Target,
        part: Part,
        change: &mut dyn FnMut(&Value) -> Result<Option<Value>, ObjectError>,
    ) -> Result<Changed, ChangeError> {
        let part = match part {
            Part::Main => PodPart::Pod,
            Part::Status => PodPart::Status,
        };
        let mode = match self.dry_run {
            DryRun::None => Mode::Write,
            DryRun::Client | DryRun::Server => Mode::DryRun,
        };
        let mut change = |pod: &Pod| -> Result<Pod, ObjectError> {
            let Some(new) = change(&Typed::from(pod.clone()).to_value())? else {
                return Ok(pod.clone());
            };
            let mut wanted = objects::read(target.kind, &new)?;
            objects::match_request(&mut wanted, &target.key)?;
            match wanted {
                Typed::Pod(pod) => Ok(*pod),
                // The kind decides what is read.
                _ => Ok(pod.clone()),
            }
        };
        let namespace = target.key.namespace.as_deref().unwrap_or_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(anyhow::Error::from)?;
        let updated = runtime.block_on(update(
            &self.paths,
            namespace,
            &target.key.name,
            part,
            mode,
            &mut change,
        ));
        let updated = updated.map_err(|error| ChangeError::of_pod(target.kind, error))?;
        Ok(Changed {
            is_changed: matches!(updated, Updated::Changed(_)),
            object: Typed::from(updated.into_pod()).to_value(),
        })
    }

    /// Where the records of Pods are.
    pub(super) fn paths(&self) -> &Paths {
        &self.paths
    }
}

/// Why an object was not changed.
#[derive(Debug)]
pub(super) enum ChangeError {
    Object(ObjectError),
    /// An error of the API server about a Pod, with its reason: `Conflict`.
    Pod {
        reason: &'static str,
        error: anyhow::Error,
    },
    Other(anyhow::Error),
}

impl From<anyhow::Error> for ChangeError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl ChangeError {
    /// Why a Pod was not changed.
    pub(super) fn of_pod(kind: &'static Kind, error: UpdateError<ObjectError>) -> Self {
        match error {
            UpdateError::Change(error) => Self::Object(error),
            UpdateError::Invalid { name, problems } => Self::Object(ObjectError::Invalid {
                kind: kind.kind.to_owned(),
                name,
                problems,
            }),
            UpdateError::NotFound { name } => Self::Pod {
                reason: "NotFound",
                error: anyhow!("{} {name:?} not found", kind.qualified_plural()),
            },
            UpdateError::Conflict { .. } => Self::Pod {
                reason: "Conflict",
                error: error.into_report(),
            },
            error => Self::Other(error.into_report()),
        }
    }

    /// The error as kubectl words it.
    pub(super) fn into_report(self) -> anyhow::Error {
        self.while_doing(None)
    }

    /// The error as kubectl words it. `doing` is what was attempted: `error when applying "web.yaml"`.
    pub(super) fn while_doing(self, doing: Option<&str>) -> anyhow::Error {
        match self {
            Self::Object(error) => as_kubectl_error(error, doing),
            Self::Pod { reason, error } => {
                let doing = doing.map(|doing| format!("{doing}: ")).unwrap_or_default();
                anyhow!("Error ({reason}): {doing}{error:#}")
            }
            Self::Other(error) => error,
        }
    }
}

/// Objects by their names.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct NamedArgs {
    #[command(flatten)]
    objects: ObjectArgs,
    #[command(flatten)]
    namespace: NamespaceArg,
}

impl NamedArgs {
    /// The files with the objects, for `--local`.
    ///
    /// # Errors
    /// If there are none, or objects of the node are named.
    pub(super) fn local_files(&self) -> Result<&FilenameArgs, Failure> {
        let problem = match (
            self.objects.resources.is_empty(),
            self.objects.files.filename.is_empty(),
        ) {
            (true, false) => return Ok(&self.objects.files),
            (false, _) => "cannot specify --local and server resources",
            (true, true) => "--local changes the objects of files: name them with -f",
        };
        Err(Failure::from(anyhow!(problem)))
    }

    /// The named objects; reads manifests.
    ///
    /// # Errors
    /// If there are none, a type is unknown, or a manifest is invalid.
    pub(super) fn requested(&self) -> Result<Requested, Failure> {
        if self.objects.resources.is_empty() && self.objects.files.filename.is_empty() {
            let problem = "one or more resources must be specified as <resource> <name> or <resource>/<name>";
            return Err(Failure::from(anyhow!(problem)));
        }
        let scope = ScopeArgs {
            namespace: self.namespace.clone(),
            all_namespaces: false,
        };
        let requested = Requested::new(&self.objects, &scope, &SelectorArg { selector: None }, None)?;
        check_names(&requested)?;
        Ok(requested)
    }
}

/// Checks that objects are named, and not only types.
///
/// # Errors
/// If there are no names and no selector.
pub(super) fn check_names(requested: &Requested) -> Result<(), Failure> {
    if !requested.has_names() {
        let problem = anyhow!("resource(s) were provided, but no name was specified");
        return Err(Failure::from(problem));
    }
    Ok(())
}

/// Changes each requested object, on this host or in the emulated host. An error concerns one object only.
pub(super) fn for_each(
    requested: &Requested,
    output: &OutputArgs,
    act: &mut dyn FnMut(&NodeObjects, &Target, Value, &mut Results<'_>) -> anyhow::Result<()>,
) -> Result<ExitCode, Failure> {
    let paths = match pods_host::go_to_pods(Purpose::Objects, requested.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let node = NodeObjects::open(paths, output.dry_run)?;
    let (found, mut errors) = node.requested(requested)?;
    let mut tell = emit;
    let mut results = Results::new(output, &mut tell)?;
    let kinds: Vec<&Kind> = found.iter().map(|(target, _)| target.kind).collect();
    for (target, object) in found {
        match act(&node, &target, object, &mut results) {
            Err(error) if is_output_closed(&error) => return Err(error.into()),
            Err(error) => errors.push(error),
            Ok(()) => {}
        }
    }
    claims::follow_changes(node.paths(), &node.objects, kinds);
    results.print(&mut errors)?;
    errors.iter().for_each(complain);
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;
    use serde_json::json;

    use super::super::pods::test_pods::{TestPods, manifest};
    use super::*;

    #[test]
    fn pods_are_changed_like_other_objects() {
        let pods = TestPods::new();
        pods.add_ended(&manifest("web", "nginx:1", "a"));
        let target = |name: &str| Target {
            kind: kinds::named("pod").unwrap(),
            key: Key::namespaced("default", name),
        };
        let labelled = |name: &str, dry_run: DryRun, label: &str| {
            let node = NodeObjects::open(pods.paths.clone(), dry_run).unwrap();
            let changed = node.change(&target(name), Part::Main, &mut |pod| {
                let mut pod = pod.clone();
                pod["metadata"]["labels"] = json!({ "tier": label });
                Ok(Some(pod))
            });
            let label = |object: &Value| object["metadata"]["labels"]["tier"].clone();
            let changed = changed.map(|changed| (changed.is_changed, label(&changed.object)));
            let stored = node.find(&target(name)).unwrap();
            (
                changed.map_err(|error| error.to_string()),
                stored.map(|pod| label(&pod)),
            )
        };
        let front = || json!("front");
        assert_eq!(
            labelled("web", DryRun::Server, "front"),
            (Ok((true, front())), Some(Value::Null))
        );
        assert_eq!(
            labelled("web", DryRun::None, "front"),
            (Ok((true, front())), Some(front()))
        );
        assert_eq!(
            labelled("web", DryRun::None, "front"),
            (Ok((false, front())), Some(front()))
        );
        let (invalid, stored) = labelled("web", DryRun::None, "a/b");
        let invalid = invalid.unwrap_err();
        assert!(
            invalid.starts_with("The Pod \"web\" is invalid: metadata.labels"),
            "{invalid}"
        );
        assert_eq!(stored, Some(front()));
        let node = NodeObjects::open(pods.paths.clone(), DryRun::None).unwrap();
        for (field, message) in [
            (
                "name",
                "the name of the object (other) does not match the name on the URL (web)",
            ),
            (
                "namespace",
                "the namespace of the provided object does not match the namespace sent on the request",
            ),
        ] {
            let renamed = node.change(&target("web"), Part::Main, &mut |pod| {
                let mut pod = pod.clone();
                pod["metadata"][field] = json!("other");
                Ok(Some(pod))
            });
            assert_eq!(
                renamed.unwrap_err().to_string(),
                format!("Error (BadRequest): {message}")
            );
        }
        let missing = Err("Error (NotFound): pods \"none\" not found".to_owned());
        assert_eq!(labelled("none", DryRun::None, "front"), (missing, None));
    }

    #[test]
    fn errors_about_pods_say_what_was_attempted() {
        let pods = TestPods::new();
        pods.add_ended(&manifest("web", "nginx:1", "a"));
        let node = NodeObjects::open(pods.paths.clone(), DryRun::None).unwrap();
        let replaced = |name: &str, doing: Option<&str>| {
            let target = Target {
                kind: kinds::named("pod").unwrap(),
                key: Key::namespaced("default", name),
            };
            let changed = node.try_change(&target, Part::Main, &mut |pod| {
                let mut pod = pod.clone();
                pod["metadata"]["resourceVersion"] = "1000000".into();
                Ok(Some(pod))
            });
            changed.unwrap_err().while_doing(doing).to_string()
        };
        let doing = "error when replacing \"x.yaml\"";
        let conflict = replaced("web", Some(doing));
        assert!(
            conflict.starts_with(&format!("Error (Conflict): {doing}: ")),
            "{conflict}"
        );
        assert!(replaced("web", None).starts_with("Error (Conflict): "));
        assert_eq!(
            replaced("none", Some(doing)),
            format!("Error (NotFound): {doing}: pods \"none\" not found")
        );
    }
}
