//! Image volumes: the files of an image, for all containers that mount the volume. They are an overlay of the image's
//! layers, like the root file system of a container, but without a writable layer.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use microkube_protocol::messages::Layer;

use crate::mount_api::{attach, attr, open_path};
use crate::overlay;
use crate::request_field::InvalidRequest;

/// Nothing in the volume can be changed or executed. (Kubernetes' API: "read-only (ro) and non-executable files
/// (noexec)"; CRI-O adds the others.)
const ATTRIBUTES: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// Checks the layers of a volume in a request with these layers.
pub fn check(layer_ids: &[String], layers: &[Layer]) -> Result<(), InvalidRequest> {
    let mut seen = HashSet::new();
    for id in layer_ids {
        let problem = if !layers.iter().any(|layer| layer.id == *id) {
            "names an unknown layer"
        } else if !seen.insert(id) {
            // The kernel refuses an overlay with a directory twice.
            "names a layer twice"
        } else {
            continue;
        };
        return Err(InvalidRequest::new(
            "volumes.image.layer_ids",
            format!("{problem}: {id:?}"),
        ));
    }
    Ok(())
}

/// Mounts layers, lowest first, at a path that does not exist yet. With a user namespace, the files belong to its users.
pub fn mount(path: &Path, layers: &[PathBuf], user_namespace: Option<BorrowedFd<'_>>) -> Result<()> {
    fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
    if layers.is_empty() {
        return Ok(());
    }
    // The kernel needs two layers, and the image may have only one: the empty directory below is the other.
    let mut stack = vec![path.to_owned()];
    stack.extend_from_slice(layers);
    let mounted = overlay::mount(&stack, None, ATTRIBUTES, user_namespace)?;
    let place = open_path(path).with_context(|| format!("cannot open {}", path.display()))?;
    attach(mounted.as_fd(), place.as_fd()).with_context(|| format!("cannot mount the image at {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_names_each_of_its_layers_once() {
        let layers = ["a1", "b2"].map(|id| Layer {
            id: id.to_owned(),
            ..Default::default()
        });
        let check = |ids: &[&str]| {
            let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
            check(&ids, &layers).map_err(|error| error.to_string())
        };
        assert_eq!(check(&["b2", "a1"]), Ok(()));
        assert_eq!(check(&[]), Ok(()));
        let unknown = "volumes.image.layer_ids names an unknown layer: \"c3\"".to_owned();
        assert_eq!(check(&["a1", "c3"]), Err(unknown));
        let twice = "volumes.image.layer_ids names a layer twice: \"a1\"".to_owned();
        assert_eq!(check(&["a1", "a1"]), Err(twice));
    }
}
