//! Which Pod and which of its containers a command line refers to, by kubectl's rules.

use std::borrow::Cow;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::cli::pods::arguments::not_found;
use crate::cli::print::for_terminal;
use crate::pod::recorded_pod::{RecordedPod, container, containers};
use crate::state::{Paths, PodRecords};
use crate::stderr::say;

/// Names the container to use if none is specified.
const DEFAULT_CONTAINER_ANNOTATION: &str = "kubectl.kubernetes.io/default-container";

/// The name in `NAME`, `pod/NAME`, `pods/NAME` and `po/NAME`.
pub(in crate::cli) fn pod_name(resource: &str) -> anyhow::Result<&str> {
    match resource.split_once('/') {
        None => Ok(resource),
        Some(("pod" | "pods" | "po", name)) if !name.is_empty() && !name.contains('/') => Ok(name),
        Some(("pod" | "pods" | "po", _)) => {
            bail!("arguments in resource/name form must have a single resource and name: {resource:?}")
        }
        Some((kind, _)) => bail!("the server doesn't have a resource type {kind:?}, only pods"),
    }
}

/// Looks up a Pod.
pub(in crate::cli) fn find(paths: &Paths, namespace: &str, resource: &str) -> anyhow::Result<RecordedPod> {
    let name = pod_name(resource)?;
    let records = PodRecords::new(paths.clone());
    let record = records.find(namespace, name)?.ok_or_else(|| not_found(name))?;
    Ok(RecordedPod::of(&records, record)?)
}

/// The container to use if none is named, and a message to the user about the choice.
pub(in crate::cli) fn default_container(pod: &Pod) -> (Option<Cow<'_, Container>>, Option<String>) {
    let mut notice = None;
    let annotations = pod.metadata.annotations.as_ref();
    if let Some(name) = annotations
        .and_then(|annotations| annotations.get(DEFAULT_CONTAINER_ANNOTATION))
        .filter(|name| !name.is_empty())
    {
        if let Some(container) = container(pod, name) {
            return (Some(container), None);
        }
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        notice = Some(format!("Default container name {name:?} not found in pod {pod}"));
    }
    let first = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    if let Some(first) = first
        && containers(pod).nth(1).is_some()
    {
        let mut names: Vec<String> = containers(pod).map(|container| container.name.clone()).collect();
        let count = |list: Option<usize>| list.unwrap_or(0);
        let spec = pod.spec.as_ref();
        let mains = count(spec.map(|spec| spec.containers.len()));
        let inits = count(spec.and_then(|spec| Some(spec.init_containers.as_ref()?.len())));
        for (index, name) in names.iter_mut().enumerate().skip(mains) {
            name.push_str(if index < mains.saturating_add(inits) {
                " (init)"
            } else {
                " (ephem)"
            });
        }
        let choice = format!("Defaulted container {:?} out of: {}", first.name, names.join(", "));
        notice = Some(notice.map_or_else(|| choice.clone(), |notice| format!("{notice}\n{choice}")));
    }
    (first.map(Cow::Borrowed), notice)
}

/// The named container, or the default one, which is reported on standard error unless `quiet`.
pub(in crate::cli) fn named_or_default<'t>(
    target: &'t RecordedPod,
    name: Option<&str>,
    quiet: bool,
) -> anyhow::Result<Cow<'t, Container>> {
    let pod = &target.record.pod;
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        let (container, notice) = default_container(pod);
        if let Some(notice) = notice.filter(|_| !quiet) {
            say!("{}", for_terminal(&notice));
        }
        return container.ok_or_else(|| anyhow!("pod {} has no containers", target.record.name));
    };
    container(pod, name).ok_or_else(|| anyhow!("container {name} not found in pod {}", target.record.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &[&str], init: &[&str], annotation: Option<&str>) -> Pod {
        let of = |names: &[&str]| {
            names
                .iter()
                .map(|name| serde_json::json!({ "name": name }))
                .collect::<Vec<_>>()
        };
        let mut pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
            "spec": { "containers": of(containers), "initContainers": of(init) },
        });
        if let Some(annotation) = annotation {
            pod["metadata"]["annotations"] = serde_json::json!({ DEFAULT_CONTAINER_ANNOTATION: annotation });
        }
        serde_json::from_value(pod).unwrap()
    }

    fn chosen(pod: &Pod) -> (String, Option<String>) {
        let (container, notice) = default_container(pod);
        (container.unwrap().name.clone(), notice)
    }

    #[test]
    fn the_first_container_is_the_default_and_announced_if_there_are_others() {
        assert_eq!(chosen(&pod(&["a"], &[], None)), ("a".to_owned(), None));
        assert_eq!(
            chosen(&pod(&["a", "b"], &["i"], None)),
            (
                "a".to_owned(),
                Some("Defaulted container \"a\" out of: a, b, i (init)".to_owned())
            )
        );
    }

    #[test]
    fn the_annotation_chooses_the_container() {
        assert_eq!(chosen(&pod(&["a", "b"], &[], Some("b"))), ("b".to_owned(), None));
        let pod = pod(&["a"], &[], Some("x"));
        let (container, notice) = chosen(&pod);
        assert_eq!(container, "a");
        assert_eq!(notice.unwrap(), "Default container name \"x\" not found in pod p");
    }

    #[test]
    fn a_pod_can_be_named_in_every_kubectl_notation() {
        for name in ["p", "pod/p", "pods/p", "po/p"] {
            assert_eq!(pod_name(name).unwrap(), "p");
        }
        for name in ["job/p", "pod/", "pod/a/b"] {
            assert!(pod_name(name).is_err(), "{name}");
        }
    }
}
