//! Field selectors as in `kubectl --field-selector` (`k8s.io/apimachinery/pkg/fields`): `metadata.name=a,type!=b`.

use std::str::FromStr;

use anyhow::bail;
use microkube_manifest::kinds::Kind;
use serde_json::Value;

/// Longer selectors are refused: a command line of this length is a mistake.
const MAX_BYTES: usize = 64 << 10;

/// The fields that select objects of every kind.
const OF_ALL: [&str; 2] = ["metadata.name", "metadata.namespace"];

/// A field selector. An object must meet all requirements; without requirements, every object is selected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    text: String,
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    field: String,
    value: String,
    is_equal: bool,
}

/// A field selector is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldSelectorError {
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    NotUnderstood { selector: String, part: String },
    #[error("invalid field selector: it is longer than {MAX_BYTES} bytes")]
    TooLong,
}

impl FromStr for FieldSelector {
    type Err = FieldSelectorError;

    fn from_str(text: &str) -> Result<Self, FieldSelectorError> {
        if text.len() > MAX_BYTES {
            return Err(FieldSelectorError::TooLong);
        }
        let mut requirements = Vec::new();
        for part in split(text).into_iter().filter(|part| !part.is_empty()) {
            let understood = requirement(&part);
            requirements.push(understood.ok_or_else(|| FieldSelectorError::NotUnderstood {
                selector: text.to_owned(),
                part,
            })?);
        }
        Ok(Self {
            text: text.to_owned(),
            requirements,
        })
    }
}

/// The parts between commas. A backslash escapes a comma.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut is_escaped = false;
    for character in text.chars() {
        match (character, is_escaped, parts.last_mut()) {
            (',', false, _) => parts.push(String::new()),
            (_, _, Some(part)) => part.push(character),
            (_, _, None) => {}
        }
        is_escaped = character == '\\' && !is_escaped;
    }
    parts
}

/// `field=value`, `field==value` or `field!=value`.
fn requirement(part: &str) -> Option<Requirement> {
    let at = part.find(['=', '!'])?;
    let (field, rest) = part.split_at(at);
    let (is_equal, value) = match rest.strip_prefix("!=") {
        Some(value) => (false, value),
        None => (true, rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?),
    };
    Some(Requirement {
        field: field.to_owned(),
        value: unescaped(value)?,
        is_equal,
    })
}

/// The value without its backslashes, which precede only `\`, `,` and `=`.
fn unescaped(value: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.push(characters.next().filter(|next| "\\,=".contains(*next))?),
            ',' | '=' => return None,
            _ => text.push(character),
        }
    }
    Some(text)
}

impl FieldSelector {
    /// Whether the selector selects every object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Checks that objects of a kind can be selected by these fields.
    ///
    /// # Errors
    /// Kubernetes' message for the first field that the kind does not support.
    pub fn check(&self, kind: &Kind) -> anyhow::Result<()> {
        self.check_fields(fields_of(kind), (kind.group, kind.version, kind.plural))
    }

    /// Checks that events can be selected by these fields.
    ///
    /// # Errors
    /// Kubernetes' message for the first field that events do not support.
    pub fn check_events(&self) -> anyhow::Result<()> {
        self.check_fields(&OF_EVENTS, ("", "v1", "events"))
    }

    fn check_fields(&self, own: &[&str], (group, version, plural): (&str, &str, &str)) -> anyhow::Result<()> {
        for Requirement { field, .. } in &self.requirements {
            if OF_ALL.contains(&field.as_str()) || own.contains(&field.as_str()) {
                continue;
            }
            let problem = match own {
                [] => {
                    format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
                }
                _ => format!("field label not supported: {field}"),
            };
            bail!(
                "Error (BadRequest): Unable to find \"{group}/{version}, Resource={plural}\" that match label selector \"\", field \
                 selector {:?}: {problem}",
                self.text
            );
        }
        Ok(())
    }

    /// Whether the object meets all requirements.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements
            .iter()
            .all(|requirement| (text_of(object, &requirement.field) == requirement.value) == requirement.is_equal)
    }
}

/// The other fields that select events.
const OF_EVENTS: [&str; 11] = [
    "involvedObject.apiVersion",
    "involvedObject.fieldPath",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.resourceVersion",
    "involvedObject.uid",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// The other fields that select objects of a kind (`pkg/apis/core/v1/conversion.go`).
fn fields_of(kind: &Kind) -> &'static [&'static str] {
    match kind.kind {
        "Namespace" => &["status.phase"],
        "Pod" => &[
            "spec.hostNetwork",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.nominatedNodeName",
            "status.phase",
            "status.podIP",
            "status.podIPs",
        ],
        "Secret" => &["type"],
        _ => &[],
    }
}

/// The value of a field, as the API server compares it.
fn text_of(object: &Value, field: &str) -> String {
    let value = field.split('.').try_fold(object, |value, name| value.get(name));
    match (value, field) {
        (Some(Value::String(text)), _) => text.clone(),
        (Some(Value::Bool(value)), _) => value.to_string(),
        // Of an event.
        (Some(source @ Value::Object(_)), "source") => text_of(source, "component"),
        (Some(Value::Array(ips)), "status.podIPs") => {
            let first = ips.first().and_then(|ip| ip.get("ip")).and_then(Value::as_str);
            first.unwrap_or_default().to_owned()
        }
        (None, "spec.hostNetwork") => "false".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;
    use serde_json::json;

    use super::*;

    fn selector(text: &str) -> FieldSelector {
        text.parse().unwrap()
    }

    #[test]
    fn all_requirements_must_be_met() {
        let secret = json!({ "metadata": { "name": "a", "namespace": "shop" }, "type": "Opaque" });
        for (text, expected) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,metadata.namespace=shop", true),
            ("metadata.name=a,metadata.namespace!=shop", false),
            ("type!=kubernetes.io/tls", true),
            ("type=", false),
            ("status.phase=", true),
        ] {
            assert_eq!(selector(text).matches(&secret), expected, "{text}");
        }
        let pod = json!({ "status": { "podIPs": [{ "ip": "10.88.0.5" }] }, "spec": {} });
        assert!(selector("status.podIPs=10.88.0.5,spec.hostNetwork=false").matches(&pod));
    }

    #[test]
    fn events_are_selected_by_their_objects_and_sources() {
        let event = json!({
            "involvedObject": { "kind": "Pod", "name": "web" }, "reason": "BackOff", "type": "Warning",
            "source": { "component": "kubelet" },
        });
        for (text, expected) in [
            ("involvedObject.name=web,involvedObject.kind=Pod", true),
            ("involvedObject.name=db", false),
            ("type!=Normal,reason=BackOff", true),
            ("source=kubelet", true),
            ("source=scheduler", false),
        ] {
            let selector = selector(text);
            selector.check_events().unwrap();
            assert_eq!(selector.matches(&event), expected, "{text}");
        }
        assert_eq!(
            selector("message=a").check_events().unwrap_err().to_string(),
            "Error (BadRequest): Unable to find \"/v1, Resource=events\" that match label selector \"\", field selector \
             \"message=a\": field label not supported: message"
        );
    }

    #[test]
    fn values_can_contain_escaped_commas_and_equals_signs() {
        let object = json!({ "metadata": { "name": r"a,b=c\" } });
        assert!(selector(r"metadata.name=a\,b\=c\\").matches(&object));
    }

    #[test]
    fn unintelligible_selectors_are_refused() {
        for (text, part) in [
            ("metadata.name", "metadata.name"),
            ("a=b,c", "c"),
            ("a=b=c", "a=b=c"),
            (r"a=\b", r"a=\b"),
            ("a!b", "a!b"),
        ] {
            assert_eq!(
                text.parse::<FieldSelector>().unwrap_err().to_string(),
                format!("invalid selector: '{text}'; can't understand '{part}'")
            );
        }
    }

    #[test]
    fn fields_that_select_nothing_are_refused_in_kubernetes_words() {
        let check = |kind: &str, text: &str| {
            let kind = kinds::named(kind).unwrap();
            selector(text).check(kind).map_err(|error| error.to_string())
        };
        assert_eq!(check("secret", "type=Opaque,metadata.name=a"), Ok(()));
        assert_eq!(check("ns", "status.phase!=Active"), Ok(()));
        assert_eq!(
            check("secret", "data=a").unwrap_err(),
            "Error (BadRequest): Unable to find \"/v1, Resource=secrets\" that match label selector \"\", field selector \
             \"data=a\": field label not supported: data"
        );
        assert_eq!(
            check("sc", "type=a").unwrap_err(),
            "Error (BadRequest): Unable to find \"storage.k8s.io/v1, Resource=storageclasses\" that match label selector \"\", \
             field selector \"type=a\": \"type\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }
}
