//! From the text of manifests to Pods that are checked, complete, and nothing but what microkube can run.
//!
//! The stages: `documents` (bytes to documents), `yaml` (to values with their places, within limits), `objects` (which kind of object it
//! is), `typed` (to Kubernetes' types, strictly), `support` (what microkube can do), `defaults` and `validation` (what the API server
//! does). Then come pure functions of the Pod, each in a module of its own: [`process`], [`resources`], [`security`]. Nothing here reads
//! files, talks to anything, or knows of virtual machines' workings, the image store or records.

// By these names the fuzz targets know this crate and their fuzzer.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube_manifest;

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

mod defaults;
mod documents;
pub mod downward;
mod error;
mod expansion;
#[cfg(test)]
#[path = "../../../tests/fuzz/targets/microkube-manifest/mod.rs"]
mod fuzz_targets;
#[cfg(test)]
#[path = "../../../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
#[cfg(test)]
mod kept_manifests;
mod misplaced;
pub mod names;
mod node;
mod objects;
pub mod process;
pub mod quantity;
pub mod resources;
mod scalar;
pub mod schema;
mod secret;
pub mod security;
mod sidecar;
mod suggest;
pub mod support;
mod support_table;
#[cfg(test)]
mod tests;
mod typed;
mod validation;
mod yaml;

pub use documents::{Input, MAX_TEXT_BYTES};
pub use error::{FieldPath, FileProblems, Location, ManifestError, Problem, Segment};
pub use secret::PullSecret;
pub use sidecar::is_sidecar;

use error::Problems;
#[cfg(test)]
use kept_inputs::fuzz_target;
use objects::Object;

/// Everything that was in the given files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifests {
    /// The Pods, at least one, in their order, with different names. They have Kubernetes' defaults filled in and
    /// satisfy its rules; only `metadata.uid` is the caller's to set.
    pub pods: Vec<Pod>,
    /// Credentials for registries, with different names.
    pub pull_secrets: Vec<PullSecret>,
    /// What is odd but no error, each with its place.
    pub warnings: Vec<String>,
}

impl Manifests {
    /// The credentials that a Pod names, in its order. Those that do not exist are left out, as Kubernetes does.
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

/// Reads manifests. The error has everything that is wrong, as far as the texts could be understood.
pub fn load(inputs: &[Input<'_>]) -> Result<Manifests, ManifestError> {
    let mut manifests = Manifests::default();
    let mut files: Vec<FileProblems> = Vec::new();
    let mut names: HashMap<(&str, String, String), String> = HashMap::new();
    let mut missing = Vec::new();
    for input in inputs {
        let mut problems = Problems::default();
        for (place, object) in objects::read(input, &mut problems) {
            let (kind, metadata): (&str, &ObjectMeta) = match &object {
                Object::Pod(pod) => ("Pod", &pod.metadata),
                Object::PullSecret(_, metadata) => ("Secret", metadata),
            };
            let name = metadata.name.clone().unwrap_or_default();
            let key = (kind, metadata.namespace.clone().unwrap_or_default(), name.clone());
            let here = format!("{}:{}:{}", input.source, place.name_at.line, place.name_at.column);
            if let Some(first) = names.get(&key) {
                let path = FieldPath::default().field("metadata").field("name");
                let what = format!("Duplicate value: {name:?}: the {kind} of this name is at {first} already");
                let mut problem = Problem::at(&path, what);
                problem.location = Some(place.name_at);
                problems.add(problem);
                continue;
            }
            names.insert(key, here);
            match object {
                Object::Pod(pod) => {
                    let references = place.pull_secrets_at.into_iter();
                    missing.extend(references.map(|(name, at)| (manifests.pods.len(), name, input.source, at)));
                    manifests.pods.push(*pod);
                }
                Object::PullSecret(secret, _) => manifests.pull_secrets.push(secret),
            }
        }
        if !problems.list.is_empty() {
            files.push(problems.of(input.source));
        }
    }
    if !files.is_empty() {
        return Err(ManifestError { files });
    }
    if manifests.pods.is_empty() {
        let sources: Vec<&str> = inputs.iter().map(|input| input.source).collect();
        let message = if manifests.pull_secrets.is_empty() {
            "the manifest is empty; it needs a Pod (`apiVersion: v1`, `kind: Pod`, `metadata` and `spec`)"
        } else {
            "there is no Pod in it, only Secrets; it needs a Pod (`apiVersion: v1`, `kind: Pod`, `metadata` and `spec`)"
        };
        return Err(ManifestError::of_file(&sources.join(", "), message));
    }
    for (pod, name, source, at) in missing {
        let known = manifests.pull_secrets_of(&manifests.pods[pod]);
        if !known.iter().any(|secret| secret.name == name) {
            manifests.warnings.push(format!(
                "{source}:{}:{}: there is no Secret {name:?} in the manifests; images are pulled without it",
                at.line, at.column
            ));
        }
    }
    Ok(manifests)
}
