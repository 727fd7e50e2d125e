//! Carries out what the lifecycle decides. What takes time goes on by itself and reports when it is done.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Probe};
use microkube_protocol::messages::{RemoveContainerRequest, SignalContainerRequest};
use ttrpc::context::with_duration;

use super::CALL_TIMEOUT;
use super::container::{ContainerRun, container_id};
use super::machine::PendingResources;
use super::pod_run::{Message, PodRun};
use crate::image::ImageStore;
use crate::pod::guest_process::{GuestProcesses, RunError};
use crate::pod::lifecycle::{Action, Event, Hook, ProbeKind, ProbeOutcome};
use crate::pod::logs::{self, Limits, LogWriter};
use crate::pod::output::ContainerStreams;
use crate::pod::prepare;
use crate::pod::probe::{self, Exec, ExecError, ExecOutput, Outcome, Target};
use crate::pod::sandbox::AgentClientHandle;
use crate::pod::stdin::ContainerStdin;

impl PodRun {
    /// Carries out an action.
    pub(super) async fn carry_out(&mut self, action: Action) -> anyhow::Result<()> {
        match action {
            Action::PullImage { container } => self.pull_image(container).await?,
            Action::StartSandbox => self.start_machine(),
            Action::StartContainer { container, attempt } => self.start_container(container, attempt),
            Action::RunHook {
                container,
                attempt,
                hook,
                timeout,
            } => self.run_hook(container, attempt, hook, timeout),
            Action::CancelHook {
                container,
                attempt,
                hook,
            } => {
                if let Some(running) = self.hooks.remove(&(container, attempt, hook)) {
                    running.abort();
                }
            }
            Action::RunProbe {
                container,
                attempt,
                probe,
            } => self.run_probe(container, attempt, probe),
            Action::StopContainer { container, attempt } => {
                let signal = self.plan.get(container).and_then(|planned| planned.as_ref().ok());
                self.signal(container, attempt, signal.map_or(15, |planned| planned.stop_signal));
            }
            Action::KillContainer { container, attempt } => {
                self.signal(container, attempt, libc::SIGKILL.unsigned_abs());
            }
            Action::StopSandbox => {
                self.stop_machine(true).await;
                let _ = self.inbox.send(Message::Event(Event::SandboxLost {
                    message: "the Pod's virtual machine was turned off".to_owned(),
                }));
            }
            Action::Emit(event) => {
                let field_path = event.container.map(|container| self.field_path(container));
                self.keeper.add(&event, field_path);
            }
        }
        Ok(())
    }

    fn container(&self, container: usize) -> Option<&Container> {
        prepare::containers(&self.record.pod).nth(container)
    }

    /// Name of a container.
    pub(super) fn container_name(&self, container: usize) -> String {
        self.container(container)
            .map(|container| container.name.clone())
            .unwrap_or_default()
    }

    /// Where a container is in the Pod, as events have it.
    fn field_path(&self, container: usize) -> String {
        let init = self.record.pod.spec.iter().flat_map(|spec| &spec.init_containers);
        let list = if container < init.map(Vec::len).sum() {
            "initContainers"
        } else {
            "containers"
        };
        format!("spec.{list}{{{}}}", self.container_name(container))
    }

    async fn pull_image(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(container) = self.container(index).cloned() else {
            return Ok(());
        };
        self.image_start.get_or_insert_with(Instant::now);
        // At the same time, because the first machine cannot start without.
        if self.resources.is_none() && self.machine.is_none() && self.starting.is_none() {
            self.resources = Some(PendingResources::begin(&self.paths, &self.record));
        }
        let hold = match &self.hold {
            Some(_) => None,
            // From here until the layers are open, nobody removes them.
            None => {
                let images = self.paths.images();
                Some(tokio::task::spawn_blocking(move || ImageStore::open(images)?.hold()).await?)
            }
        };
        let hold_failure = match hold {
            Some(Ok(hold)) => {
                self.hold = Some(hold);
                None
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        let (paths, secrets) = (self.paths.clone(), self.record.pull_secrets.clone());
        let (client, inbox) = (self.client.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let result = match hold_failure {
                Some(error) => Err(error),
                None => {
                    if prepare::must_be_pulled(&paths, &container) {
                        let _ = inbox.send(Message::Event(Event::ImagePullStarted { container: index }));
                    }
                    prepare::image(&paths, &container, &secrets, client).await
                }
            };
            let message = match result {
                Ok(image) => Message::Image {
                    container: index,
                    image: Box::new(image),
                },
                Err(error) => Message::Event(Event::ImageFailed {
                    container: index,
                    reason: error.reason().to_owned(),
                    message: format!("{:#}", anyhow::Error::from(error)),
                }),
            };
            let _ = inbox.send(message);
        });
        Ok(())
    }

    fn start_container(&mut self, container: usize, attempt: u32) {
        let Some(machine) = &mut self.machine else { return };
        let agent = machine.sandbox.agent.clone();
        let planned = match self.plan.get(container) {
            Some(Ok(planned)) => planned,
            Some(Err(failure)) => {
                let event = Event::ContainerStartFailed {
                    container,
                    attempt,
                    reason: failure.reason.clone(),
                    message: failure.message.clone(),
                };
                let _ = self.inbox.send(Message::Event(event));
                return;
            }
            None => return,
        };
        let name = planned.name.clone();
        let mut request = planned.request.clone();
        request.id = container_id(&name, attempt);
        request.start_after = machine.last_start.replace(request.id.clone()).unwrap_or_default();
        if let Some(earlier) = attempt.checked_sub(1) {
            self.remove_from_guest(&agent, container_id(&name, earlier));
        }
        let Some(streams) = self.expect_container(container, attempt) else {
            return;
        };
        let run = self.container_run(container, attempt, streams, agent);
        tokio::spawn(run.start(request));
    }

    /// Announces the streams of an attempt, with its log.
    pub(super) fn expect_container(&self, container: usize, attempt: u32) -> Option<Arc<ContainerStreams>> {
        let spec = self.container(container)?;
        let directory = logs::container_dir(&self.paths, &self.record.uid, &spec.name);
        let log = LogWriter::open(directory, attempt, Limits::default());
        let id = container_id(&spec.name, attempt);
        let index = u16::try_from(container).unwrap_or(u16::MAX);
        let taken_file = self
            .paths
            .pod_run(&self.record.uid)
            .join(format!("stdin-{}", spec.name));
        let stdin = ContainerStdin::new(spec, &id, taken_file);
        Some(self.output.expect_container(index, &id, stdin, log))
    }

    /// What follows an attempt.
    pub(super) fn container_run(
        &self,
        container: usize,
        attempt: u32,
        streams: Arc<ContainerStreams>,
        agent: AgentClientHandle,
    ) -> ContainerRun {
        let spec = self.container(container);
        let name = self.container_name(container);
        let falls_back =
            spec.and_then(|spec| spec.termination_message_policy.as_deref()) == Some("FallbackToLogsOnError");
        ContainerRun {
            container,
            attempt,
            id: container_id(&name, attempt),
            streams,
            output: Arc::clone(&self.output),
            agent,
            inbox: self.inbox.clone(),
            fallback_log: falls_back.then(|| logs::container_dir(&self.paths, &self.record.uid, &name)),
        }
    }

    fn remove_from_guest(&self, agent: &AgentClientHandle, id: String) {
        let (agent, request) = (
            agent.clone(),
            RemoveContainerRequest {
                id,
                ..Default::default()
            },
        );
        let output = Arc::clone(&self.output);
        tokio::spawn(async move {
            if let Err(error) = agent.remove_container(with_duration(CALL_TIMEOUT), &request).await {
                output.complain(format_args!(
                    "container {} cannot be removed from the guest: {error}",
                    request.id
                ));
            }
        });
    }

    fn signal(&self, container: usize, attempt: u32, signal: u32) {
        let Some(machine) = &self.machine else { return };
        let agent = machine.sandbox.agent.clone();
        let request = SignalContainerRequest {
            id: container_id(&self.container_name(container), attempt),
            signal,
            ..Default::default()
        };
        let output = Arc::clone(&self.output);
        tokio::spawn(async move {
            if let Err(error) = agent.signal_container(with_duration(CALL_TIMEOUT), &request).await {
                output.complain(format_args!(
                    "container {} could not be sent signal {}: {error}",
                    request.id, request.signal
                ));
            }
        });
    }

    fn guest_exec(&self, container: usize, attempt: u32) -> Option<GuestExec> {
        Some(GuestExec {
            processes: self.machine.as_ref()?.processes.clone(),
            container_id: container_id(&self.container_name(container), attempt),
        })
    }

    fn run_hook(&mut self, container: usize, attempt: u32, hook: Hook, timeout: Option<Duration>) {
        let (Some(spec), Some(exec), Some(pod_ip)) = (
            self.container(container).cloned(),
            self.guest_exec(container, attempt),
            self.pod_ip(),
        ) else {
            return;
        };
        let handler = spec.lifecycle.as_ref().and_then(|lifecycle| match hook {
            Hook::PostStart => lifecycle.post_start.clone(),
            Hook::PreStop => lifecycle.pre_stop.clone(),
        });
        let Some(handler) = handler else { return };
        let (pod, inbox) = (self.record.pod.clone(), self.inbox.clone());
        let task = tokio::spawn(async move {
            let target = Target {
                pod: &pod,
                container: &spec,
                pod_ip,
            };
            let event = Event::HookEnded {
                container,
                attempt,
                hook,
                result: probe::run_hook(&handler, &target, timeout, &exec).await,
            };
            let _ = inbox.send(Message::Event(event));
        });
        self.hooks.insert((container, attempt, hook), task.abort_handle());
    }

    fn run_probe(&self, container: usize, attempt: u32, kind: ProbeKind) {
        let (Some(spec), Some(exec), Some(pod_ip)) = (
            self.container(container).cloned(),
            self.guest_exec(container, attempt),
            self.pod_ip(),
        ) else {
            return;
        };
        let probe: Option<Probe> = match kind {
            ProbeKind::Liveness => spec.liveness_probe.clone(),
            ProbeKind::Readiness => spec.readiness_probe.clone(),
            ProbeKind::Startup => spec.startup_probe.clone(),
        };
        let Some(probe) = probe else { return };
        let (pod, inbox) = (self.record.pod.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let target = Target {
                pod: &pod,
                container: &spec,
                pod_ip,
            };
            let outcome = match probe::probe(&probe, &target, &exec).await {
                Outcome::Success => ProbeOutcome::Success,
                Outcome::Warning(message) => ProbeOutcome::Warning(message),
                Outcome::Failure(message) => ProbeOutcome::Failure(message),
                Outcome::Unknown(message) => ProbeOutcome::Unknown(message),
            };
            let event = Event::ProbeEnded {
                container,
                attempt,
                probe: kind,
                outcome,
            };
            let _ = inbox.send(Message::Event(event));
        });
    }

    fn pod_ip(&self) -> Option<IpAddr> {
        self.machine.as_ref()?.pod_ip.parse().ok()
    }
}

/// Runs commands of probes and hooks in one container.
#[derive(Debug)]
struct GuestExec {
    processes: GuestProcesses,
    container_id: String,
}

impl Exec for GuestExec {
    async fn run(&self, command: &[String], timeout: Option<Duration>) -> Result<ExecOutput, ExecError> {
        let run = self
            .processes
            .run(&self.container_id, command, timeout, probe::OUTPUT_MAX_BYTES);
        match run.await {
            Ok((exit_code, output)) => Ok(ExecOutput {
                exit_code: exit_code.into(),
                output,
            }),
            Err(RunError::TimedOut) => Err(ExecError::TimedOut),
            Err(RunError::Failed(message)) => Err(ExecError::Failed(message)),
        }
    }
}
