//! Containers: a helper becomes each of them, and a watcher follows them until their end.

mod capabilities;
pub mod cgroup;
mod dev;
mod devices;
mod exec;
pub mod init;
mod instance;
mod launch;
mod mounts;
mod oom_kills;
pub mod pause;
mod prepared_mounts;
mod process;
mod rootfs;
mod seccomp;
mod spawn;
pub mod spec;
mod starter;
mod sub_path;
pub mod terminal;
mod termination_message;
mod user;
mod writable_layer;

use std::io;

use anyhow::{Result, anyhow};

pub use self::instance::Container;
pub use self::launch::{Launcher, StartError};
pub use self::process::{Process, ProcessExit, ProcessRequest};
pub use self::starter::ContainerStarter;
pub use self::user::User;

/// Kills everything that runs in containers.
pub fn kill_all() -> Result<()> {
    match cgroup::kill_all() {
        // No sandbox has been created yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(anyhow!(error).context("cannot kill the containers")),
        Ok(()) => Ok(()),
    }
}
