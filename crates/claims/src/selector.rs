//! Whether labels match a label selector.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Whether all conditions of the selector hold. An empty selector matches everything.
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let none = BTreeMap::new();
    let labels = labels.unwrap_or(&none);
    let mut wanted = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    wanted.all(|(key, value)| labels.get(key) == Some(value)) && expressions.all(|own| holds(own, labels))
}

fn holds(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let is_listed = |value: &String| requirement.values.iter().flatten().any(|listed| listed == value);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(is_listed),
        "NotIn" => !value.is_some_and(is_listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        // Validation refuses other operators.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_operator_decides() {
        let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
        let own = |selector: Value| matches(&serde_json::from_value(selector).unwrap(), Some(&labels));
        assert!(own(json!({})));
        assert!(own(json!({"matchLabels": {"disk": "ssd"}})));
        assert!(!own(json!({"matchLabels": {"disk": "ssd", "zone": "a"}})));
        for (key, operator, values, expected) in [
            ("disk", "In", json!(["hdd", "ssd"]), true),
            ("disk", "In", json!(["hdd"]), false),
            ("zone", "In", json!(["a"]), false),
            ("disk", "NotIn", json!(["hdd"]), true),
            ("disk", "NotIn", json!(["ssd"]), false),
            ("zone", "NotIn", json!(["a"]), true),
            ("disk", "Exists", json!([]), true),
            ("zone", "Exists", json!([]), false),
            ("disk", "DoesNotExist", json!([]), false),
            ("zone", "DoesNotExist", json!([]), true),
            ("disk", "Like", json!(["ssd"]), false),
        ] {
            let expression = json!({"key": key, "operator": operator, "values": values});
            assert_eq!(
                own(json!({"matchExpressions": [expression]})),
                expected,
                "{key} {operator}"
            );
        }
        assert!(!matches(
            &serde_json::from_value(json!({"matchLabels": {"disk": "ssd"}})).unwrap(),
            None
        ));
    }
}
