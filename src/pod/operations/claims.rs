//! Follows changes of objects: binds claims, and creates and deletes their disks, after a user has changed a claim, a
//! volume or a class.

use microkube_manifest::kinds::Kind;

use crate::objects::Objects;
use crate::pod::claims::settle_or_warn;
use crate::state::Paths;

/// Applies the rules of claims, if one of the kinds of changed objects has an effect on them. An error is only logged,
/// because the change has succeeded, and the next one continues. Blocks.
pub fn follow_changes<'k>(paths: &Paths, objects: &Objects, changed: impl IntoIterator<Item = &'k Kind>) {
    if !objects.is_dry_run() && changed.into_iter().any(matters) {
        settle_or_warn(paths);
    }
}

/// Whether claims depend on objects of this kind. Supervisors follow Pods.
pub(super) fn matters(kind: &Kind) -> bool {
    matches!(kind.kind, "PersistentVolume" | "PersistentVolumeClaim" | "StorageClass")
}
