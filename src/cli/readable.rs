//! Checks whether this user may read Pods.

use std::path::PathBuf;

use crate::state::Paths;

/// An ordinary user cannot read Pods.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: only root can see Pods; use sudo", path.display())]
pub(super) struct PodsUnreadable {
    pub(super) path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Reports missing permissions up front, instead of at the first unreadable file.
pub(super) fn check_readable(paths: &Paths) -> Result<(), PodsUnreadable> {
    match std::fs::read_dir(paths.pods()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let path = paths.pods();
            Err(PodsUnreadable { path, source: error })
        }
        // Later reads report other errors.
        _ => Ok(()),
    }
}
