//! Starts containers and watches them until their end.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use microkube_protocol::messages::StartContainerRequest;
use tokio::sync::{Notify, oneshot, watch};

use super::capabilities::Capabilities;
use super::cgroup::Cgroup;
use super::instance::{Container, ContainerExit, Stage};
use super::launch::{Launcher, StartError, StartLimit, agent_ends};
use super::oom_kills::{OomKill, OomKills};
use super::spec::{HelperSpec, ProcessSpec, RootSpec, Size, VolumeMount, WantedUser};
use super::terminal::Terminal;
use super::writable_layer::WritableLayer;
use super::{devices, termination_message};
use crate::boot::boottime_ns;
use crate::host::Supervisors;
use crate::log;
use crate::reaper::ExitStatus;
use crate::request_field::InvalidRequest;
use crate::sandbox::Sandbox;
use crate::stdio::{self, ContainerStreams, Pumps};

/// What is needed to start containers.
#[derive(Debug)]
pub struct ContainerStarter {
    /// Starts their processes.
    pub launcher: Launcher,
    /// Tells their streams about new supervisors.
    pub supervisors: Supervisors,
}

impl ContainerStarter {
    /// Starts a container from a request that [`crate::request::start_container`] has accepted. Its command is executed after its `turn` has
    /// come, if it has to wait for one. Who notifies `unwanted` ends it before it runs.
    pub async fn start(
        &self,
        sandbox: &Sandbox,
        request: StartContainerRequest,
        unwanted: Arc<Notify>,
        turn: Option<impl Future<Output = ()>>,
    ) -> Result<Container, StartError> {
        let security = request.security.clone().unwrap_or_default();
        Capabilities::parse(security.capabilities.iter().map(String::as_str))
            .map_err(|name| InvalidRequest::new("security.capabilities", format!("has an unknown name: {name:?}")))?;
        let mounts = volume_mounts(sandbox, &request)?;
        let layers: Result<Vec<_>, _> = request.layer_ids.iter().map(|id| sandbox.layer(id)).collect();
        let layers = layers?;

        // The host answers the connections while the kernel makes the cgroup.
        let (streams, prepared) = tokio::join!(
            async {
                let streams = ContainerStreams::open(&request.id, request.stdin, request.tty, &self.supervisors).await;
                streams.context("cannot connect the container's stdio with the host")
            },
            async {
                let layer = WritableLayer::create(sandbox.container_dir(&request.id))?;
                if !request.termination_message_path.is_empty() {
                    termination_message::create(&layer.termination_message())
                        .context("cannot make the file for the termination message")?;
                }
                let resources = request.resources.clone().unwrap_or_default();
                let cgroup = Cgroup::create(&request.id, &resources)?;
                if !security.privileged {
                    devices::restrict(cgroup.open()?.as_fd()).context("cannot restrict the container's devices")?;
                }
                Ok::<_, anyhow::Error>((layer, cgroup))
            }
        );
        let (streams, (layer, cgroup)) = (streams?, prepared?);
        let message_path = match request.termination_message_path.is_empty() {
            true => None,
            false => Some(PathBuf::from(request.termination_message_path)),
        };
        let spec = HelperSpec {
            root: Some(RootSpec {
                layers,
                upper_dir: layer.join("upper"),
                work_dir: layer.join("work"),
                etc_dir: sandbox.etc_dir(),
                shm_dir: sandbox.shm_dir(),
                mounts,
                termination_message: message_path.map(|path| (layer.termination_message(), path)),
                read_only_rootfs: security.read_only_rootfs,
                privileged: security.privileged,
            }),
            process: ProcessSpec {
                args: request.args,
                env: request.env,
                working_dir: if request.working_dir.is_empty() {
                    "/".into()
                } else {
                    request.working_dir.into()
                },
                user: WantedUser::Named {
                    spec: request.user.spec.clone(),
                    supplemental_gids: request.user.supplemental_gids.clone(),
                    without_image_groups: request.user.without_image_groups,
                },
                capabilities: security.capabilities,
                seccomp_unconfined: security.seccomp_unconfined,
                no_new_privileges: security.no_new_privileges,
                oom_score_adj: request.oom_score_adj,
                stdin: request.stdin,
                terminal: request.tty.then(Size::default),
            },
            waits_for_turn: turn.is_some(),
        };
        let limit = StartLimit {
            unwanted,
            deadline: None,
        };
        let turn = async {
            if let Some(turn) = turn {
                turn.await;
            }
        };
        let prepared = Prepared {
            spec,
            streams,
            cgroup,
            layer,
        };
        self.start_first_process(request.id, prepared, &limit, turn).await
    }

    async fn start_first_process(
        &self,
        id: String,
        prepared: Prepared,
        limit: &StartLimit,
        turn: impl Future<Output = ()>,
    ) -> Result<Container, StartError> {
        let Prepared {
            spec,
            streams,
            cgroup,
            layer,
        } = prepared;
        let stdin = spec.process.stdin;
        let (helper_ends, ends) = if spec.process.terminal.is_some() {
            (stdio::before_terminal().context("cannot open /dev/null")?, None)
        } else {
            let (helper, agent) = stdio::pipes(stdin).context("cannot make pipes")?;
            (helper, Some(agent))
        };
        let launched = self.launcher.launch(&spec, None, &cgroup, helper_ends, limit, turn);
        let mut launched = launched.await?;
        let pumps = match agent_ends(&mut launched, ends, stdin) {
            Ok(ends) => streams.pump(ends),
            Err(error) => {
                launched.kill().await;
                return Err(error.context("cannot use the container's terminal").into());
            }
        };
        log::info!("container {id} runs as PID {}", launched.pid);
        let terminal = Terminal::new(pumps.terminal());
        let cgroup = Arc::new(cgroup);
        let (stage_sender, stage) = watch::channel(Stage::Running);
        let (watcher, watched) = watch::channel(());
        let abandon_output = Arc::new(Notify::new());
        let killed = Arc::new(AtomicBool::new(false));
        let container = Container {
            id: id.clone(),
            pid: launched.pid,
            pidfd: launched.pidfd,
            started_boottime_ns: launched.started_boottime_ns,
            terminal,
            stage,
            watched,
            abandon_output: Arc::clone(&abandon_output),
            cgroup: Arc::downgrade(&cgroup),
            killed: Arc::clone(&killed),
            process: spec.process,
            user: launched.user,
        };
        let reads_message = spec.root.is_some_and(|root| root.termination_message.is_some());
        let resources = Resources {
            pumps,
            cgroup,
            layer,
            reads_message,
            killed,
        };
        tokio::spawn(async move {
            watch_container(id, launched.ended, resources, &abandon_output, stage_sender).await;
            drop(watcher);
        });
        Ok(container)
    }
}

fn volume_mounts(sandbox: &Sandbox, request: &StartContainerRequest) -> Result<Vec<VolumeMount>, InvalidRequest> {
    let mut mounts = Vec::new();
    for mount in &request.mounts {
        mounts.push(VolumeMount {
            volume: mount.volume.clone(),
            source: sandbox.volume(&mount.volume)?,
            sub_path: mount.sub_path.clone().into(),
            target: mount.mount_path.clone().into(),
            read_only: mount.read_only,
        });
    }
    Ok(mounts)
}

/// What a container has before its first process.
#[derive(Debug)]
struct Prepared {
    spec: HelperSpec,
    streams: ContainerStreams,
    cgroup: Cgroup,
    layer: WritableLayer,
}

/// What a container has until its end.
#[derive(Debug)]
struct Resources {
    pumps: Pumps,
    cgroup: Arc<Cgroup>,
    layer: WritableLayer,
    reads_message: bool,
    killed: Arc<AtomicBool>,
}

/// Whether a container ended for want of memory, in which the kernel has killed a process of it.
///
/// PID 1 gets SIGKILL from nobody but the kernel and the host. A shell whose child was killed exits with 137 (128 + SIGKILL) at once: it passes
/// the reason on, and containerd, too, says OOMKilled. Whatever else it exits with, or later, was its own decision.
fn is_out_of_memory(status: ExitStatus, killed_by_host: bool, oom_kill: OomKill) -> bool {
    match (status, oom_kill) {
        (ExitStatus::Signal(9), OomKill::Earlier | OomKill::Lately) => !killed_by_host,
        (ExitStatus::Code(137), OomKill::Lately) => true,
        _ => false,
    }
}

async fn watch_container(
    id: String,
    ended: oneshot::Receiver<ExitStatus>,
    resources: Resources,
    abandon_output: &Notify,
    stage: watch::Sender<Stage>,
) {
    // The reaper never drops a sender unused; if it did, the waiting calls fail with the sender dropped here.
    let oom_kills = OomKills::default();
    let ended = tokio::select! {
        biased;
        ended = ended => ended,
        () = oom_kills.follow(&resources.cgroup) => return,
    };
    let Ok(status) = ended else { return };
    let finished_boottime_ns = boottime_ns();
    let Resources {
        pumps,
        cgroup,
        layer,
        reads_message,
        killed,
    } = resources;
    // The news of its end may be faster than those of the counter.
    oom_kills.note(cgroup.oom_kills());
    let oom_killed = is_out_of_memory(status, killed.load(Ordering::Relaxed), oom_kills.last());
    let message = match reads_message {
        true => termination_message::read(&layer.termination_message()),
        false => Ok(Vec::new()),
    };
    log::info!(
        "container {id} has ended: {status:?}{}",
        if oom_killed { ", out of memory" } else { "" }
    );
    let exit = ContainerExit {
        status,
        oom_killed,
        termination_message: message.unwrap_or_else(|error| {
            log::warning!("cannot read the termination message of {id}: {error}");
            Vec::new()
        }),
        finished_boottime_ns,
    };
    // With its PID 1 the kernel has killed every process of the container.
    stage.send_replace(Stage::Ended);
    drop(cgroup);
    pumps.finish_unless(abandon_output).await;
    stage.send_replace(Stage::Done(Arc::new(exit)));
    // Many files may be in there, and only a removal waits for theirs.
    if let Err(error) = tokio::task::spawn_blocking(move || drop(layer)).await {
        log::warning!("cannot remove the writable layer of {id}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_that_the_want_of_memory_explains_is_out_of_memory() {
        use OomKill::{Earlier, Lately, Never};
        let (killed, passed_on) = (ExitStatus::Signal(9), ExitStatus::Code(137));
        for kill in [Earlier, Lately] {
            assert!(is_out_of_memory(killed, false, kill));
            assert!(!is_out_of_memory(killed, true, kill), "its grace period was over");
        }
        assert!(is_out_of_memory(passed_on, false, Lately), "a shell passes it on");
        assert!(
            !is_out_of_memory(passed_on, false, Earlier),
            "a child was killed hours ago, and now it exits with 137"
        );
        for own in [ExitStatus::Code(0), ExitStatus::Code(143), ExitStatus::Signal(15)] {
            assert!(!is_out_of_memory(own, false, Lately), "{own:?}");
        }
        for any in [killed, passed_on] {
            assert!(!is_out_of_memory(any, false, Never), "{any:?}");
        }
    }
}
