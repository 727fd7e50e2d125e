//! The directory for files that a container writes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::log;

/// The writable layer of a container, removed when it is dropped.
#[derive(Debug)]
pub struct WritableLayer {
    path: PathBuf,
}

impl WritableLayer {
    /// Creates it at `path`.
    pub fn create(path: PathBuf) -> Result<Self> {
        for directory in ["upper", "work"] {
            let path = path.join(directory);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        Ok(Self { path })
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
