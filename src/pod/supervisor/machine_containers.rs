//! The containers of the running VM: prepares them, requests their starts, and sends them signals.

use std::sync::Arc;

use microkube_image::StoreLock;
use microkube_manifest::security::{self, Seccomp};
use microkube_projection::SkippedKeys;
use microkube_protocol::messages::{RemoveContainerRequest, SignalContainerRequest, StartContainerRequest};
use ttrpc::context::with_duration;

use super::container::ContainerRun;
use super::container_config::{process_values, skipped_keys};
use super::container_plans::{AddedContainer, ContainerPlans};
use super::images::FoundImage;
use super::message::Message;
use super::pod_view::PodView;
use super::running_machine::Additions;
use super::supervised_pod::SupervisedPod;
use crate::pod::agent::CALL_TIMEOUT;
use crate::pod::container_order;
use crate::pod::container_spec::PlannedContainer;
use crate::pod::container_streams::{KILLED_LAG_BYTES, STOPPED_LAG_BYTES};
use crate::pod::lifecycle::{ContainerAttempt, Event};
use crate::pod::sandbox::AgentClientHandle;
use crate::pod::seccomp_profile;
use crate::pod::security_policy::SecurityPolicy;

/// The stop signal of a container without a plan.
const DEFAULT_STOP_SIGNAL: u32 = libc::SIGTERM.unsigned_abs();

/// The containers of a Pod's VM, if one runs.
#[derive(Debug)]
pub struct MachineContainers {
    pod: Arc<SupervisedPod>,
    view: PodView,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    additions: Additions,
    plans: ContainerPlans,
    /// The container whose start was requested last. The next one starts after it.
    last_start: Option<String>,
}

impl Running {
    fn agent(&self) -> AgentClientHandle {
        self.additions.sandbox.agent.clone()
    }
}

impl MachineContainers {
    pub fn new(pod: Arc<SupervisedPod>, view: PodView) -> Self {
        Self {
            pod,
            view,
            running: None,
        }
    }

    /// Sets the running VM and how to start containers in it.
    pub fn attach(&mut self, additions: Additions, plans: ContainerPlans) {
        self.running = Some(Running {
            additions,
            plans,
            last_start: None,
        });
    }

    /// Clears the VM that has ended.
    pub async fn detach(&mut self) {
        if let Some(running) = self.running.take() {
            running.additions.close().await;
        }
    }

    /// Whether the VM can start a container with the image that the Pod has for it now, which has this id.
    pub fn is_prepared(&self, container: usize, image_id: &str) -> bool {
        let Some(running) = &self.running else { return false };
        if self.pod.is_ephemeral(container) {
            // The image of an ephemeral container does not change.
            return running.plans.get(container).is_some();
        }
        let wanted = self.pod.container(container).and_then(|container| container.image);
        running
            .plans
            .has_image(container, &wanted.unwrap_or_default(), image_id)
    }

    /// Adds the image of a container, which has this id, to the VM, and plans the container; the result arrives as a
    /// message. `image` is the image that was found, and `hold` protects it.
    pub fn prepare(
        &self,
        attempt: ContainerAttempt,
        image_id: String,
        image: Option<FoundImage>,
        hold: Option<StoreLock>,
    ) {
        let Some(running) = &self.running else { return };
        let (additions, pod) = (running.additions.clone(), Arc::clone(&self.pod));
        let used = running.plans.layer_ids();
        tokio::spawn(async move {
            let prepared = additions.prepare(&pod, attempt.container, image_id, image, used, hold);
            pod.send(match prepared.await {
                Ok(added) => Message::ContainerPrepared {
                    attempt,
                    added: Box::new(added),
                },
                Err(failure) => Message::Event(failure.into_event(attempt)),
            });
        });
    }

    /// Handles a container that was prepared for this VM.
    pub fn prepared(&mut self, container: usize, added: AddedContainer) {
        if let Some(running) = &mut self.running {
            running.plans.add(container, added);
        }
    }

    /// Starts an attempt of a container; its progress arrives as events.
    pub async fn start(&mut self, attempt: ContainerAttempt) {
        let Some(planned) = self.planned(attempt) else { return };
        match self.complete(attempt, planned).await {
            Ok((request, skipped)) => {
                for keys in &skipped {
                    self.pod.send(Message::Emit(skipped_keys(keys)));
                }
                if let Some((run, request)) = self.expect(attempt, request) {
                    tokio::spawn(run.start(request));
                }
            }
            Err(failure) => self.pod.report(failure),
        }
    }

    /// Requests again a start that the previous supervisor requested: the guest answers when that start is done.
    pub async fn follow_start(&mut self, attempt: ContainerAttempt) {
        let Some(planned) = self.planned(attempt) else { return };
        // Objects and profiles may have been deleted meanwhile. The request then has no layers: the guest repeats its
        // answer to an earlier start, but refuses a new one.
        let (request, failure) = match self.complete(attempt, planned).await {
            // The previous supervisor has reported the keys.
            Ok((request, _skipped)) => (request, None),
            Err(failure) => (StartContainerRequest::default(), Some(failure)),
        };
        if let Some((run, request)) = self.expect(attempt, request) {
            tokio::spawn(run.join_start(request, failure));
        }
    }

    /// Returns how to start the container of an attempt. Reports a failure if it cannot be created.
    fn planned(&self, attempt: ContainerAttempt) -> Option<PlannedContainer> {
        match self.running.as_ref()?.plans.get(attempt.container)? {
            Ok(planned) => Some(planned.clone()),
            Err(failure) => {
                self.pod.report(Event::ContainerStartFailed {
                    attempt,
                    reason: failure.reason.clone(),
                    message: failure.message.clone(),
                });
                None
            }
        }
    }

    /// The request for one attempt of a container, with everything that may differ from the last one: its command line
    /// and environment, its seccomp profile, and the container whose processes it is to see. Also returns the keys of
    /// objects that are not valid names of variables.
    ///
    /// # Errors
    /// The event with the reason why the container cannot be started.
    async fn complete(
        &self,
        attempt: ContainerAttempt,
        planned: PlannedContainer,
    ) -> Result<(StartContainerRequest, Vec<SkippedKeys>), Event> {
        let PlannedContainer { mut request, image, .. } = planned;
        let mut skipped = Vec::new();
        if let (Some(image), Some(running)) = (image, &self.running) {
            let Additions { pod_ip, host_ip, .. } = &running.additions;
            let addresses = (pod_ip.parse().ok(), host_ip.parse().ok());
            let values = process_values(&self.pod, attempt.container, image, running.agent(), addresses).await;
            let values = values.map_err(|failure| failure.into_event(attempt))?;
            skipped = values.skipped;
            request.args = values.args;
            request.env = values.env;
            // The mounts are those of the manifest, in the same order.
            for (mount, sub_path) in request.mounts.iter_mut().zip(values.sub_paths) {
                if let Some(sub_path) = sub_path {
                    mount.sub_path = sub_path;
                }
            }
        }
        let failed = |reason: &str, message: String| Event::ContainerStartFailed {
            attempt,
            reason: reason.to_owned(),
            message,
        };
        request.pid_namespace_of = self
            .target_of(attempt.container)
            .map_err(|message| failed("CreateContainerConfigError", message))?;
        let program = seccomp_program(&self.pod, attempt.container).await;
        let program = program.map_err(|error| failed("CreateContainerError", format!("{error:#}")))?;
        if let Some(program) = program {
            request.security.mut_or_insert_default().seccomp_programs = vec![program];
        }
        Ok((request, skipped))
    }

    /// The id of the running container whose processes an ephemeral container is to see.
    fn target_of(&self, container: usize) -> Result<String, String> {
        let current = self.pod.current();
        let ephemeral = container_order::ephemeral_container(&current, container);
        match ephemeral.and_then(|ephemeral| ephemeral.target_container_name.as_deref()) {
            None | Some("") => Ok(String::new()),
            Some(target) => match self.view.container(target) {
                Ok((id, _)) => Ok(id),
                Err(_) => Err(format!("unable to find target container {target:?}")),
            },
        }
    }

    /// Expects the attempt in the guest, and completes the request with the fields that depend on other starts.
    fn expect(
        &mut self,
        attempt: ContainerAttempt,
        mut request: StartContainerRequest,
    ) -> Option<(ContainerRun, StartContainerRequest)> {
        let running = self.running.as_mut()?;
        let agent = running.agent();
        request.id = self.pod.container_id(attempt);
        request.start_after = running.last_start.replace(request.id.clone()).unwrap_or_default();
        if let Some(number) = attempt.number.checked_sub(1) {
            let earlier = ContainerAttempt::new(attempt.container, number);
            remove_from_guest(&self.pod, &agent, self.pod.container_id(earlier));
        }
        let run = ContainerRun::expect(&self.pod, agent, attempt)?;
        Some((run, request))
    }

    /// Sends the stop signal to an attempt of a container.
    pub fn stop(&self, attempt: ContainerAttempt) {
        let plans = self.running.as_ref().map(|running| &running.plans);
        let planned = plans.and_then(|plans| plans.get(attempt.container)?.ok());
        let signal = planned.map_or(DEFAULT_STOP_SIGNAL, |planned| planned.stop_signal);
        self.signal(attempt, signal, STOPPED_LAG_BYTES);
    }

    /// Sends SIGKILL to an attempt of a container.
    pub fn kill(&self, attempt: ContainerAttempt) {
        self.signal(attempt, libc::SIGKILL.unsigned_abs(), KILLED_LAG_BYTES);
    }

    fn signal(&self, attempt: ContainerAttempt, signal: u32, lag_bytes: usize) {
        let Some(running) = &self.running else { return };
        // A client that does not read must not delay the end, which the guest reports only after all output was
        // received.
        if let Some(streams) = self.pod.guest_streams.container(&self.pod.container_id(attempt)) {
            streams.let_followers_lag(lag_bytes);
        }
        let agent = running.agent();
        let request = SignalContainerRequest {
            id: self.pod.container_id(attempt),
            signal,
            ..Default::default()
        };
        let pod = Arc::clone(&self.pod);
        tokio::spawn(async move {
            if let Err(error) = agent.signal_container(with_duration(CALL_TIMEOUT), &request).await {
                pod.guest_streams.complain(format_args!(
                    "cannot send container {} signal {}: {error}",
                    request.id, request.signal
                ));
            }
        });
    }
}

/// The program of the container's seccomp profile of type Localhost, if it has one. The file may have changed since the
/// last attempt.
async fn seccomp_program(pod: &SupervisedPod, container: usize) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(container) = pod.container(container) else {
        return Ok(None);
    };
    let confinement = security::confinement(&pod.record.pod, &container);
    let Seccomp::Localhost(name) = confinement.seccomp else {
        return Ok(None);
    };
    let directory = SecurityPolicy::of_environment()?.seccomp_profiles;
    let capabilities = confinement.capabilities;
    let compiled = tokio::task::spawn_blocking(move || seccomp_profile::program(&directory, &name, &capabilities));
    Ok(Some(compiled.await??))
}

fn remove_from_guest(pod: &Arc<SupervisedPod>, agent: &AgentClientHandle, id: String) {
    let (agent, pod) = (agent.clone(), Arc::clone(pod));
    let request = RemoveContainerRequest {
        id,
        ..Default::default()
    };
    tokio::spawn(async move {
        if let Err(error) = agent.remove_container(with_duration(CALL_TIMEOUT), &request).await {
            pod.guest_streams.complain(format_args!(
                "cannot remove container {} from the guest: {error}",
                request.id
            ));
        }
    });
}
