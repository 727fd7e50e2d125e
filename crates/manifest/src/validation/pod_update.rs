//! Kubernetes' rules for changes of a Pod (`ValidatePodUpdate`).

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};

use super::super::error::{FieldPath, Problem};
use super::found::Found;
use super::{gated_pod_update, update};

/// `updatablePodSpecFieldsNoResources`
const UPDATABLE: [&str; 5] = [
    "`spec.containers[*].image`",
    "`spec.initContainers[*].image`",
    "`spec.activeDeadlineSeconds`",
    "`spec.tolerations` (only additions to existing tolerations)",
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
];

/// All problems of a change. Kubernetes appends a comparison of the two specifications, in Go's notation, to the last
/// message; this code omits it.
pub(crate) fn validate(new: &Pod, old: &Pod) -> Vec<Problem> {
    let mut found = Found::default();
    update::metadata(&new.metadata, &old.metadata, &mut found);
    let path = FieldPath::default().field("spec");
    let (new, old) = (
        new.spec.clone().unwrap_or_default(),
        old.spec.clone().unwrap_or_default(),
    );
    spec(new, &old, &path, &mut found);
    found.0
}

fn spec(mut new: PodSpec, old: &PodSpec, path: &FieldPath, found: &mut Found) {
    for (field, new, old) in [
        ("containers", Some(&new.containers), Some(&old.containers)),
        (
            "initContainers",
            new.init_containers.as_ref(),
            old.init_containers.as_ref(),
        ),
    ] {
        let count = |containers: Option<&Vec<Container>>| containers.map_or(0, Vec::len);
        if count(new) != count(old) {
            return found.forbidden(&path.field(field), "pod updates may not add or remove containers");
        }
    }
    if !deadline(&new, old, &path.field("activeDeadlineSeconds"), found) {
        return;
    }
    let tolerations = |spec: &PodSpec| spec.tolerations.clone().unwrap_or_default();
    if !only_added(&tolerations(&new), &tolerations(old)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        return found.forbidden(&path.field("tolerations"), detail);
    }
    let gates = old.scheduling_gates.as_deref().unwrap_or_default();
    for (index, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !gates.contains(gate) {
            let path = path.field("schedulingGates").index(index).field("name");
            let detail = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                gate.name
            );
            found.forbidden(&path, detail);
        }
    }
    // Make the fields that may change equal before the comparison.
    images(&mut new.containers, &old.containers);
    images(
        new.init_containers.as_deref_mut().unwrap_or_default(),
        old.init_containers.as_deref().unwrap_or_default(),
    );
    new.active_deadline_seconds = old.active_deadline_seconds;
    new.scheduling_gates.clone_from(&old.scheduling_gates);
    new.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
        && new.termination_grace_period_seconds == Some(1)
    {
        new.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if !gates.is_empty() {
        gated_pod_update::constraints(&mut new, old, path, found);
    }
    if !update::same(&new, old) {
        let fields = UPDATABLE.join(",");
        found.forbidden(
            path,
            format_args!("pod updates may not change fields other than {fields}"),
        );
    }
}

/// Checks a change of the deadline, which may be set or become earlier. If this is violated, Kubernetes reports nothing
/// else.
fn deadline(new: &PodSpec, old: &PodSpec, path: &FieldPath, found: &mut Found) -> bool {
    let before = found.0.len();
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            found.between(path, new, 0, i64::from(i32::MAX));
        }
        (Some(new), Some(old)) if old < new => {
            found.invalid(path, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            found.invalid(path, format_args!("null"), detail);
        }
        _ => {}
    }
    found.0.len() == before
}

/// `validateOnlyAddedTolerations`
fn only_added(new: &[Toleration], old: &[Toleration]) -> bool {
    let without_seconds = |toleration: &Toleration| Toleration {
        toleration_seconds: None,
        ..toleration.clone()
    };
    let new: Vec<_> = new.iter().map(without_seconds).collect();
    old.iter().all(|old| new.contains(&without_seconds(old)))
}

fn images(new: &mut [Container], old: &[Container]) {
    for (new, old) in new.iter_mut().zip(old) {
        new.image.clone_from(&old.image);
    }
}
