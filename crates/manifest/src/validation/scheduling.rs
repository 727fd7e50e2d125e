//! Kubernetes' rules for scheduling fields. On a single node these have no effect, but mistakes in them are still
//! errors.

use std::collections::{BTreeSet, HashSet};

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::super::error::FieldPath;
use super::super::names;
use super::found::Found;
use super::metadata;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Checks all fields that the scheduler would use.
pub(super) fn validate(spec: &PodSpec, path: &FieldPath, found: &mut Found) {
    metadata::labels(spec.node_selector.as_ref(), &path.field("nodeSelector"), found);
    if let Some(own) = &spec.affinity {
        affinity(own, &path.field("affinity"), found);
    }
    for (index, own) in spec.tolerations.iter().flatten().enumerate() {
        toleration(own, &path.field("tolerations").index(index), found);
    }
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    let mut pairs = HashSet::new();
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.field("topologySpreadConstraints").index(index);
        if !pairs.insert((&constraint.topology_key, &constraint.when_unsatisfiable)) {
            let pair = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
            found.duplicate(&path.field("{topologyKey, whenUnsatisfiable}"), pair.as_str());
        }
        spread(constraint, &path, found);
    }
    for (field, name) in [
        ("nodeName", &spec.node_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
        ("serviceAccountName", &spec.service_account_name),
    ] {
        if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
            found.invalid_for_each(&path.field(field), name, names::dns_subdomain(name));
        }
    }
    if let Some(policy) = &spec.preemption_policy {
        found.one_of(
            &path.field("preemptionPolicy"),
            policy,
            &["PreemptLowerPriority", "Never"],
        );
    }
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.field("readinessGates").index(index).field("conditionType");
        found.invalid_for_each(&path, &gate.condition_type, names::qualified_name(&gate.condition_type));
    }
    let mut gates = HashSet::new();
    let has_gates = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    if has_gates && spec.node_name.as_ref().is_some_and(|name| !name.is_empty()) {
        let detail = "cannot be set until all schedulingGates have been cleared";
        found.forbidden(&path.field("nodeName"), detail);
    }
    for (index, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let path = path.field("schedulingGates").index(index);
        found.invalid_for_each(&path, &gate.name, names::qualified_name(&gate.name));
        if !gates.insert(gate.name.as_str()) {
            found.duplicate(&path, gate.name.as_str());
        }
    }
}

fn affinity(affinity: &Affinity, path: &FieldPath, found: &mut Found) {
    if let Some(node) = &affinity.node_affinity {
        let path = path.field("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            let path = path.field(REQUIRED).field("nodeSelectorTerms");
            if required.node_selector_terms.is_empty() {
                found.required(&path, "must have at least one node selector term");
            }
            for (index, term) in required.node_selector_terms.iter().enumerate() {
                node_term(term, true, &path.index(index), found);
            }
        }
        let preferred = node
            .preferred_during_scheduling_ignored_during_execution
            .iter()
            .flatten();
        for (index, term) in preferred.enumerate() {
            let path = path.field(PREFERRED).index(index);
            weight(term.weight, &path, found);
            node_term(&term.preference, false, &path.field("preference"), found);
        }
    }
    let pod = affinity.pod_affinity.as_ref().map(|own| {
        (
            "podAffinity",
            &own.required_during_scheduling_ignored_during_execution,
            &own.preferred_during_scheduling_ignored_during_execution,
        )
    });
    let anti = affinity.pod_anti_affinity.as_ref().map(|own| {
        (
            "podAntiAffinity",
            &own.required_during_scheduling_ignored_during_execution,
            &own.preferred_during_scheduling_ignored_during_execution,
        )
    });
    for (field, required, preferred) in pod.into_iter().chain(anti) {
        let path = path.field(field);
        for (index, term) in required.iter().flatten().enumerate() {
            pod_term(term, &path.field(REQUIRED).index(index), found);
        }
        for (index, term) in preferred.iter().flatten().enumerate() {
            let path = path.field(PREFERRED).index(index);
            weight(term.weight, &path, found);
            pod_term(&term.pod_affinity_term, &path.field("podAffinityTerm"), found);
        }
    }
}

fn weight(weight: i32, path: &FieldPath, found: &mut Found) {
    if !(1..=100).contains(&weight) {
        found.invalid(&path.field("weight"), weight, "must be in the range 1-100");
    }
}

pub(super) fn node_term(term: &NodeSelectorTerm, strict: bool, path: &FieldPath, found: &mut Found) {
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        node_requirement(requirement, strict, &path.field("matchExpressions").index(index), found);
    }
    for (index, requirement) in term.match_fields.iter().flatten().enumerate() {
        let path = path.field("matchFields").index(index);
        match requirement.operator.as_str() {
            "In" | "NotIn" => {
                if requirement.values.as_ref().map_or(0, Vec::len) != 1 {
                    let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    found.required(&path.field("values"), detail);
                }
            }
            other => found.invalid(&path.field("operator"), other, "not a valid selector operator"),
        }
        if requirement.key != "metadata.name" {
            found.invalid(
                &path.field("key"),
                requirement.key.as_str(),
                "not a valid field selector key",
            );
        }
    }
}

fn node_requirement(requirement: &NodeSelectorRequirement, strict: bool, path: &FieldPath, found: &mut Found) {
    let values = requirement.values.as_deref().unwrap_or_default();
    if matches!(requirement.operator.as_str(), "Gt" | "Lt") {
        if values.len() != 1 {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            found.required(&path.field("values"), detail);
        }
        key(&requirement.key, path, found);
    } else {
        selector_requirement(&requirement.key, &requirement.operator, values, path, found);
    }
    if strict {
        label_values(values, path, found);
    }
}

fn key(key: &str, path: &FieldPath, found: &mut Found) {
    found.invalid_for_each(&path.field("key"), key, names::qualified_name(key));
}

fn label_values(values: &[String], path: &FieldPath, found: &mut Found) {
    for (index, value) in values.iter().enumerate() {
        found.invalid_for_each(&path.field("values").index(index), value, names::label_value(value));
    }
}

fn selector_requirement(name: &str, operator: &str, values: &[String], path: &FieldPath, found: &mut Found) {
    let values_path = path.field("values");
    match operator {
        "In" | "NotIn" => {
            if values.is_empty() {
                found.required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'");
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                found.forbidden(&values_path, detail);
            }
        }
        other => found.invalid(&path.field("operator"), other, "not a valid selector operator"),
    }
    key(name, path, found);
}

pub(super) fn label_selector(selector: Option<&LabelSelector>, path: &FieldPath, found: &mut Found) {
    let Some(selector) = selector else { return };
    metadata::labels(selector.match_labels.as_ref(), &path.field("matchLabels"), found);
    for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.field("matchExpressions").index(index);
        let values = requirement.values.as_deref().unwrap_or_default();
        selector_requirement(&requirement.key, &requirement.operator, values, &path, found);
        label_values(values, &path, found);
    }
}

fn pod_term(term: &PodAffinityTerm, path: &FieldPath, found: &mut Found) {
    label_selector(term.label_selector.as_ref(), &path.field("labelSelector"), found);
    label_selector(
        term.namespace_selector.as_ref(),
        &path.field("namespaceSelector"),
        found,
    );
    for (index, name) in term.namespaces.iter().flatten().enumerate() {
        found.invalid_for_each(&path.field("namespaces").index(index), name, names::dns_label(name));
    }
    let no_selector = term.label_selector.is_none();
    let mismatched: BTreeSet<&String> = term.mismatch_label_keys.iter().flatten().collect();
    for (field, keys) in [
        ("matchLabelKeys", &term.match_label_keys),
        ("mismatchLabelKeys", &term.mismatch_label_keys),
    ] {
        let path = path.field(field);
        let keys = keys.as_deref().unwrap_or_default();
        if no_selector && !keys.is_empty() {
            found.forbidden(&path, "must not be specified when labelSelector is not set");
            continue;
        }
        for (index, name) in keys.iter().enumerate() {
            found.invalid_for_each(&path.index(index), name, names::qualified_name(name));
            if field == "matchLabelKeys" && mismatched.contains(name) {
                let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
                found.invalid(&path.index(index), name.as_str(), detail);
            }
        }
    }
    let path = path.field("topologyKey");
    if term.topology_key.is_empty() {
        found.required(&path, "can not be empty");
    } else {
        found.invalid_for_each(&path, &term.topology_key, names::qualified_name(&term.topology_key));
    }
}

fn toleration(toleration: &Toleration, path: &FieldPath, found: &mut Found) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (name, operator) = (text(&toleration.key), text(&toleration.operator));
    let (value, effect) = (text(&toleration.value), text(&toleration.effect));
    let operator_path = path.field("operator");
    if name.is_empty() {
        if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            found.invalid(&operator_path, operator.as_str(), detail);
        }
    } else {
        key(&name, path, found);
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        found.invalid(&path.field("effect"), effect.as_str(), detail);
    }
    match operator.as_str() {
        "" | "Equal" => {
            let details = names::label_value(&value);
            if !details.is_empty() {
                found.invalid(&operator_path, value.as_str(), details.join(";"));
            }
        }
        "Exists" => {
            if !value.is_empty() {
                let detail = "value must be empty when `operator` is 'Exists'";
                found.invalid(&operator_path, value.as_str(), detail);
            }
        }
        other => found.one_of(&operator_path, other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        found.one_of(
            &path.field("effect"),
            &effect,
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        );
    }
}

fn spread(constraint: &TopologySpreadConstraint, path: &FieldPath, found: &mut Found) {
    if constraint.max_skew <= 0 {
        found.invalid(&path.field("maxSkew"), constraint.max_skew, "must be greater than zero");
    }
    if constraint.topology_key.is_empty() {
        found.required(&path.field("topologyKey"), "can not be empty");
    }
    let action = constraint.when_unsatisfiable.as_str();
    found.one_of(
        &path.field("whenUnsatisfiable"),
        action,
        &["DoNotSchedule", "ScheduleAnyway"],
    );
    if let Some(domains) = constraint.min_domains {
        let path = path.field("minDomains");
        if domains <= 0 {
            found.invalid(&path, domains, "must be greater than zero");
        }
        if action != "DoNotSchedule" {
            let detail =
                format_args!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}").to_string();
            found.invalid(&path, domains, detail);
        }
    }
    for (field, policy) in [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ] {
        if let Some(policy) = policy {
            found.one_of(&path.field(field), policy, &["Honor", "Ignore"]);
        }
    }
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    if !keys.is_empty() && constraint.label_selector.is_none() {
        let detail = "must not be specified when labelSelector is not set";
        found.forbidden(&path.field("matchLabelKeys"), detail);
    }
    for (index, name) in keys.iter().enumerate() {
        found.invalid_for_each(
            &path.field("matchLabelKeys").index(index),
            name,
            names::qualified_name(name),
        );
    }
    label_selector(constraint.label_selector.as_ref(), &path.field("labelSelector"), found);
}
