//! Starts containers and watches them until their end.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use microkube_protocol::messages::{Mount, MountPropagation, Security, StartContainerRequest};
use nix::unistd::Pid;
use tokio::sync::{Notify, oneshot, watch};

use super::capabilities::Capabilities;
use super::cgroup::Cgroup;
use super::instance::{Container, ContainerExit, Stage};
use super::launch::{Joined, Launcher, StartError, StartLimit, agent_ends, container_is_gone};
use super::oom_kills::{OomKill, OomKills};
use super::spec::{HelperSpec, ProcessSpec, Propagation, RootSpec, SeccompSpec, Size, VolumeMount, WantedUser};
use super::terminal::Terminal;
use super::writable_layer::WritableLayer;
use super::{devices, termination_message};
use crate::boot::boottime_ns;
use crate::host::Supervisors;
use crate::log;
use crate::reaper::ExitStatus;
use crate::request_field::InvalidRequest;
use crate::sandbox::{MountSource, Sandbox};
use crate::stdio::{self, ContainerStreams, Pumps};
use crate::user_namespace;

/// The means to start containers.
#[derive(Debug)]
pub struct ContainerStarter {
    /// Starts their processes.
    pub launcher: Launcher,
    /// Notifies their streams of new supervisors.
    pub supervisors: Supervisors,
}

impl ContainerStarter {
    /// Starts a container from a request that [`crate::request::start_container`] has accepted, in the PID namespace of
    /// the `target` if there is one. If it has to wait for a `turn`, its command is executed after that. Notifying
    /// `unwanted` ends it before it runs.
    pub async fn start(
        &self,
        sandbox: &Sandbox,
        request: StartContainerRequest,
        target: Option<Arc<Container>>,
        unwanted: Arc<Notify>,
        turn: Option<impl Future<Output = ()>>,
    ) -> Result<Container, StartError> {
        let security = request.security.clone().unwrap_or_default();
        Capabilities::parse(security.capabilities.iter().map(String::as_str))
            .map_err(|name| InvalidRequest::new("security.capabilities", format!("has an unknown name: {name:?}")))?;
        let mounts = volume_mounts(sandbox, &request)?;
        let layers: Result<Vec<_>, _> = request.layer_ids.iter().map(|id| sandbox.layer(id)).collect();
        let layers = layers?;

        // The host answers the connections while the kernel creates the cgroup.
        let (streams, prepared) = tokio::join!(
            async {
                let streams = ContainerStreams::open(&request.id, request.stdin, request.tty, &self.supervisors).await;
                streams.context("cannot connect the container's stdio to the host")
            },
            async {
                let layer = WritableLayer::create(sandbox.container_dir(&request.id), sandbox.disk_usage())?;
                if !request.termination_message_path.is_empty() {
                    termination_message::create(&layer.termination_message())
                        .context("cannot create the file for the termination message")?;
                }
                let resources = request.resources.clone().unwrap_or_default();
                let cgroup = Cgroup::create(&request.id, &resources)?;
                if security.privileged && sandbox.user_namespace().is_some() {
                    // As in runc: such a container may manage its own cgroups.
                    cgroup.give_to(user_namespace::FIRST_ID)?;
                }
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
                unmasked_proc: security.unmasked_proc,
                joins_pid_namespace: target.is_some() || sandbox.pause().is_some(),
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
                seccomp: seccomp(&security),
                capabilities: security.capabilities,
                no_new_privileges: security.no_new_privileges,
                oom_score_adj: request.oom_score_adj,
                stdin: request.stdin,
                terminal: request.tty.then(Size::default),
            },
            // A process in a user namespace is not the agent's helper itself, and must not run before the agent knows it.
            waits_for_turn: turn.is_some() || sandbox.user_namespace().is_some(),
            in_user_namespace: sandbox.user_namespace().is_some(),
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
            target,
            pause: sandbox.pause(),
            user_namespace: sandbox.user_namespace(),
        };
        self.start_first_process(request.id, prepared, &limit, turn).await
    }

    async fn start_first_process(
        &self,
        id: String,
        prepared: Prepared<'_>,
        limit: &StartLimit,
        turn: impl Future<Output = ()>,
    ) -> Result<Container, StartError> {
        let Prepared {
            spec,
            streams,
            cgroup,
            layer,
            target,
            pause,
            user_namespace,
        } = prepared;
        let stdin = spec.process.stdin;
        let (helper_ends, ends) = if spec.process.terminal.is_some() {
            (stdio::before_terminal().context("cannot open /dev/null")?, None)
        } else {
            let (helper, agent) = stdio::pipes(stdin).context("cannot create pipes")?;
            (helper, Some(agent))
        };
        let process = match &target {
            Some(target) => Some((target.pid, target.pidfd.as_fd())),
            None => pause,
        };
        let joined = Joined {
            process,
            user_namespace,
        };
        let launched = self.launcher.launch(&spec, joined, &cgroup, helper_ends, limit, turn);
        let mut launched = match (launched.await, &target) {
            (Err(error), Some(target)) if container_is_gone(&error) || target.has_ended() => {
                log::info!("cannot start container {id}: {error}");
                return Err(StartError::NotRunning(target.id.clone()));
            }
            (launched, _) => launched?,
        };
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
            in_user_namespace: spec.in_user_namespace,
            project: layer.project(),
        };
        let reads_message = spec.root.is_some_and(|root| root.termination_message.is_some());
        let resources = Resources {
            pumps,
            cgroup,
            layer,
            reads_message,
            killed,
            has_own_pid_namespace: joined.process.is_none(),
        };
        tokio::spawn(async move {
            watch_container(id, launched.ended, resources, &abandon_output, stage_sender).await;
            drop(watcher);
        });
        Ok(container)
    }
}

fn seccomp(security: &Security) -> SeccompSpec {
    if !security.seccomp_programs.is_empty() {
        let programs = security.seccomp_programs.iter();
        return SeccompSpec::Programs(programs.map(|program| instructions(program)).collect());
    }
    match security.seccomp_unconfined {
        true => SeccompSpec::Unconfined,
        false => SeccompSpec::Default,
    }
}

/// The instructions of a program whose length has been checked.
fn instructions(program: &[u8]) -> Vec<u64> {
    let (instructions, _) = program.as_chunks();
    instructions.iter().copied().map(u64::from_le_bytes).collect()
}

fn volume_mounts(sandbox: &Sandbox, request: &StartContainerRequest) -> Result<Vec<VolumeMount>, StartError> {
    let mut mounts = Vec::new();
    for mount in &request.mounts {
        let MountSource {
            path,
            read_only,
            is_image,
        } = sandbox.mount_source(&mount.volume)?;
        let propagation = propagation(mount)?;
        if propagation != Propagation::Private {
            sandbox.share_mounts(&mount.volume)?;
        }
        mounts.push(VolumeMount {
            volume: mount.volume.clone(),
            source: path,
            sub_path: mount.sub_path.clone().into(),
            target: mount.mount_path.clone().into(),
            read_only: read_only || mount.read_only,
            recursive_read_only: mount.recursive_read_only,
            propagation,
            is_image,
        });
    }
    Ok(mounts)
}

fn propagation(mount: &Mount) -> Result<Propagation, InvalidRequest> {
    match mount.propagation.enum_value() {
        Ok(MountPropagation::MOUNT_PROPAGATION_NONE) => Ok(Propagation::Private),
        Ok(MountPropagation::MOUNT_PROPAGATION_HOST_TO_CONTAINER) => Ok(Propagation::Slave),
        Ok(MountPropagation::MOUNT_PROPAGATION_BIDIRECTIONAL) => Ok(Propagation::Shared),
        Err(number) => Err(InvalidRequest::new(
            "mounts.propagation",
            format!("is unknown: {number}"),
        )),
    }
}

/// The parts of a container that exist before its first process.
#[derive(Debug)]
struct Prepared<'p> {
    spec: HelperSpec,
    streams: ContainerStreams,
    cgroup: Cgroup,
    layer: WritableLayer,
    /// The container whose PID namespace it joins.
    target: Option<Arc<Container>>,
    /// Without a target, the process whose PID namespace it joins.
    pause: Option<(Pid, BorrowedFd<'p>)>,
    /// The Pod's user namespace.
    user_namespace: Option<BorrowedFd<'p>>,
}

/// The parts of a container that exist until its end.
#[derive(Debug)]
struct Resources {
    pumps: Pumps,
    cgroup: Arc<Cgroup>,
    layer: WritableLayer,
    reads_message: bool,
    killed: Arc<AtomicBool>,
    has_own_pid_namespace: bool,
}

/// Whether a container ended because memory ran out, given that the kernel has killed a process in it.
///
/// Only the kernel and the host send SIGKILL to PID 1. A shell whose child was killed exits with 137 (128 + SIGKILL) at
/// once and so passes the reason on; containerd reports OOMKilled in that case, too. With any other exit code, or at a
/// later end, the process ended on its own.
fn is_out_of_memory(status: ExitStatus, killed_by_host: bool, oom_kill: OomKill) -> bool {
    match (status, oom_kill) {
        (ExitStatus::Signal(9), OomKill::Earlier | OomKill::Recent) => !killed_by_host,
        (ExitStatus::Code(137), OomKill::Recent) => true,
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
    // The reaper never drops a sender unused. If it did, dropping our sender here makes waiting calls fail.
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
        has_own_pid_namespace,
    } = resources;
    // The notification of its end may arrive before that of the counter.
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
    // When PID 1 of a PID namespace ends, the kernel kills every process in it.
    if !has_own_pid_namespace && let Err(error) = cgroup.kill().await {
        log::warning!("cannot kill the other processes of {id}: {error}");
    }
    stage.send_replace(Stage::Ended);
    drop(cgroup);
    pumps.finish_unless(abandon_output).await;
    stage.send_replace(Stage::Done(Arc::new(exit)));
    // The layer may contain many files. Only the container's removal waits until they are deleted.
    if let Err(error) = tokio::task::spawn_blocking(move || drop(layer)).await {
        log::warning!("cannot remove the writable layer of {id}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exits_explained_by_an_oom_kill_are_out_of_memory() {
        use OomKill::{Earlier, Never, Recent};
        let (killed, passed_on) = (ExitStatus::Signal(9), ExitStatus::Code(137));
        for kill in [Earlier, Recent] {
            assert!(is_out_of_memory(killed, false, kill));
            assert!(!is_out_of_memory(killed, true, kill), "its grace period was over");
        }
        assert!(is_out_of_memory(passed_on, false, Recent), "a shell passes it on");
        assert!(
            !is_out_of_memory(passed_on, false, Earlier),
            "a child was killed hours ago, and now it exits with 137"
        );
        for own in [ExitStatus::Code(0), ExitStatus::Code(143), ExitStatus::Signal(15)] {
            assert!(!is_out_of_memory(own, false, Recent), "{own:?}");
        }
        for any in [killed, passed_on] {
            assert!(!is_out_of_memory(any, false, Never), "{any:?}");
        }
    }
}
