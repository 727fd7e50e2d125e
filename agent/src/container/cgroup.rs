//! The cgroup of a container: limits, out-of-memory kills, killing everything in it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use microkube_protocol::messages::Resources;
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::boot::CGROUP_ROOT;

/// Controllers that limit containers.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// Range of cpu.weight in cgroup v2.
const CPU_WEIGHT: std::ops::RangeInclusive<u64> = 1..=10_000;

/// How often, and at what interval, a cgroup is checked for processes that were killed.
const KILL_CHECKS: u32 = 200;
const KILL_CHECK_PERIOD: Duration = Duration::from_millis(10);

/// The parent of all containers' cgroups.
fn parent() -> PathBuf {
    Path::new(CGROUP_ROOT).join("containers")
}

/// Creates the parent of the containers' cgroups and enables its controllers. Called once per VM.
pub fn create_parent() -> Result<()> {
    let parent = parent();
    fs::create_dir_all(&parent).with_context(|| format!("cannot create the cgroup {}", parent.display()))?;
    for path in [Path::new(CGROUP_ROOT), &parent] {
        let available = path.join("cgroup.controllers");
        let available =
            fs::read_to_string(&available).with_context(|| format!("cannot read {}", available.display()))?;
        write_value(path, "cgroup.subtree_control", &enable_controllers(&available))?;
    }
    Ok(())
}

/// The line that enables the needed controllers, except those that the kernel lacks.
fn enable_controllers(available: &str) -> String {
    let mut line = String::new();
    for controller in CONTROLLERS {
        if available.split_ascii_whitespace().any(|name| name == controller) {
            let _ = write!(line, "+{controller} ");
        }
    }
    line
}

/// Kills every process of every container.
pub fn kill_all() -> io::Result<()> {
    fs::write(parent().join("cgroup.kill"), "1")
}

/// The resource usage of a container's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since the container started, in microseconds.
    pub cpu_usage_us: u64,
    /// Memory in bytes that could not be reclaimed immediately: the kubelet's working set.
    pub memory_working_set_bytes: u64,
}

/// The cgroup of one container. Dropping it removes the cgroup and kills everything that still runs in it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Creates the cgroup and sets its limits. `name` is a validated container id.
    pub fn create(name: &str, resources: &Resources) -> Result<Self> {
        let path = parent().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create the cgroup {}", path.display()))?;
        let cgroup = Self { path };
        for (file, value) in settings(resources) {
            write_value(&cgroup.path, file, &value)?;
        }
        if resources.memory_limit_bytes > 0 && cgroup.path.join("memory.swap.max").exists() {
            write_value(&cgroup.path, "memory.swap.max", "0")?;
        }
        Ok(cgroup)
    }

    /// Lets a user create cgroups below this one and move processes to them (`/sys/kernel/cgroup/delegate`).
    pub fn give_to(&self, uid: u32) -> Result<()> {
        for file in [".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            let path = self.path.join(file);
            chown(&path, Some(uid), Some(uid)).with_context(|| format!("cannot give away {}", path.display()))?;
        }
        Ok(())
    }

    /// Opens the directory, to start a process in it (`CLONE_INTO_CGROUP`) and to attach the device rules to it.
    pub fn open(&self) -> Result<OwnedFd> {
        let directory = File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))?;
        Ok(directory.into())
    }

    /// Opens the directory of the cgroup that a process of the container is in: this one or one below it.
    pub fn open_of(&self, pid: Pid) -> Result<OwnedFd> {
        let file = format!("/proc/{pid}/cgroup");
        let membership = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let path = path_of(&membership)
            .filter(|path| path.starts_with(&self.path))
            .with_context(|| format!("process {pid} is not in the container's cgroup"))?;
        let directory = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(directory.into())
    }

    /// The resource usage of its processes.
    pub fn usage(&self) -> Result<Usage> {
        let read = |file: &str| {
            let path = self.path.join(file);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let cpu_usage_us = value_of(&read("cpu.stat")?, "usage_usec").unwrap_or(0);
        let memory_bytes = number(&read("memory.current")?).unwrap_or(0);
        let inactive_file_bytes = value_of(&read("memory.stat")?, "inactive_file").unwrap_or(0);
        Ok(Usage {
            cpu_usage_us,
            memory_working_set_bytes: memory_bytes.saturating_sub(inactive_file_bytes),
        })
    }

    /// How many of its processes the kernel has killed because memory ran out.
    pub fn oom_kills(&self) -> u64 {
        fs::read_to_string(self.path.join("memory.events")).map_or(0, |events| oom_kills(&events))
    }

    /// Kills all its processes and waits until they have ended, but not for long: an uninterruptible process must not
    /// hold up the container's end.
    pub async fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")?;
        let procs = self.path.join("cgroup.procs");
        for _ in 0..KILL_CHECKS {
            if fs::read(&procs)?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(KILL_CHECK_PERIOD).await;
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Becomes ready, as if for urgent data, when a counter in its `memory.events` has changed (`kernfs_generic_poll`).
    pub fn memory_events(&self) -> io::Result<AsyncFd<File>> {
        let file = File::open(self.path.join("memory.events"))?;
        // SAFETY: a `File` keeps the same open descriptor while it lives, and it lives in the `AsyncFd`.
        Ok(unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY)? })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            crate::log::warning!("cannot remove the cgroup {}: {error}", self.path.display());
        }
    }
}

/// A privileged container may have created its own cgroups below this one.
fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn write_value(cgroup: &Path, file: &str, value: &str) -> Result<()> {
    let path = cgroup.join(file);
    fs::write(&path, value).with_context(|| format!("cannot write {value:?} to {}", path.display()))
}

/// The files to write and their values.
fn settings(resources: &Resources) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if resources.cpu_quota_us > 0 {
        let period_us = if resources.cpu_period_us > 0 {
            resources.cpu_period_us
        } else {
            100_000
        };
        settings.push(("cpu.max", format!("{} {period_us}", resources.cpu_quota_us)));
    }
    if resources.cpu_weight > 0 {
        let weight = resources.cpu_weight.clamp(*CPU_WEIGHT.start(), *CPU_WEIGHT.end());
        settings.push(("cpu.weight", weight.to_string()));
    }
    if resources.memory_limit_bytes > 0 {
        settings.push(("memory.max", resources.memory_limit_bytes.to_string()));
        // As the kubelet does on cgroup v2: a container that loses one process to the limit must not
        // keep running with the rest.
        settings.push(("memory.oom.group", "1".to_owned()));
    }
    if resources.pids_limit > 0 {
        settings.push(("pids.max", resources.pids_limit.to_string()));
    }
    settings
}

/// The `oom_kill` counter of a memory.events file.
fn oom_kills(events: &str) -> u64 {
    value_of(events, "oom_kill").unwrap_or(0)
}

/// A value of a file with a name and a number in each line.
fn value_of(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .and_then(|value| value.trim().parse().ok())
}

/// The directory that a /proc/PID/cgroup file names.
fn path_of(membership: &str) -> Option<PathBuf> {
    let path = membership.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(CGROUP_ROOT).join(path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_limits_nothing_is_written() {
        assert!(settings(&Resources::default()).is_empty());
    }

    #[test]
    fn limits_become_cgroup_v2_values() {
        let resources = Resources {
            cpu_quota_us: 50_000,
            cpu_period_us: 100_000,
            cpu_weight: 20_000,
            memory_limit_bytes: 64 << 20,
            pids_limit: 10,
            ..Default::default()
        };
        let expected = [
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "10000"),
            ("memory.max", "67108864"),
            ("memory.oom.group", "1"),
            ("pids.max", "10"),
        ];
        let settings = settings(&resources);
        let settings: Vec<_> = settings.iter().map(|(file, value)| (*file, value.as_str())).collect();
        assert_eq!(settings, expected);
    }

    #[test]
    fn only_controllers_that_exist_are_enabled() {
        assert_eq!(enable_controllers("cpuset cpu memory"), "+cpu +memory ");
        assert_eq!(enable_controllers(""), "");
    }

    #[test]
    fn oom_kills_and_group_kills_are_counted_separately() {
        assert_eq!(oom_kills("low 0\noom 3\noom_kill 2\noom_group_kill 1\n"), 2);
        assert_eq!(oom_kills("oom 3\noom_group_kill 1\n"), 0);
    }

    #[test]
    fn values_are_looked_up_by_their_full_name() {
        let stat = "usage_usec_x 1\nusage_usec 23\nuser_usec 4\n";
        assert_eq!(value_of(stat, "usage_usec"), Some(23));
        assert_eq!(value_of(stat, "inactive_file"), None);
    }

    #[test]
    fn a_process_is_found_in_its_cgroup() {
        let path = path_of("0::/containers/web-0/init\n").unwrap();
        assert_eq!(path, Path::new(CGROUP_ROOT).join("containers/web-0/init"));
        assert_eq!(path_of("1:cpu:/x\n"), None);
    }

    proptest! {
        #[test]
        fn any_memory_events_are_read_without_a_panic(events in any::<String>()) {
            let _ = (oom_kills(&events), path_of(&events));
        }
    }
}
