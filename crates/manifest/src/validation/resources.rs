//! Kubernetes' rules for requests and limits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource;

use super::super::error::FieldPath;
use super::super::names;
use super::super::quantity::Quantity;
use super::found::Found;

/// `standardContainerResources`
const STANDARD: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

/// Checks a quantity that must not be negative.
pub(super) fn quantity(text: &str, path: &FieldPath, found: &mut Found) -> Option<Quantity> {
    match text.parse::<Quantity>() {
        Ok(quantity) if quantity.is_negative() => {
            found.invalid(path, text, "must be greater than or equal to 0");
            None
        }
        Ok(quantity) => Some(quantity),
        Err(error) => {
            found.invalid(path, text, error);
            None
        }
    }
}

/// Checks the amounts of resources by name; returns the valid ones.
pub(super) fn amounts(
    list: Option<&BTreeMap<String, resource::Quantity>>,
    path: &FieldPath,
    found: &mut Found,
) -> BTreeMap<String, Quantity> {
    let mut amounts = BTreeMap::new();
    for (name, amount) in list.into_iter().flatten() {
        let path = path.key(name);
        if !STANDARD.contains(&name.as_str()) {
            let details = names::qualified_name(name);
            if !details.is_empty() {
                found.invalid_for_each(&path, name, details);
            } else if name.contains('/') || name.starts_with("hugepages-") {
                let what = "not supported by microkube yet: use cpu, memory or ephemeral-storage";
                found.add(&path, what);
            } else {
                found.invalid(&path, name.as_str(), "must be a standard resource for containers");
            }
        }
        if let Some(amount) = quantity(&amount.0, &path, found) {
            amounts.insert(name.clone(), amount);
        }
    }
    amounts
}

/// Checks requests and limits.
pub(super) fn validate(needs: &ResourceRequirements, path: &FieldPath, found: &mut Found) {
    let limits = amounts(needs.limits.as_ref(), &path.field("limits"), found);
    // A request that was copied from its limit has the same problem, which is reported once.
    let mut own_requests = needs.requests.clone();
    if let (Some(requests), Some(limits)) = (&mut own_requests, &needs.limits) {
        requests.retain(|name, request| limits.get(name) != Some(request));
    }
    let requests = amounts(own_requests.as_ref(), &path.field("requests"), found);
    let shown = |list: &Option<BTreeMap<String, resource::Quantity>>, name: &str| {
        list.as_ref()
            .and_then(|list| list.get(name))
            .map(|amount| amount.0.clone())
            .unwrap_or_default()
    };
    for (name, request) in &requests {
        if limits.get(name).is_some_and(|limit| request > limit) {
            let limit = shown(&needs.limits, name);
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            found.invalid(&path.field("requests"), shown(&needs.requests, name).as_str(), detail);
        }
    }
}
