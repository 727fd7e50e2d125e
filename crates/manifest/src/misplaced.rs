//! What was probably meant by a field that is not there: another spelling, or another place.

use super::error::{FieldPath, Segment};
use super::schema::Schema;
use super::suggest;

/// A hint for a field that the object at `parent` does not have, to be appended to the message; `fields` are those that it has.
pub fn hint(name: &str, parent: &FieldPath, fields: &[&str]) -> String {
    let parent = pattern(parent);
    let owner = owner(name, &parent);
    match (suggest::nearest(name, fields), owner) {
        // A field beside its owner or right below it: more likely than a slip that happens to give another field's name.
        (near, Some((owner, distance))) if near.is_none() || distance == 1 => {
            let indentation = parent.is_empty() || parent.starts_with(&owner);
            let check = if indentation { ": check the indentation" } else { "" };
            format!(", it belongs into {owner}{check}")
        }
        (Some(near), _) => format!(", did you mean \"{near}\"?"),
        (None, _) => String::new(),
    }
}

/// The path with elements of lists as `[]`.
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

/// The nearest object that has a field of this name, and how many steps it is away.
fn owner(name: &str, parent: &str) -> Option<(String, usize)> {
    let mut found: Vec<(usize, bool, &str)> = Schema::of_pod()
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
    // Of several that are as near, nobody knows which is meant; but most often it is the container, or what is around the place.
    let ambiguous = unlikely && found.get(1).is_some_and(|(second, ..)| *second == nearest);
    (nearest <= 3 && !ambiguous).then(|| (owner.to_owned(), nearest))
}

/// Steps from one object to another: out of objects and into objects.
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
    fn fields_in_the_wrong_place_are_sent_to_the_right_one() {
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
                hint(name, parent, &[]),
                format!(", it belongs into {expected}"),
                "{name}"
            );
        }
        assert_eq!(
            hint("comand", &container, &["command", "args"]),
            ", did you mean \"command\"?"
        );
        assert_eq!(hint("entrypoint", &container, &["command", "args"]), "");
    }
}
