//! Starts a Pod's supervisor, in the same way for a foreground Pod, a detached one, and one whose supervisor died.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use microkube_base::child;

use crate::state::{LockedFile, Paths, PodRecord};

/// How many Pods' logs are kept after the Pods are gone.
const KEPT_LOGS: usize = 50;

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The path of this program is unknown.
    #[error("cannot find this program")]
    NoProgram(#[source] io::Error),
    /// The process could not be started.
    #[error("cannot start the Pod's supervisor")]
    Spawn(#[source] io::Error),
}

/// Path of the supervisor's log. The file outlives the Pod.
#[must_use]
pub fn supervisor_log(paths: &Paths, record: &PodRecord) -> PathBuf {
    paths.logs().join(format!(
        "{}_{}_{}.supervisor.log",
        record.namespace, record.name, record.uid
    ))
}

/// Starts a Pod's supervisor. It takes over the Pod's lock and, if there is a client, the supervisor's end of the
/// connection.
///
/// # Errors
/// See [`LaunchError`].
pub fn start_supervisor(
    paths: &Paths,
    record: &PodRecord,
    lock: &mut LockedFile,
    client: Option<BorrowedFd<'_>>,
    debug: bool,
) -> Result<Child, LaunchError> {
    prune_logs(paths);
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(supervisor_log(paths, record));
    // Run without a log if it cannot be opened: the disk may be full.
    let log = log.map_or_else(|_| Stdio::null(), Stdio::from);
    let mut command = Command::new(std::env::current_exe().map_err(LaunchError::NoProgram)?);
    command.args(["supervise", "--uid", &record.uid]);
    command.args(["--lock-fd", &lock.as_fd().as_raw_fd().to_string()]);
    if let Some(client) = client {
        command.args(["--client-fd", &client.as_raw_fd().to_string()]);
    }
    if debug {
        command.arg("--debug");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // A supervisor may run for months: it must not keep its start directory in use.
    command.current_dir("/");
    let inherited: Vec<i32> = [Some(lock.as_fd()), client]
        .into_iter()
        .flatten()
        .map(|fd| fd.as_raw_fd())
        .collect();
    child::pass_on(&mut command, &inherited);
    // SAFETY: between fork and exec the closure only calls setsid(2), which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            // Use a new session: signals from the terminal go to the client, which forwards requests to the supervisor.
            libc::setsid();
            Ok(())
        });
    }
    let supervisor = command.spawn().map_err(LaunchError::Spawn)?;
    lock.leave_to_child();
    Ok(supervisor)
}

/// Removes the oldest logs of Pods that are gone.
fn prune_logs(paths: &Paths) {
    let Ok(entries) = std::fs::read_dir(paths.logs()) else {
        return;
    };
    let mut logs: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let (uid, _) = name.rsplit_once('_')?.1.split_once('.')?;
            if paths.pod_state(uid).exists() {
                return None;
            }
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .collect();
    logs.sort();
    // A Pod has two files, or more if one was rotated.
    for (_, path) in logs.iter().take(logs.len().saturating_sub(3 * KEPT_LOGS)) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_oldest_logs_of_deleted_pods_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        std::fs::create_dir_all(paths.logs()).unwrap();
        std::fs::create_dir_all(paths.pod_state("there")).unwrap();
        let write = |name: &str, age_s: u64| {
            let file = std::fs::File::create(paths.logs().join(name)).unwrap();
            let time = std::time::SystemTime::now() - std::time::Duration::from_secs(age_s);
            file.set_modified(time).unwrap();
        };
        write("default_my.pod_there.supervisor.log", 2000);
        write("default_my.pod_there.guest.log", 2000);
        write("default_my.pod_oldest.supervisor.log", 1000);
        for number in 0..u64::try_from(3 * KEPT_LOGS).unwrap() {
            write(&format!("default_web_gone-{number}.supervisor.log"), number);
        }

        prune_logs(&paths);

        let kept = |name: &str| paths.logs().join(name).exists();
        assert!(kept("default_my.pod_there.supervisor.log") && kept("default_my.pod_there.guest.log"));
        assert!(!kept("default_my.pod_oldest.supervisor.log"));
        assert!(kept("default_web_gone-0.supervisor.log") && kept("default_web_gone-149.supervisor.log"));
    }
}
