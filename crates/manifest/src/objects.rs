//! Determines the kind of object of each document, and converts the document's values to the object.

use std::fmt;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::documents::Input;
use super::error::{FieldPath, Location, Problem, Problems};
use super::kinds::{self, Document};
use super::node::{Node, Value};
use super::nodes::{add_problems, each_node, items};
use super::schema::Schema;
use super::unknown_fields::{self, UnknownFields};
use super::{defaults, suggest, support, typed, validation};

/// The objects that are loaded: Pods, complete and as written, and others as their authors wrote them. All are valid.
pub(super) enum Object {
    Pod(Box<Pod>, WrittenPod),
    Other(Box<Document>),
}

/// A Pod exactly as its author wrote it.
#[derive(Clone, PartialEq)]
pub struct WrittenPod {
    /// The file it is in, as the user named it.
    pub source: String,
    /// With `null` where it is written, and with `apiVersion` and `kind`, which the items of typed lists leave out.
    pub value: serde_json::Value,
}

/// Without the manifest, whose variables may have passwords.
impl fmt::Debug for WrittenPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = &self.source;
        f.debug_struct("WrittenPod")
            .field("source", source)
            .finish_non_exhaustive()
    }
}

/// Places in an object that are needed to compare it with other objects, and its dropped fields.
pub(super) struct Place {
    pub(super) name_at: Location,
    /// The Secrets that it refers to, and where.
    pub(super) pull_secrets_at: Vec<(String, Location)>,
    /// The unknown fields that were dropped.
    pub(super) dropped_fields: Vec<Problem>,
}

/// Reads all objects of a file; objects with problems are left out.
pub(super) fn read(input: &Input<'_>, unknown: UnknownFields, problems: &mut Problems) -> Vec<(Place, Object)> {
    let mut objects = Vec::new();
    each_node(input, problems, |node, problems| {
        object(node, input.source, unknown, problems, &mut objects);
    });
    objects
}

fn object(
    node: &Rc<Node>,
    source: &str,
    unknown: UnknownFields,
    problems: &mut Problems,
    objects: &mut Vec<(Place, Object)>,
) {
    match kind(node, problems) {
        Kind::Pod => add_pod(node, source, unknown, problems, objects),
        Kind::Other => {
            for document in kinds::valid_documents(source, node, unknown, problems) {
                let place = Place {
                    name_at: document.name_at(),
                    pull_secrets_at: Vec::new(),
                    dropped_fields: document.dropped_fields().to_vec(),
                };
                objects.push((place, Object::Other(Box::new(document))));
            }
        }
        Kind::List => {
            for item in items(node, problems) {
                object(item, source, unknown, problems, objects);
            }
        }
        Kind::PodList => {
            for item in items(node, problems) {
                // Items of typed lists omit their type.
                if item.get("kind").is_some() {
                    object(item, source, unknown, problems, objects);
                } else {
                    add_pod(item, source, unknown, problems, objects);
                }
            }
        }
        Kind::Unknown => {}
    }
}

fn add_pod(
    node: &Node,
    source: &str,
    unknown: UnknownFields,
    problems: &mut Problems,
    objects: &mut Vec<(Place, Object)>,
) {
    let (mut found, mut dropped_fields) = (Vec::new(), Vec::new());
    let pod = pod(node, source, unknown, &mut found, &mut dropped_fields);
    for mut problem in found {
        let at = problem.location.unwrap_or_else(|| node.locate(problem.path.segments()));
        problem.location = Some(at);
        problems.add(problem);
    }
    let Some(pod) = pod else { return };
    let root = FieldPath::default();
    let mut pull_secrets_at = Vec::new();
    let references = pod
        .spec
        .iter()
        .flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    for (index, reference) in references.enumerate() {
        let path = root.field("spec").field("imagePullSecrets").index(index).field("name");
        pull_secrets_at.push((reference.name.clone(), node.locate(path.segments())));
    }
    let name_at = node.locate(root.field("metadata").field("name").segments());
    let mut value = kinds::written(node, "v1", "Pod");
    unknown_fields::remove(&mut value, &dropped_fields);
    let written = WrittenPod {
        source: source.to_owned(),
        value,
    };
    objects.push((
        Place {
            name_at,
            pull_secrets_at,
            dropped_fields,
        },
        Object::Pod(Box::new(pod), written),
    ));
}

fn pod(
    node: &Node,
    source: &str,
    unknown: UnknownFields,
    found: &mut Vec<Problem>,
    dropped: &mut Vec<Problem>,
) -> Option<Pod> {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(default, rename = "apiVersion")]
        _api_version: IgnoredAny,
        #[serde(default, rename = "kind")]
        _kind: IgnoredAny,
        metadata: Option<ObjectMeta>,
        spec: Option<PodSpec>,
        status: Option<PodStatus>,
    }
    let (fields, mut mistyped) = typed::deserialize::<Fields>(node, &FieldPath::default(), Schema::of_pod());
    dropped.extend(unknown.take(&mut mistyped));
    let (refused, ignored) = support::check(node);
    let mut invalid = Vec::new();
    let pod = fields.map(|fields| {
        let mut pod = Pod {
            metadata: fields.metadata.unwrap_or_default(),
            spec: fields.spec,
            status: fields.status,
        };
        defaults::apply(&mut pod);
        invalid = validation::validate(&pod);
        pod
    });
    invalid.extend(refused);
    add_problems(invalid, mistyped, found);
    for (path, reason) in ignored {
        tracing::info!("{source}: {path} has no effect: {reason}");
    }
    pod
}

enum Kind {
    Pod,
    /// Another kind of the table, or a list of one.
    Other,
    List,
    PodList,
    /// The problem has already been recorded.
    Unknown,
}

/// Other kinds that users may have in their files, with their APIs.
const KNOWN_KINDS: &[(&str, &str)] = &[
    ("CronJob", "batch/v1"),
    ("DaemonSet", "apps/v1"),
    ("Deployment", "apps/v1"),
    ("Ingress", "networking.k8s.io/v1"),
    ("Job", "batch/v1"),
    ("ReplicaSet", "apps/v1"),
    ("ReplicationController", "v1"),
    ("Service", "v1"),
    ("StatefulSet", "apps/v1"),
];

/// The kind that the document states. A document that is almost a Pod is read as a Pod, to find all its problems.
fn kind(node: &Node, problems: &mut Problems) -> Kind {
    let root = FieldPath::default();
    let mut add = |path: &FieldPath, what: String| {
        let mut problem = Problem::at_or_new(path, what);
        problem.location = Some(node.locate(path.segments()));
        problems.add(problem);
    };
    if !matches!(node.value, Value::Map(_)) {
        let what = "not a Kubernetes object: the document must be a mapping with apiVersion, kind, metadata and spec";
        add(&root, what.to_owned());
        return Kind::Unknown;
    }
    let mut text = |field: &str, wanted: &str| match node.get(field).map(|node| &node.value) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        None | Some(Value::Null | Value::String(_)) => {
            add(
                &root.field(field),
                format!("Required value: write `{field}: {wanted}` for a Pod"),
            );
            None
        }
        Some(value) => {
            let what = format!("invalid type: {}, expected a string", typed::describe(value));
            add(&root.field(field), what);
            Some(String::new())
        }
    };
    let (api_version, kind) = (text("apiVersion", "v1"), text("kind", "Pod"));
    let is_v1 = api_version
        .as_deref()
        .is_none_or(|version| version.is_empty() || version == "v1");
    let has_pods_fields = node.get("metadata").or_else(|| node.get("spec")).is_some();
    let found = match kind.as_deref() {
        Some("Pod") => Kind::Pod,
        Some("List") if is_v1 => Kind::List,
        Some("PodList") if is_v1 => Kind::PodList,
        Some("") => return Kind::Unknown,
        Some(kind) if is_other(api_version.as_deref(), kind) => return Kind::Other,
        // Only the version is missing, which has been reported.
        Some(kind) if api_version.is_none() && kinds::all().iter().any(|known| known.kind == kind) => {
            return Kind::Unknown;
        }
        None if has_pods_fields => Kind::Pod,
        None => return Kind::Unknown,
        Some(kind) => {
            let path = root.field("kind");
            let supported: Vec<&str> = kinds::all().iter().map(|known| known.kind).chain(["List"]).collect();
            let near = suggest::nearest(kind, &supported).filter(|near| *near != kind);
            let hint = match (near, version_of(kind)) {
                (None, Some((known, version))) if api_version.as_ref().is_some_and(|given| *given != version) => {
                    format!(" ({known} would be in {version})")
                }
                (Some(near), _) => format!("; did you mean {near:?}?"),
                _ => String::new(),
            };
            let version = api_version.as_deref().map_or("without apiVersion", |version| version);
            let shown = format!("{}, kind {}", suggest::shorten(version), suggest::shorten(kind));
            let what = format!(
                "{shown} is not supported by microkube yet, only {}{hint}",
                supported.join(", ")
            );
            add(&path, what);
            let is_meant_as_pod = near == Some("Pod") && has_pods_fields;
            return if is_meant_as_pod { Kind::Pod } else { Kind::Unknown };
        }
    };
    if !is_v1 && let Some(version) = &api_version {
        let value = suggest::shorten(version);
        let what = format!("Unsupported value: {value:?}: supported values: \"v1\" (for kind Pod)");
        add(&root.field("apiVersion"), what);
    }
    found
}

/// Whether the table has this kind, or the kind of this list. A kind whose version is missing is reported as such.
fn is_other(api_version: Option<&str>, kind: &str) -> bool {
    let Some(version) = api_version else { return false };
    let of_list = || kind.strip_suffix("List").and_then(|item| kinds::find(version, item));
    kinds::find(version, kind).or_else(of_list).is_some()
}

/// A kind that users may have in their files, whether supported or not, and its API.
fn version_of(kind: &str) -> Option<(&'static str, String)> {
    let supported = kinds::all().iter().map(|known| (known.kind, known.api_version()));
    let others = KNOWN_KINDS
        .iter()
        .map(|(known, version)| (*known, (*version).to_owned()));
    supported
        .chain(others)
        .find(|(known, _)| known.eq_ignore_ascii_case(kind))
}
