//! Which Pod fields microkube supports, ignores, or refuses for now. A test compares the table (`support_table`) with
//! Kubernetes' fields.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::error::{FieldPath, MAX_PROBLEMS, Problem};
use super::node::{Node, Value};
use super::schema::join;
use super::suggest;
use super::support_table::TABLE;

pub use super::support_table::{Support, Values};

use Support::{Ignored, Refused, RefusedIf, SameAs, Supported, SupportedWith};

/// The support of a field by its path, with list indices as `[]`. Fields inside an ignored or refused field have the
/// same status.
pub fn support_of(path: &str) -> Option<Support> {
    if let Some(support) = own_support_of(path) {
        return Some(support);
    }
    let mut outer = path;
    while let Some(end) = outer.rfind('.') {
        outer = outer[..end].trim_end_matches("[]");
        if let Some(support @ (Ignored(_) | Refused(_))) = own_support_of(outer) {
            return Some(support);
        }
    }
    None
}

fn own_support_of(path: &str) -> Option<Support> {
    let by_path = by_path();
    if let Some(support) = by_path.get(path) {
        return Some(*support);
    }
    // Subfields of a `SameAs` field are in the table under the other field.
    TABLE.iter().rev().find_map(|(outer, support)| {
        let SameAs(other) = support else { return None };
        let inside = path.strip_prefix(outer)?;
        let is_inside = inside.starts_with('.') || inside.starts_with("[].");
        is_inside.then(|| own_support_of(&format!("{other}{inside}")))?
    })
}

fn by_path() -> &'static HashMap<&'static str, Support> {
    static BY_PATH: OnceLock<HashMap<&str, Support>> = OnceLock::new();
    BY_PATH.get_or_init(|| TABLE.iter().copied().collect())
}

/// All fields with their support, in the order of Kubernetes' types, without the subfields of ignored or refused
/// fields.
pub fn table() -> &'static [(&'static str, Support)] {
    TABLE
}

/// A field that has no effect, and the reason.
pub(crate) type IgnoredField = (FieldPath, &'static str);

/// The unsupported values in a Pod, and its ignored fields.
pub(super) fn check(pod: &Node) -> (Vec<Problem>, Vec<IgnoredField>) {
    let mut walk = Walk {
        problems: Vec::new(),
        ignored: Vec::new(),
    };
    walk.value(pod, "", &FieldPath::default());
    (walk.problems, walk.ignored)
}

struct Walk {
    problems: Vec<Problem>,
    ignored: Vec<IgnoredField>,
}

impl Walk {
    fn value(&mut self, node: &Node, pattern: &str, path: &FieldPath) {
        match &node.value {
            Value::Map(entries) => {
                for (key, entry) in entries {
                    self.field(&entry.value, &join(pattern, key), &path.field(key));
                }
            }
            Value::List(elements) => {
                let pattern = format!("{pattern}[]");
                for (index, element) in elements.iter().enumerate() {
                    self.value(element, &pattern, &path.index(index));
                }
            }
            _ => {}
        }
    }

    fn field(&mut self, node: &Node, pattern: &str, path: &FieldPath) {
        if self.problems.len() + self.ignored.len() >= MAX_PROBLEMS {
            return;
        }
        // null and an empty list are equivalent to a missing field.
        let absent = match &node.value {
            Value::Null => true,
            Value::List(elements) => elements.is_empty(),
            _ => false,
        };
        match own_support_of(pattern) {
            _ if absent => {}
            Some(Refused(reason)) => self.refuse(path, "", reason),
            Some(RefusedIf(values, reason)) => {
                if let Some(written) = written(&node.value).filter(|written| values.include(written)) {
                    let shown = match &node.value {
                        Value::String(_) => format!("{:?} is ", suggest::shorten(&written)),
                        _ => format!("{written} is "),
                    };
                    self.refuse(path, &shown, reason);
                }
            }
            Some(Ignored(reason)) => self.ignored.push((path.clone(), reason)),
            Some(Supported | SupportedWith(_) | SameAs(_)) => self.value(node, pattern, path),
            // The strict types refuse fields that are not in the table. Maps with the user's own keys are not checked.
            None => {}
        }
    }

    fn refuse(&mut self, path: &FieldPath, shown: &str, reason: &str) {
        self.problems.push(Problem::at(
            path,
            format!("{shown}not supported by microkube yet: {reason}"),
        ));
    }
}

/// A scalar value as written.
fn written(value: &Value) -> Option<String> {
    match value {
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::OldBool(_) | Value::List(_) | Value::Map(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::schema::Schema;
    use super::super::{documents, yaml};
    use super::*;

    #[test]
    fn the_table_has_every_kubernetes_field_once_and_no_other() {
        let schema = Schema::of_pod();
        let known: HashSet<&str> = TABLE.iter().map(|(path, _)| *path).collect();
        assert_eq!(known.len(), TABLE.len(), "duplicate field");
        let missing: Vec<&str> = schema
            .walk()
            .into_iter()
            .map(|field| field.path.as_str())
            .filter(|path| support_of(path).is_none())
            .collect();
        assert_eq!(missing, [""; 0], "not in the table");
        let unknown: Vec<&str> = known
            .iter()
            .copied()
            .filter(|path| schema.field(path).is_none())
            .collect();
        assert_eq!(unknown, [""; 0], "not in Kubernetes");
        // Subfields of ignored or refused fields are not checked. A type may have more fields than the one that it shares
        // its support with.
        for path in known {
            let mut outer = path;
            while let Some(end) = outer.rfind('.') {
                outer = outer[..end].trim_end_matches("[]");
                assert!(
                    !matches!(own_support_of(outer), Some(Ignored(_) | Refused(_))),
                    "{path} is below {outer}"
                );
            }
        }
    }

    #[test]
    fn refused_fields_are_named_and_harmless_values_accepted() {
        let text = "
spec:
  hostNetwork: false
  hostPID: true
  readinessGates: []
  initContainers: [{ports: [{hostPort: 81}], resizePolicy: [{resourceName: cpu}]}]
  nodeSelector: {a: b}
  containers:
  - {volumeDevices: [{}], envFrom: [{}], stdin: true, ports: [{hostPort: 0}, {hostPort: 80}], lifecycle: null, volumeMounts: [{mountPath: /}, {mountPath: /a}]}
  - {env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}, {name: B, valueFrom: {fileKeyRef: {key: k}}}]}
  volumes: [{name: a, nfs: {path: /}}, {name: b, emptyDir: {medium: HugePages-2Mi}}]
";
        let documents = documents::split(text.as_bytes()).unwrap();
        let (pods, _) = yaml::parse(&documents[0], &mut yaml::Budget::default());
        let (problems, ignored) = check(&pods[0]);
        let mut paths: Vec<String> = problems.iter().map(|problem| problem.path.to_string()).collect();
        paths.sort();
        assert_eq!(
            paths,
            [
                "spec.containers[0].ports[1].hostPort",
                "spec.containers[0].volumeDevices",
                "spec.containers[0].volumeMounts[0].mountPath",
                "spec.hostPID",
                "spec.initContainers[0].ports[0].hostPort",
                "spec.volumes[0].nfs",
                "spec.volumes[1].emptyDir.medium",
            ]
        );
        assert!(problems.iter().any(|problem| problem.message
            == "spec.hostPID: true is not supported by microkube yet: each Pod runs in its own virtual machine, which has no access to the host's namespaces"));
        assert_eq!(
            ignored.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>(),
            ["spec.initContainers[0].resizePolicy", "spec.nodeSelector"]
        );
    }

    #[test]
    fn unenforced_fields_are_described_as_not_enforced() {
        for path in [
            "spec.affinity",
            "spec.containers[].resources.requests",
            "spec.nodeName",
            "spec.nodeSelector",
        ] {
            let support = support_of(path);
            let said = matches!(support, Some(Ignored(note) | SupportedWith(note)) if note.contains("not enforced"));
            assert!(said, "{path}: {support:?}");
        }
    }

    #[test]
    fn nested_fields_inherit_the_support_of_their_parent() {
        assert_eq!(support_of("spec.volumes[].nfs.path"), support_of("spec.volumes[].nfs"));
        assert!(matches!(support_of("spec.affinity.nodeAffinity"), Some(Ignored(_))));
        assert!(matches!(support_of("spec.resourceClaims[].name"), Some(Refused(_))));
        assert_eq!(support_of("spec.containers[].nothing"), None);
    }

    #[test]
    fn fields_of_shared_types_have_the_same_support() {
        for path in [
            "spec.initContainers[].image",
            "spec.initContainers[].startupProbe.httpGet.httpHeaders[].name",
            "spec.initContainers[].lifecycle.preStop.httpGet.port",
            "spec.initContainers[].envFrom[].secretRef.optional",
            "spec.volumes[].projected.sources[].downwardAPI.items[].fieldRef.fieldPath",
            "spec.volumes[].projected.sources[].secret.items[].mode",
            "spec.containers[].readinessProbe.grpc.service",
        ] {
            assert_eq!(support_of(path), Some(Supported), "{path}");
        }
        let hook = support_of("spec.initContainers[].lifecycle.preStop.tcpSocket");
        assert!(matches!(hook, Some(SupportedWith(_))), "{hook:?}");
        let probe = "spec.initContainers[].readinessProbe";
        assert_eq!(support_of(probe), Some(SameAs("spec.containers[].livenessProbe")));
        let port = "ports[].hostPort";
        assert_eq!(
            support_of(&format!("spec.initContainers[].{port}")),
            support_of(&format!("spec.containers[].{port}"))
        );
        assert!(matches!(
            support_of("spec.initContainers[].volumeDevices[].name"),
            Some(Refused(_))
        ));
        assert_eq!(support_of("spec.initContainers[].nothing"), None);
        // The target of `SameAs` is in the table and is another field, so the lookup ends.
        for (path, support) in TABLE {
            if let SameAs(other) = support {
                assert!(by_path().contains_key(other) && other != path, "{path}");
            }
        }
    }
}
