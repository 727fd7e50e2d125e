//! The directory for files that a container writes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::log;
use crate::sandbox::{DiskUsage, Project};

/// The writable layer of a container, removed when it is dropped.
#[derive(Debug)]
pub struct WritableLayer {
    path: PathBuf,
    project: Option<Project>,
}

impl WritableLayer {
    /// Creates it at `path`, on a disk that counts its usage if there is one.
    pub fn create(path: PathBuf, disk_usage: Option<&DiskUsage>) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        // From here on, the directory is removed after an error.
        let mut layer = Self { path, project: None };
        // The directories below inherit the project. The overlay moves files from one to the other, and ext4 moves none
        // to another project.
        layer.project = disk_usage.map(|usage| usage.add_container(&layer.path)).transpose()?;
        for directory in ["upper", "work"] {
            let path = layer.join(directory);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        Ok(layer)
    }

    /// The project that counts its usage.
    pub fn project(&self) -> Option<Project> {
        self.project
    }

    /// The file for the container's termination message.
    pub fn termination_message(&self) -> PathBuf {
        self.join("termination-message")
    }

    /// The path of `name` in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for WritableLayer {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            log::warning!("cannot remove {}: {error}", self.path.display());
        }
    }
}
