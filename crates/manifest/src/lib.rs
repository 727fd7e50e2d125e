//! Turns the text of manifests into Pods that are valid, complete, and limited to what microkube can run; and, with
//! [`kinds`], into objects of all kinds.
//!
//! The stages: `documents` (bytes to documents), `yaml` (to values with their places, within limits), `objects` (the
//! kind of object), `typed` (to Kubernetes' types, strictly), `support` (what microkube can do), `defaults` and
//! `validation` (what the API server does). Pure functions of the Pod follow, each in its own module: [`process`],
//! [`resources`], [`security`]. Nothing here reads files, does other I/O, or depends on virtual machines, the image
//! store or records.

// The fuzz targets refer to this crate and their fuzzer by these names.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube_manifest;

use std::collections::HashMap;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub mod admission;
mod defaults;
mod documents;
pub mod downward;
pub mod ephemeral;
mod error;
pub mod expansion;
#[cfg(test)]
#[path = "../../../tests/fuzz/targets/microkube-manifest/mod.rs"]
mod fuzz_targets;
mod image_volumes;
#[cfg(test)]
#[path = "../../../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
#[cfg(test)]
mod kept_manifests;
pub mod kinds;
mod misplaced;
pub mod names;
mod node;
mod nodes;
mod objects;
pub mod process;
pub mod quantity;
mod quantity_text;
pub mod resources;
mod scalar;
pub mod schema;
mod secret;
pub mod security;
mod sidecar;
pub mod storage_limits;
pub mod sub_path_expr;
pub mod suggest;
pub mod support;
mod support_table;
pub mod sysctl;
#[cfg(test)]
mod tests;
mod typed;
mod unknown_fields;
mod validation;
mod yaml;

pub use documents::{Input, MAX_TEXT_BYTES};
pub use error::{FieldPath, FileProblems, Location, ManifestError, Problem, Segment};
pub use image_volumes::image_volumes;
pub use objects::WrittenPod;
pub use secret::PullSecret;
pub use sidecar::is_sidecar;
pub use unknown_fields::UnknownFields;

use error::Problems;
#[cfg(test)]
use kept_inputs::fuzz_target;
use kinds::Document;
use objects::Object;

/// The contents of the given files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifests {
    /// The Pods: at least one, in order, with different names. Kubernetes' defaults are set and its rules are
    /// satisfied. Only `metadata.uid` is left for the caller to set.
    pub pods: Vec<Pod>,
    /// The same Pods as their authors wrote them.
    pub written: Vec<WrittenPod>,
    /// The Secrets with registry credentials, with different names.
    pub pull_secrets: Vec<PullSecret>,
    /// References to Secrets that are not in the files.
    pub missing_pull_secrets: Vec<MissingPullSecret>,
    /// The unknown fields of all objects that were dropped.
    pub dropped_fields: Vec<Problem>,
}

/// A Pod's reference to a Secret that is not in the files. It may exist elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingPullSecret {
    /// Index of the Pod.
    pub pod: usize,
    /// The Secret's name; its namespace is that of the Pod.
    pub name: String,
    /// The file, line and column of the reference.
    pub place: String,
}

/// The warning, if the Secret does not exist elsewhere either.
impl fmt::Display for MissingPullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, place, .. } = self;
        write!(f, "{place}: no Secret {name:?}; pulling images without it")
    }
}

impl Manifests {
    /// The Secrets with credentials that a Pod refers to, in its order. Missing ones are left out, as in Kubernetes.
    pub fn pull_secrets_of<'m>(&'m self, pod: &Pod) -> Vec<&'m PullSecret> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let wanted = pod
            .spec
            .iter()
            .flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        wanted
            .filter_map(|reference| {
                let named = |secret: &&PullSecret| secret.namespace == namespace && secret.name == reference.name;
                self.pull_secrets.iter().find(named)
            })
            .collect()
    }
}

/// Reads manifests, of which at least one contains a Pod; checks objects of other kinds and leaves them out. The error
/// contains all problems in the parts of the texts that could be parsed.
pub fn load(inputs: &[Input<'_>]) -> Result<Manifests, ManifestError> {
    let (manifests, _) = load_all(inputs)?;
    if manifests.pods.is_empty() {
        let message = "the manifest contains no Pod; add one (`apiVersion: v1`, `kind: Pod`, `metadata` and `spec`)";
        return Err(ManifestError::of_file(&sources(inputs), message));
    }
    Ok(manifests)
}

/// Reads manifests of all kinds: the Pods, and all other objects as their authors wrote them, in order. All objects are
/// valid and have different names, and there is at least one.
pub fn load_all(inputs: &[Input<'_>]) -> Result<(Manifests, Vec<Document>), ManifestError> {
    load_all_with(inputs, UnknownFields::Refused)
}

/// Like [`load_all`], possibly without unknown fields.
pub fn load_all_with(
    inputs: &[Input<'_>],
    unknown: UnknownFields,
) -> Result<(Manifests, Vec<Document>), ManifestError> {
    let mut manifests = Manifests::default();
    let mut documents = Vec::new();
    let mut files: Vec<FileProblems> = Vec::new();
    let mut names: HashMap<(&str, String, String), String> = HashMap::new();
    let mut references = Vec::new();
    for input in inputs {
        let mut problems = Problems::default();
        for (place, object) in objects::read(input, unknown, &mut problems) {
            let (kind, metadata): (&str, &ObjectMeta) = match &object {
                Object::Pod(pod, _) => ("Pod", &pod.metadata),
                Object::Other(document) => (document.kind().kind, document.object().metadata()),
            };
            let name = metadata.name.clone().unwrap_or_default();
            let here = format!("{}:{}:{}", input.source, place.name_at.line, place.name_at.column);
            // An object without a name gets a generated one.
            if !name.is_empty() {
                let namespace = metadata.namespace.as_deref().unwrap_or("default").to_owned();
                let key = (kind, namespace, name.clone());
                if let Some(first) = names.get(&key) {
                    let path = FieldPath::default().field("metadata").field("name");
                    let what = format!("Duplicate value: {name:?}: another {kind} with this name is at {first}");
                    let mut problem = Problem::at(&path, what);
                    problem.location = Some(place.name_at);
                    problems.add(problem);
                    continue;
                }
                names.insert(key, here);
            }
            manifests.dropped_fields.extend(place.dropped_fields);
            match object {
                Object::Pod(pod, written) => {
                    let own = place.pull_secrets_at.into_iter();
                    references.extend(own.map(|(name, at)| (manifests.pods.len(), name, input.source, at)));
                    manifests.pods.push(*pod);
                    manifests.written.push(written);
                }
                Object::Other(document) => {
                    if let Ok(kinds::Object::Secret(secret)) = document.complete() {
                        manifests.pull_secrets.extend(PullSecret::of(&secret));
                    }
                    documents.push(*document);
                }
            }
        }
        if !problems.list.is_empty() {
            files.push(problems.of(input.source));
        }
    }
    if !files.is_empty() {
        return Err(ManifestError { files });
    }
    if manifests.pods.is_empty() && documents.is_empty() {
        let message = "the manifest is empty; add a Pod (`apiVersion: v1`, `kind: Pod`, `metadata` and `spec`)";
        return Err(ManifestError::of_file(&sources(inputs), message));
    }
    for (pod, name, source, at) in references {
        let known = manifests.pull_secrets_of(&manifests.pods[pod]);
        if !known.iter().any(|secret| secret.name == name) {
            let place = format!("{source}:{}:{}", at.line, at.column);
            manifests
                .missing_pull_secrets
                .push(MissingPullSecret { pod, name, place });
        }
    }
    Ok((manifests, documents))
}

/// The names of the files.
fn sources(inputs: &[Input<'_>]) -> String {
    let sources: Vec<&str> = inputs.iter().map(|input| input.source).collect();
    sources.join(", ")
}
