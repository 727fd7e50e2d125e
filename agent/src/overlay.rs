//! Overlays of image layers: the root file systems of containers, and image volumes. Where they are attached is for the
//! callers.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use crate::mount_api::{NewFileSystem, attach, clone_mount, map_users, open_path};

/// A place in the caller's mount namespace where nothing else is mounted.
const FREE_PLACE: &str = "/tmp";

/// The writable layer of an overlay: two directories of one file system.
#[derive(Debug, Clone, Copy)]
pub struct Upper<'p> {
    pub upper_dir: &'p Path,
    pub work_dir: &'p Path,
}

/// Mounts layers, lowest first. Without a writable layer, the kernel needs at least two. With a user namespace, the
/// files of the layers belong to its users: the overlay itself cannot be mapped. The mount is not attached.
pub fn mount(
    layers: &[PathBuf],
    upper: Option<Upper<'_>>,
    attributes: u64,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let overlay = NewFileSystem::open(c"overlay").context("cannot open an overlay file system")?;
    // One option per layer: mount(2) limits all options together to one page, which would limit the number of layers.
    for layer in layers.iter().rev() {
        match user_namespace {
            Some(user_namespace) => add_mapped_layer(&overlay, layer, user_namespace)
                .with_context(|| format!("cannot map the users of {}", layer.display()))?,
            None => set_path(&overlay, c"lowerdir+", layer)?,
        }
    }
    if let Some(upper) = upper {
        set_path(&overlay, c"upperdir", upper.upper_dir)?;
        set_path(&overlay, c"workdir", upper.work_dir)?;
        // The writable layer is removed with the container, so fsync has nothing to protect.
        overlay
            .set_flag(c"volatile")
            .context("cannot make the overlay volatile")?;
    }
    let mounted = overlay.mount(attributes).context("cannot mount the overlay")?;
    if user_namespace.is_some() {
        for _ in layers {
            umount2(FREE_PLACE, MntFlags::MNT_DETACH).context("cannot detach a layer")?;
        }
    }
    Ok(mounted)
}

/// Adds a clone of the layer whose files belong to the users of the namespace. The overlay takes layers by path, so the
/// clone is attached, on top of the one before.
fn add_mapped_layer(overlay: &NewFileSystem, layer: &Path, user_namespace: BorrowedFd<'_>) -> Result<()> {
    let mounted = clone_mount(open_path(layer)?.as_fd(), false)?;
    map_users(mounted.as_fd(), user_namespace)?;
    attach(mounted.as_fd(), open_path(Path::new(FREE_PLACE))?.as_fd())?;
    set_path(overlay, c"lowerdir+", Path::new(FREE_PLACE))
}

fn set_path(overlay: &NewFileSystem, key: &CStr, path: &Path) -> Result<()> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not valid UTF-8", path.display()))?;
    overlay
        .set(key, text)
        .with_context(|| format!("cannot set {} to {text}", key.to_string_lossy()))
}
