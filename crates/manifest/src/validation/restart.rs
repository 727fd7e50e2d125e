//! Kubernetes' rules for a container's own restart policy (`validateContainerRestartPolicy`).

use k8s_openapi::api::core::v1::Container;

use super::super::error::FieldPath;
use super::found::Found;

const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

/// Checks `restartPolicy` and `restartPolicyRules` of any kind of container.
pub(super) fn validate(container: &Container, path: &FieldPath, found: &mut Found) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    match &container.restart_policy {
        Some(policy) => found.one_of(&path.field("restartPolicy"), policy, &["Always", "Never", "OnFailure"]),
        None if rules.is_empty() => {}
        None => found.required(
            &path.field("restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        ),
    }
    let path = path.field("restartPolicyRules");
    if rules.len() > MAX_RULES {
        found.too_many(&path, rules.len(), MAX_RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        found.one_of(
            &path.field("action"),
            &rule.action,
            &["Restart", "RestartAllContainers"],
        );
        let path = path.field("exitCodes");
        let Some(exit_codes) = &rule.exit_codes else {
            found.required(&path, "must be specified");
            continue;
        };
        found.one_of(&path.field("operator"), &exit_codes.operator, &["In", "NotIn"]);
        let values = exit_codes.values.as_deref().unwrap_or_default();
        if values.len() > MAX_EXIT_CODES {
            found.too_many(&path.field("values"), values.len(), MAX_EXIT_CODES);
        }
    }
}
