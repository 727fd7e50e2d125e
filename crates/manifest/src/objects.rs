//! Which kind of object a document is, and the way from its values to the object.

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::documents::{self, Input};
use super::error::{FieldPath, Location, Problem, Problems};
use super::node::{Node, Value};
use super::secret::{self, PullSecret};
use super::validation::{self, Found};
use super::{defaults, suggest, support, typed, yaml};

/// What a document can be.
pub(super) enum Object {
    Pod(Box<Pod>),
    PullSecret(PullSecret, Box<ObjectMeta>),
}

/// Where things of an object are that are compared with other objects.
pub(super) struct Place {
    pub(super) name_at: Location,
    /// The Secrets that it refers to.
    pub(super) pull_secrets_at: Vec<(String, Location)>,
}

/// Reads all objects of a file; those with problems are left out.
pub(super) fn read(input: &Input<'_>, problems: &mut Problems) -> Vec<(Place, Object)> {
    let documents = match documents::split(input.text) {
        Ok(documents) => documents,
        Err(problem) => {
            problems.add(problem);
            return Vec::new();
        }
    };
    let mut objects = Vec::new();
    let mut budget = yaml::Budget::default();
    for document in &documents {
        let (nodes, found) = yaml::parse(document, &mut budget);
        found.into_iter().for_each(|problem| problems.add(problem));
        for node in &nodes {
            object(node, input.source, problems, &mut objects);
        }
        if problems.more > 0 {
            break;
        }
    }
    objects
}

fn object(node: &Node, source: &str, problems: &mut Problems, objects: &mut Vec<(Place, Object)>) {
    let kind = kind(node, problems);
    let mut found = Vec::new();
    let object = match kind {
        Kind::Pod => pod(node, source, &mut found).map(|pod| Object::Pod(Box::new(pod))),
        Kind::Secret => pull_secret(node, &mut found),
        Kind::List => {
            list(node, source, problems, objects);
            None
        }
        Kind::Unknown => None,
    };
    for mut problem in found {
        let at = problem.location.unwrap_or_else(|| node.locate(problem.path.segments()));
        problem.location = Some(at);
        problems.add(problem);
    }
    let Some(object) = object else { return };
    let root = FieldPath::default();
    let mut pull_secrets_at = Vec::new();
    if let Object::Pod(pod) = &object {
        let references = pod
            .spec
            .iter()
            .flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        for (index, reference) in references.enumerate() {
            let path = root.field("spec").field("imagePullSecrets").index(index).field("name");
            pull_secrets_at.push((reference.name.clone(), node.locate(path.segments())));
        }
    }
    let name_at = node.locate(root.field("metadata").field("name").segments());
    objects.push((
        Place {
            name_at,
            pull_secrets_at,
        },
        object,
    ));
}

/// A list of objects, as `kubectl get -o yaml` writes it.
fn list(node: &Node, source: &str, problems: &mut Problems, objects: &mut Vec<(Place, Object)>) {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(default, rename = "apiVersion")]
        _api_version: IgnoredAny,
        #[serde(default, rename = "kind")]
        _kind: IgnoredAny,
        #[serde(default, rename = "metadata")]
        _metadata: IgnoredAny,
        #[serde(default)]
        items: Option<Vec<IgnoredAny>>,
    }
    let root = FieldPath::default();
    let (fields, found) = typed::deserialize::<Fields>(node, &root);
    let wrong = !found.is_empty();
    found.into_iter().for_each(|problem| problems.add(problem));
    if !wrong && fields.is_none_or(|fields| fields.items.is_none()) {
        let mut problem = Problem::at(&root.field("items"), "Required value");
        problem.location = Some(node.at);
        problems.add(problem);
    }
    if let Some(items) = node.get("items") {
        for (_, item) in items.elements(&root) {
            object(item, source, problems, objects);
        }
    }
}

fn pod(node: &Node, source: &str, found: &mut Vec<Problem>) -> Option<Pod> {
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
    let (fields, mistyped) = typed::deserialize::<Fields>(node, &FieldPath::default());
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

fn pull_secret(node: &Node, found: &mut Vec<Problem>) -> Option<Object> {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(default, rename = "apiVersion")]
        _api_version: IgnoredAny,
        #[serde(default, rename = "kind")]
        _kind: IgnoredAny,
        metadata: Option<ObjectMeta>,
        data: Option<std::collections::BTreeMap<String, k8s_openapi::ByteString>>,
        #[serde(rename = "stringData")]
        string_data: Option<std::collections::BTreeMap<String, String>>,
        #[serde(rename = "type")]
        type_: Option<String>,
        immutable: Option<bool>,
    }
    let (fields, mut mistyped) = typed::deserialize::<Fields>(node, &FieldPath::default());
    for problem in &mut mistyped {
        if problem.path.starts_with(&FieldPath::default().field("data")) {
            // What is invalid there, and not of the wrong type, is what the decoder says.
            problem.message = problem
                .message
                .replacen(": Invalid ", ": not valid base64: Invalid ", 1);
        }
    }
    let mut invalid = Found::default();
    let object = fields.map(|fields| {
        let mut metadata = fields.metadata.unwrap_or_default();
        defaults::metadata(&mut metadata);
        let secret = Secret {
            metadata: metadata.clone(),
            data: fields.data,
            string_data: fields.string_data,
            type_: fields.type_,
            immutable: fields.immutable,
        };
        Object::PullSecret(secret::read(secret, &mut invalid), Box::new(metadata))
    });
    add_problems(invalid.0, mistyped, found);
    object
}

/// Adds the problems, without those that a value of the wrong type has only because it was read as a zero.
fn add_problems(invalid: Vec<Problem>, mistyped: Vec<Problem>, found: &mut Vec<Problem>) {
    let about = |problem: &Problem| mistyped.iter().any(|other| problem.path.starts_with(&other.path));
    let invalid: Vec<Problem> = invalid.into_iter().filter(|problem| !about(problem)).collect();
    found.extend(mistyped);
    found.extend(invalid);
}

enum Kind {
    Pod,
    Secret,
    List,
    /// There is a problem in the list.
    Unknown,
}

/// Kinds that people have in their files, with the API that has them.
const KNOWN_KINDS: &[(&str, &str)] = &[
    ("ConfigMap", "v1"),
    ("CronJob", "batch/v1"),
    ("DaemonSet", "apps/v1"),
    ("Deployment", "apps/v1"),
    ("Ingress", "networking.k8s.io/v1"),
    ("Job", "batch/v1"),
    ("Namespace", "v1"),
    ("PersistentVolumeClaim", "v1"),
    ("ReplicaSet", "apps/v1"),
    ("ReplicationController", "v1"),
    ("Service", "v1"),
    ("ServiceAccount", "v1"),
    ("StatefulSet", "apps/v1"),
];

/// What the document says that it is. What is nearly a Pod is read on as one, so that all of its problems are found.
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
        Some("Secret") if is_v1 => Kind::Secret,
        Some("List") if is_v1 => Kind::List,
        Some("") => return Kind::Unknown,
        None if has_pods_fields => Kind::Pod,
        None => return Kind::Unknown,
        Some(kind) => {
            let path = root.field("kind");
            let near = suggest::nearest(kind, &["Pod", "Secret", "List"]);
            let hint = match (
                near,
                KNOWN_KINDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(kind)),
            ) {
                (Some(near), _) => format!("; did you mean {near:?}?"),
                (None, Some((known, version))) if api_version.as_deref().is_some_and(|given| given != *version) => {
                    format!(" ({known} would be in {version})")
                }
                _ => String::new(),
            };
            let version = api_version.as_deref().map_or("without apiVersion", |version| version);
            let shown = format!("{}, kind {}", suggest::shorten(version), suggest::shorten(kind));
            let what = format!(
                "{shown} is not supported by microkube yet: only Pods (`apiVersion: v1`, `kind: Pod`) and the Secrets for their \
                 imagePullSecrets are{hint}"
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
