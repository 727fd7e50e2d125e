//! From the text of a manifest to a Pod that is checked, complete, and nothing but what microkube can run.
//!
//! The stages: `yaml` (text to plain values, within limits), `typed` (to Kubernetes' types, strictly), `support` (what microkube can
//! do), `defaults` and `validation` (what the API server does). Then come pure functions of the Pod, each in a module of its
//! own: [`process`], [`resources`], [`security`]. Nothing here reads files, talks to anything, or knows of virtual machines' workings.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

mod container_validation;
mod defaults;
pub mod downward;
mod error;
pub mod expansion;
mod names;
pub mod process;
pub mod quantity;
pub mod resources;
pub mod security;
mod suggest;
pub mod support;
mod typed;
mod validation;
mod yaml;

pub use error::{FieldPath, Location, ManifestError, Problem, Segment};

/// How many problems get their line looked up: each lookup reads the text again.
const MAX_LOCATED: usize = 50;
/// In a text larger than this only the first few problems get their line.
const LARGE_TEXT_BYTES: usize = 256 << 10;
const MAX_LOCATED_IN_LARGE_TEXT: usize = 4;

/// Reads a manifest with one Pod. `source` names it in errors: the file as the user gave it, or `-`.
///
/// The Pod has Kubernetes' defaults filled in (see `defaults` for the one exception) and satisfies its rules; only `metadata.uid` is the
/// caller's to set. The error has everything that is wrong, as far as the text could be understood.
pub fn load(text: &[u8], source: &str) -> Result<Pod, ManifestError> {
    let mut pods = load_all(text, source)?;
    match (pods.pop(), pods.len()) {
        (Some(pod), 0) => Ok(pod),
        (None, _) => Err(whole_file(
            source,
            "the manifest is empty; it needs a Pod (`apiVersion: v1`, `kind: Pod`, `metadata` and `spec`)",
        )),
        (Some(_), more) => Err(whole_file(
            source,
            &format!(
                "the manifest has {} documents; only one Pod at a time is supported so far: split the file at `---`",
                more + 1
            ),
        )),
    }
}

/// Reads all documents of a manifest, which must be Pods.
fn load_all(text: &[u8], source: &str) -> Result<Vec<Pod>, ManifestError> {
    let Ok(text) = std::str::from_utf8(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)) else {
        return Err(whole_file(source, "not valid YAML: the file is not text in UTF-8"));
    };
    let failed = |problems| ManifestError {
        source: source.to_owned(),
        problems,
    };
    let documents = yaml::parse(text).map_err(|problem| failed(vec![problem]))?;
    let mut pods = Vec::new();
    let mut problems = Vec::new();
    for (position, document) in &documents {
        match pod(document, source) {
            Ok(pod) => pods.push(pod),
            Err(mut found) => {
                let large = text.len() > LARGE_TEXT_BYTES;
                let located = if large { MAX_LOCATED_IN_LARGE_TEXT } else { MAX_LOCATED };
                for problem in found.iter_mut().take(located) {
                    problem.location = yaml::locate(text, *position, &problem.path);
                }
                found.sort_by_key(|problem| problem.location);
                problems.append(&mut found);
            }
        }
    }
    if problems.is_empty() {
        Ok(pods)
    } else {
        Err(failed(problems))
    }
}

/// One document as a Pod.
fn pod(document: &Value, source: &str) -> Result<Pod, Vec<Problem>> {
    let root = FieldPath::default();
    kind(document)?;
    let (typed, mut problems) = typed::deserialize::<Pod>(document, &root);
    for problem in &mut problems {
        hint_at_indentation(problem);
    }
    let mistyped = !problems.is_empty();
    let (refused, ignored) = support::check(document);
    problems.extend(refused);
    if let Some(mut pod) = typed {
        defaults::apply(&mut pod);
        let invalid = validation::validate(&pod);
        // A value of the wrong type was read as a zero, about which nobody wants to hear as well.
        let known: Vec<FieldPath> = problems.iter().map(|problem| problem.path.clone()).collect();
        problems.extend(
            invalid
                .into_iter()
                .filter(|problem| !mistyped || !known.contains(&problem.path)),
        );
        if problems.is_empty() {
            for (path, reason) in ignored {
                tracing::info!("{source}: {path} has no effect: {reason}");
            }
            return Ok(pod);
        }
    }
    Err(problems)
}

/// Whether the document says that it is a Pod. A wrong kind is the only problem then: the fields are another kind's.
fn kind(document: &Value) -> Result<(), Vec<Problem>> {
    let root = FieldPath::default();
    let Some(object) = document.as_object() else {
        let message =
            "not a Kubernetes object: the document must be a mapping with apiVersion, kind, metadata and spec";
        return Err(vec![Problem::new(&root, message)]);
    };
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let mut problems = Vec::new();
    for (field, value, wanted) in [("apiVersion", api_version, "v1"), ("kind", kind, "Pod")] {
        if value.is_empty() {
            problems.push(Problem::at(
                &root.field(field),
                format!("Required value: write `{field}: {wanted}` for a Pod"),
            ));
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    if kind != "Pod" {
        let path = root.field("kind");
        let near = suggest::nearest(kind, &["Pod"])
            .map(|_| "; did you mean \"Pod\"?")
            .unwrap_or_default();
        let shown = format!("{}, kind {}", suggest::shorten(api_version), suggest::shorten(kind));
        return Err(vec![Problem::at(
            &path,
            format!("{shown} is not supported by microkube yet: only Pods (`apiVersion: v1`, `kind: Pod`) are{near}"),
        )]);
    }
    if api_version != "v1" {
        let value = suggest::shorten(api_version);
        let message = format!("Unsupported value: {value:?}: supported values: \"v1\" (for kind Pod)");
        return Err(vec![Problem::at(&root.field("apiVersion"), message)]);
    }
    Ok(())
}

/// The most frequent slip in YAML: a field of `metadata` or `spec` that stands beside it.
fn hint_at_indentation(problem: &mut Problem) {
    use k8s_openapi::api::core::v1::PodSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    let [Segment::Field(name)] = problem.path.segments() else {
        return;
    };
    let owner = match name.as_str() {
        name if typed::fields_of::<ObjectMeta>().contains(&name) => "metadata",
        name if typed::fields_of::<PodSpec>().contains(&name) => "spec",
        _ => return,
    };
    problem.message += &format!(", it belongs into {owner}: check the indentation");
}

fn whole_file(source: &str, message: &str) -> ManifestError {
    ManifestError {
        source: source.to_owned(),
        problems: vec![Problem::new(&FieldPath::default(), message)],
    }
}

#[cfg(test)]
mod tests;
