//! Suggests what an unknown field was probably meant to be: another spelling, or another place.

use super::error::{FieldPath, Segment};
use super::schema::Schema;
use super::suggest;

/// A hint for a field that the value at `parent` does not have, to append to the message; `fields` are its known
/// fields, `schema` those of the whole object.
pub fn hint(name: &str, parent: &FieldPath, fields: &[&str], schema: &Schema) -> String {
    let parent = pattern(parent);
    let owner = owner(name, &parent, schema);
    match (suggest::nearest(name, fields), owner) {
        // A field next to its owner or directly below it is more likely than a typo that happens to match another
        // field's name.
        (near, Some((owner, distance))) if near.is_none() || distance == 1 => {
            let indentation = parent.is_empty() || parent.starts_with(&owner);
            let check = if indentation { ": check the indentation" } else { "" };
            format!(", it belongs in {owner}{check}")
        }
        (Some(near), _) => format!(", did you mean \"{near}\"?"),
        (None, _) => String::new(),
    }
}

/// The path with list elements as `[]`.
pub fn pattern(path: &FieldPath) -> String {
    let mut pattern = String::new();
    for segment in path.segments() {
        match segment {
            Segment::Field(name) | Segment::Key(name) => {
                if !pattern.is_empty() {
                    pattern.push('.');
                }
                pattern.push_str(name);
            }
            Segment::Index(_) => pattern.push_str("[]"),
        }
    }
    pattern
}

/// The nearest object that has a field with this name, and its distance in steps.
fn owner(name: &str, parent: &str, schema: &Schema) -> Option<(String, usize)> {
    let mut found: Vec<(usize, bool, &str)> = schema
        .paths_of(name)
        .iter()
        .filter_map(|path| {
            let owner = path.strip_suffix(name)?.strip_suffix('.')?;
            let rare = ["status", "metadata.managedFields", "metadata.ownerReferences"]
                .iter()
                .any(|rare| owner.starts_with(rare))
                || owner.contains("volumeClaimTemplate");
            let other_containers = ["spec.initContainers", "spec.ephemeralContainers"]
                .iter()
                .any(|other| owner.starts_with(other));
            if rare || (other_containers && !parent.starts_with(owner.split('[').next()?)) {
                return None;
            }
            let around = parent.starts_with(owner);
            Some((distance(parent, owner), !around && owner != "spec.containers[]", owner))
        })
        .collect();
    found.sort_unstable();
    let (nearest, unlikely, owner) = *found.first()?;
    // With several equally near owners it is unclear which one is meant. Most often it is the container, or an object
    // around this place.
    let ambiguous = unlikely && found.get(1).is_some_and(|(second, ..)| *second == nearest);
    (nearest <= 3 && !ambiguous).then(|| (owner.to_owned(), nearest))
}

/// Steps from one object to another, out of objects and into objects.
fn distance(from: &str, to: &str) -> usize {
    let steps = |path: &str| {
        path.split('.')
            .filter(|step| !step.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (from, to) = (steps(from), steps(to));
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    from.len() + to.len() - 2 * common
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misplaced_fields_get_a_hint_to_their_right_place() {
        let pod = Schema::of_pod();
        let root = FieldPath::default();
        let spec = root.field("spec");
        let container = spec.field("containers").index(0);
        for (name, parent, expected) in [
            ("hostNetwork", &container, "spec: check the indentation"),
            ("volumes", &container, "spec: check the indentation"),
            ("labels", &root, "metadata: check the indentation"),
            ("name", &root, "metadata: check the indentation"),
            ("containers", &root, "spec: check the indentation"),
            ("labels", &spec, "metadata"),
            ("image", &spec, "spec.containers[]"),
            ("livenessProbe", &spec, "spec.containers[]"),
            ("limits", &container, "spec.containers[].resources"),
            ("runAsUser", &container, "spec.containers[].securityContext"),
            ("containerPort", &container, "spec.containers[].ports[]"),
            ("mountPath", &container, "spec.containers[].volumeMounts[]"),
            ("emptyDir", &spec, "spec.volumes[]"),
            ("fsGroup", &container.field("securityContext"), "spec.securityContext"),
            (
                "terminationGracePeriodSeconds",
                &container,
                "spec: check the indentation",
            ),
            (
                "imagePullPolicy",
                &container.field("resources"),
                "spec.containers[]: check the indentation",
            ),
        ] {
            assert_eq!(
                hint(name, parent, &[], pod),
                format!(", it belongs in {expected}"),
                "{name}"
            );
        }
        assert_eq!(
            hint("comand", &container, &["command", "args"], pod),
            ", did you mean \"command\"?"
        );
        assert_eq!(hint("entrypoint", &container, &["command", "args"], pod), "");
    }
}
