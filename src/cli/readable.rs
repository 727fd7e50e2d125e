//! Whether this user may see Pods at all.

use std::path::PathBuf;

use crate::state::Paths;

/// An ordinary user cannot see Pods.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: Pods are root's, use sudo", path.display())]
pub(super) struct PodsUnreadable {
    /// The directory.
    pub(super) path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Tells an ordinary user at once, instead of by the first file that cannot be read.
pub(super) fn check_readable(paths: &Paths) -> Result<(), PodsUnreadable> {
    match std::fs::read_dir(paths.pods()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let path = paths.pods();
            Err(PodsUnreadable { path, source: error })
        }
        // Anything else is told by whoever reads on.
        _ => Ok(()),
    }
}
