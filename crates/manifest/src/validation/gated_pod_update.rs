//! Kubernetes' rules for changes of a Pod that the scheduler has not seen, because the Pod has scheduling gates: its
//! constraints on nodes may become stricter.

use k8s_openapi::api::core::v1::{NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use serde_json::{Value, json};

use super::super::error::FieldPath;
use super::found::Found;
use super::update;

/// Checks `nodeSelector` and the node affinity, and then makes them equal to the old ones.
pub(super) fn constraints(new: &mut PodSpec, old: &PodSpec, path: &FieldPath, found: &mut Found) {
    node_selector(new, old, &path.field("nodeSelector"), found);
    new.node_selector.clone_from(&old.node_selector);
    let (wanted, kept) = (node_affinity_of(new), node_affinity_of(old));
    if update::same(&wanted, &kept) {
        return;
    }
    let path = path.field("affinity").field("nodeAffinity");
    node_affinity(wanted.as_ref(), kept.as_ref(), &path, found);
    new.affinity.get_or_insert_default().node_affinity = kept;
}

fn node_affinity_of(spec: &PodSpec) -> Option<NodeAffinity> {
    spec.affinity.as_ref()?.node_affinity.clone()
}

/// `validateNodeSelectorMutation`
fn node_selector(new: &PodSpec, old: &PodSpec, path: &FieldPath, found: &mut Found) {
    let is_kept = |(key, value): (&String, &String)| {
        let new = new.node_selector.as_ref().and_then(|selector| selector.get(key));
        new == Some(value)
    };
    if !old.node_selector.iter().flatten().all(is_kept) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        found.invalid(path, format_args!("{}", json!(new.node_selector)), detail);
    }
}

/// `validateNodeAffinityMutation`: the terms are alternatives, so another one would make the Pod less strict.
fn node_affinity(new: Option<&NodeAffinity>, old: Option<&NodeAffinity>, path: &FieldPath, found: &mut Found) {
    let (new, old) = (required_terms(new), required_terms(old));
    if old.is_empty() {
        return;
    }
    let path = path
        .field("requiredDuringSchedulingIgnoredDuringExecution")
        .field("nodeSelectorTerms");
    if new.len() != old.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let shown: Option<Vec<Value>> = (!new.is_empty()).then(|| new.iter().map(shown_term).collect());
        return found.invalid(&path, format_args!("{}", json!(shown)), detail);
    }
    for (index, (new, old)) in new.iter().zip(old).enumerate() {
        if !has_only_additions(new, old) {
            let detail = "only additions are allowed (no mutations or deletions)";
            found.invalid(&path.index(index), format_args!("{}", shown_term(new)), detail);
        }
    }
}

fn required_terms(affinity: Option<&NodeAffinity>) -> &[NodeSelectorTerm] {
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.map(|required| required.node_selector_terms.as_slice());
    terms.unwrap_or_default()
}

/// `validateNodeSelectorTermHasOnlyAdditions`: an empty term matches no node, so an addition would make it less strict.
fn has_only_additions(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    let lists = |term: &NodeSelectorTerm| {
        [&term.match_expressions, &term.match_fields].map(|list| list.clone().unwrap_or_default())
    };
    let (new, old) = (lists(new), lists(old));
    if old.iter().all(Vec::is_empty) {
        return new.iter().all(Vec::is_empty);
    }
    let begins_with = |new: &[NodeSelectorRequirement], old: &[NodeSelectorRequirement]| {
        new.get(..old.len()).is_some_and(|new| update::same(&new, &old))
    };
    new.iter().zip(&old).all(|(new, old)| begins_with(new, old))
}

/// A term as in Kubernetes' messages: JSON with Go's names of the fields.
fn shown_term(term: &NodeSelectorTerm) -> Value {
    let requirement = |requirement: &NodeSelectorRequirement| json!({ "Key": requirement.key, "Operator": requirement.operator, "Values": requirement.values });
    let shown = |list: &Option<Vec<NodeSelectorRequirement>>| {
        let list = list.as_ref();
        list.map(|list| list.iter().map(requirement).collect::<Vec<_>>())
    };
    json!({ "MatchExpressions": shown(&term.match_expressions), "MatchFields": shown(&term.match_fields) })
}
