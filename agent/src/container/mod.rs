//! Containers: started by a helper that becomes them, watched until their end.

mod capabilities;
pub mod cgroup;
mod devices;
mod exec;
pub mod init;
mod rootfs;
mod seccomp;
mod spawn;
pub mod spec;
mod user;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use microkube_protocol::messages::StartContainerRequest;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{oneshot, watch};

use self::capabilities::Capabilities;
use self::cgroup::Cgroup;
use self::spec::{ContainerSpec, FailureKind, Report, VolumeMount};
use crate::host::Supervisors;
use crate::log;
use crate::reaper::{ExitStatus, Reaper};
use crate::request::InvalidRequest;
use crate::sandbox::Sandbox;
use crate::stdio::{OutputPumps, Stdio};

/// Most that a helper may report, bytes: two lines with a path of 4096 bytes.
const MAX_REPORT_BYTES: u64 = 64 << 10;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerExit {
    /// How its PID 1 ended.
    pub status: ExitStatus,
    /// Whether the kernel killed a process of it for want of memory.
    pub oom_killed: bool,
}

/// A container that was started.
#[derive(Debug)]
pub struct Container {
    pid: Pid,
    pidfd: OwnedFd,
    started_boottime_ns: u64,
    exit: watch::Receiver<Option<ContainerExit>>,
}

/// Why a container was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The request does not fit the sandbox or the image.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// The helper could not become the container.
    #[error("unable to start container process: {message}")]
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// The helper's error chain.
        message: String,
    },
    /// The agent could not prepare the container.
    #[error("{0:#}")]
    Internal(anyhow::Error),
}

impl From<anyhow::Error> for StartError {
    fn from(error: anyhow::Error) -> Self {
        Self::Internal(error)
    }
}

/// What is needed to start containers.
#[derive(Debug)]
pub struct ContainerStarter {
    /// The agent's own program.
    pub executable: OwnedFd,
    /// Collects their processes.
    pub reaper: Reaper,
    /// Tells their streams about new supervisors.
    pub supervisors: Supervisors,
}

impl Container {
    /// PID 1 of the container, in the VM's PID namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// CLOCK_BOOTTIME just before the command was executed.
    pub fn started_boottime_ns(&self) -> u64 {
        self.started_boottime_ns
    }

    /// Waits until the container has ended and its output was handed to the host.
    pub async fn wait(&self) -> Result<ContainerExit> {
        let mut exit = self.exit.clone();
        let exit = exit
            .wait_for(Option::is_some)
            .await
            .context("the container's watcher has failed")?;
        exit.context("the container has ended without a status")
    }

    /// Sends a signal to PID 1 of the container; none where it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        match spawn::signal(self.pidfd.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }
}

/// The writable layer of a container, removed when it is dropped.
#[derive(Debug)]
struct WritableLayer {
    path: PathBuf,
}

impl WritableLayer {
    fn create(path: PathBuf) -> Result<Self> {
        for directory in ["upper", "work"] {
            let path = path.join(directory);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(Self { path })
    }

    fn join(&self, name: &str) -> PathBuf {
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

impl ContainerStarter {
    /// Starts a container from a request that [`crate::request::start_container`] has accepted.
    pub async fn start(&self, sandbox: &Sandbox, request: StartContainerRequest) -> Result<Container, StartError> {
        let security = request.security.clone().unwrap_or_default();
        Capabilities::parse(security.capabilities.iter().map(String::as_str))
            .map_err(|name| InvalidRequest::new("security.capabilities", format!("has an unknown name: {name:?}")))?;
        let volume_mounts = volume_mounts(sandbox, &request)?;
        let layers: Result<Vec<_>, _> = request.layer_ids.iter().map(|id| sandbox.layer(id)).collect();
        let layers = layers?;

        // The host answers the connections while the kernel makes the cgroup.
        let (stdio, prepared) = tokio::join!(
            async {
                let stdio = Stdio::open(&request.id, request.stdin, &self.supervisors).await;
                stdio.context("cannot connect the container's stdio with the host")
            },
            async {
                let layer = WritableLayer::create(sandbox.container_dir(&request.id))?;
                let resources = request.resources.clone().unwrap_or_default();
                let cgroup = Cgroup::create(&request.id, &resources)?;
                if !security.privileged {
                    devices::restrict(cgroup.open()?.as_fd()).context("cannot restrict the container's devices")?;
                }
                Ok::<_, anyhow::Error>((layer, cgroup))
            }
        );
        let (stdio, (layer, cgroup)) = (stdio?, prepared?);
        let spec = ContainerSpec {
            layers,
            upper_dir: layer.join("upper"),
            work_dir: layer.join("work"),
            etc_dir: sandbox.etc_dir(),
            shm_dir: sandbox.shm_dir(),
            mounts: volume_mounts,
            args: request.args,
            env: request.env,
            working_dir: if request.working_dir.is_empty() {
                "/".into()
            } else {
                request.working_dir.into()
            },
            user: request.user.spec.clone(),
            supplemental_gids: request.user.supplemental_gids.clone(),
            capabilities: security.capabilities,
            seccomp_unconfined: security.seccomp_unconfined,
            no_new_privileges: security.no_new_privileges,
            read_only_rootfs: security.read_only_rootfs,
            privileged: security.privileged,
            stdin: request.stdin,
        };
        self.start_helper(request.id, &spec, stdio, cgroup, layer).await
    }

    async fn start_helper(
        &self,
        id: String,
        spec: &ContainerSpec,
        stdio: Stdio,
        cgroup: Cgroup,
        layer: WritableLayer,
    ) -> Result<Container, StartError> {
        let spec_file = serde_json::to_vec(spec).context("cannot encode the container's specification")?;
        let spec_file = spawn::memory_file(&spec_file).context("cannot store the container's specification")?;
        let (report, helper_report) = report_pipe().context("cannot make a pipe for the helper's report")?;
        let stdin = match stdio.container_stdin {
            Some(stdin) => stdin,
            None => File::open("/dev/null").context("cannot open /dev/null")?.into(),
        };
        let cgroup_dir = cgroup.open()?;
        let fds = [
            stdin.as_fd(),
            stdio.container_stdout.as_fd(),
            stdio.container_stderr.as_fd(),
            spec_file.as_fd(),
            helper_report.as_fd(),
        ];
        let (pid, pidfd, ended) = self
            .reaper
            .spawn(|| spawn::start_helper(self.executable.as_fd(), cgroup_dir.as_fd(), fds))
            .context("cannot start the helper that becomes the container")?;
        drop((
            stdin,
            stdio.container_stdout,
            stdio.container_stderr,
            helper_report,
            cgroup_dir,
        ));

        let pumps = stdio.agent.pump();
        let reports = read_reports(report).await?;
        let started_boottime_ns = match started(&reports) {
            Ok(started_boottime_ns) => started_boottime_ns,
            Err(failure) => {
                let status = ended.await.ok();
                pumps.finish().await;
                let out_of_memory = cgroup.oom_killed();
                return Err(failure.unwrap_or_else(|| died_early(status, out_of_memory)));
            }
        };
        log::info!("container {id} runs as PID {pid}");
        let (sender, exit) = watch::channel(None);
        tokio::spawn(watch_container(id, ended, pumps, cgroup, layer, sender));
        Ok(Container {
            pid,
            pidfd,
            started_boottime_ns,
            exit,
        })
    }
}

/// The volumes to mount, those near the root first, so that none hides another.
fn volume_mounts(sandbox: &Sandbox, request: &StartContainerRequest) -> Result<Vec<VolumeMount>, InvalidRequest> {
    let mut mounts = Vec::new();
    for mount in &request.mounts {
        mounts.push(VolumeMount {
            source: sandbox.volume(&mount.volume)?,
            sub_path: mount.sub_path.clone().into(),
            target: mount.mount_path.clone().into(),
            read_only: mount.read_only,
        });
    }
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

fn report_pipe() -> io::Result<(Receiver, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((Receiver::from_owned_fd(read)?, write))
}

async fn read_reports(pipe: Receiver) -> Result<Vec<Report>> {
    let mut text = Vec::new();
    pipe.take(MAX_REPORT_BYTES)
        .read_to_end(&mut text)
        .await
        .context("cannot read the helper's report")?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let reports: Result<Vec<Report>, _> = lines.map(serde_json::from_slice).collect();
    reports.context("cannot parse the helper's report")
}

/// When the command was executed, or why it was not; `None` when the helper said nothing.
fn started(reports: &[Report]) -> Result<u64, Option<StartError>> {
    match reports {
        [Report::Executing { boottime_ns }] => Ok(*boottime_ns),
        [.., Report::Failed { kind, message }] => Err(Some(StartError::Failed {
            kind: *kind,
            message: message.clone(),
        })),
        _ => Err(None),
    }
}

fn died_early(status: Option<ExitStatus>, out_of_memory: bool) -> StartError {
    let message = if out_of_memory {
        "container init was OOM-killed (memory limit too low?)".to_owned()
    } else {
        format!("container init ended before it executed the command: {status:?}")
    };
    StartError::Failed {
        kind: FailureKind::Internal,
        message,
    }
}

async fn watch_container(
    id: String,
    ended: oneshot::Receiver<ExitStatus>,
    pumps: OutputPumps,
    cgroup: Cgroup,
    layer: WritableLayer,
    exit: watch::Sender<Option<ContainerExit>>,
) {
    // The reaper never drops a sender unused; if it did, the waiting calls fail with the sender dropped here.
    let Ok(status) = ended.await else { return };
    let oom_killed = cgroup.oom_killed();
    // With its PID 1 the kernel has killed every process of the container, so the pipes end.
    pumps.finish().await;
    drop(cgroup);
    log::info!(
        "container {id} has ended: {status:?}{}",
        if oom_killed { ", out of memory" } else { "" }
    );
    exit.send_replace(Some(ContainerExit { status, oom_killed }));
    // Many files may be in there, and nothing waits for their removal.
    tokio::task::spawn_blocking(move || drop(layer));
}

/// Kills what runs in all containers.
pub fn kill_all() -> Result<()> {
    match cgroup::kill_all() {
        // No sandbox was created yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(anyhow!(error).context("cannot kill the containers")),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lone_executing_report_means_started() {
        let executing = Report::Executing { boottime_ns: 7 };
        let failed = Report::Failed {
            kind: FailureKind::NotFound,
            message: "exec: \"x\": executable file not found in $PATH".to_owned(),
        };
        assert_eq!(started(std::slice::from_ref(&executing)).unwrap(), 7);
        let error = started(&[executing, failed]).unwrap_err().unwrap();
        assert_eq!(
            error.to_string(),
            "unable to start container process: exec: \"x\": executable file not found in $PATH"
        );
        assert!(started(&[]).unwrap_err().is_none());
    }

    #[test]
    fn a_helper_killed_for_memory_is_told_apart() {
        let message = died_early(Some(ExitStatus::Signal(9)), true).to_string();
        assert!(message.contains("OOM-killed"), "{message}");
        let message = died_early(Some(ExitStatus::Code(126)), false).to_string();
        assert!(message.contains("Code(126)"), "{message}");
    }

    #[tokio::test]
    async fn reports_survive_the_pipe() {
        let (pipe, write) = report_pipe().unwrap();
        let report = Report::Executing { boottime_ns: 1 << 60 };
        let mut line = serde_json::to_vec(&report).unwrap();
        line.push(b'\n');
        io::Write::write_all(&mut File::from(write), &line).unwrap();
        assert_eq!(read_reports(pipe).await.unwrap(), [report]);
    }
}
