//! Errors about objects, in kubectl's wording.

use anyhow::anyhow;
use microkube_manifest::kinds::Kind;

use crate::objects::ObjectError;

/// The name in messages: `configmap/web`, `storageclass.storage.k8s.io/fast`.
pub(super) fn shown_name(kind: &Kind, name: &str) -> String {
    match kind.group {
        "" => format!("{}/{name}", kind.singular),
        group => format!("{}.{group}/{name}", kind.singular),
    }
}

/// An error as kubectl words it. `doing` is what was attempted: `error when creating "web.yaml"`.
pub(super) fn as_kubectl_error(error: ObjectError, doing: Option<&str>) -> anyhow::Error {
    let doing = doing.map(|doing| format!("{doing}: ")).unwrap_or_default();
    match (error.reason(), error) {
        (_, ObjectError::Invalid { kind, name, problems }) if problems.len() > 1 => {
            let lines: String = problems
                .iter()
                .map(|problem| format!("\n* {}", problem.message))
                .collect();
            anyhow!("The {kind} {name:?} is invalid: {lines}")
        }
        (_, error @ ObjectError::Invalid { .. }) => anyhow!("The {error}"),
        (Some(reason), error) => anyhow!("Error ({reason}): {doing}{error}"),
        // An error about this node's files: its type decides the remedy.
        (None, ObjectError::Store(error)) => error.into(),
        (None, error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;
    use microkube_manifest::{FieldPath, Problem};

    use super::*;

    #[test]
    fn errors_and_names_are_written_as_by_kubectl() {
        let problem = |what: &str| Problem::new(&FieldPath::default(), what);
        let invalid = |problems| ObjectError::Invalid {
            kind: "ConfigMap".to_owned(),
            name: "c".to_owned(),
            problems,
        };
        let shown = |error, doing| as_kubectl_error(error, doing).to_string();
        assert_eq!(
            shown(invalid(vec![problem("a"), problem("b")]), None),
            "The ConfigMap \"c\" is invalid: \n* a\n* b"
        );
        assert_eq!(
            shown(invalid(vec![problem("a")]), Some("error when creating \"x\"")),
            "The ConfigMap \"c\" is invalid: a"
        );
        let forbidden = ObjectError::Forbidden {
            resource: "namespaces".to_owned(),
            name: "default".to_owned(),
            reason: "no".to_owned(),
        };
        assert_eq!(
            shown(forbidden, Some("error when creating \"x\"")),
            "Error (Forbidden): error when creating \"x\": namespaces \"default\" is forbidden: no"
        );
        assert_eq!(shown_name(kinds::named("cm").unwrap(), "a"), "configmap/a");
        assert_eq!(
            shown_name(kinds::named("sc").unwrap(), "a"),
            "storageclass.storage.k8s.io/a"
        );
    }
}
