//! The Pod's VM: starts it, takes it over, loses it, powers it off; and sends requests to its containers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use microkube_image::{Image, StoreLock};
use microkube_manifest::security::{self, Seccomp};
use microkube_protocol::messages::{
    CreateSandboxRequest, CreateSandboxResponse, RemoveContainerRequest, SignalContainerRequest, StartContainerRequest,
};
use microkube_vmm::config::{PROTOCOL_VERSION, VmmEvent};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};
use ttrpc::context::with_duration;

use super::container::ContainerRun;
use super::container_config::{ConfigFailure, process_values, skipped_keys};
use super::images::HeldImages;
use super::message::Message;
use super::pod_view::PodView;
use super::running_machine::{Additions, Guest, RunningMachine, StartedMachine};
use super::supervised_pod::SupervisedPod;
use super::volumes::{self, VolumeUpdates};
use crate::pod::agent::CALL_TIMEOUT;
use crate::pod::boot_plan::{self, BootPlan};
use crate::pod::boot_slot::BootSlot;
use crate::pod::container_images;
use crate::pod::container_order;
use crate::pod::container_spec::{PlanFailure, PlannedContainer};
use crate::pod::container_streams::{KILLED_LAG_BYTES, STOPPED_LAG_BYTES};
use crate::pod::guest_process::GuestProcesses;
use crate::pod::host_resources::{self, HostResources};
use crate::pod::lifecycle::{ContainerAttempt, Event};
use crate::pod::machine_plan::MachinePlan;
use crate::pod::patience::KILL_PATIENCE;
use crate::pod::projected_volumes::{VolumeFiles, memory_mib};
use crate::pod::sandbox::{self, AgentClientHandle, describe_loss, vmm_end};
use crate::pod::seccomp_profile;
use crate::pod::security_policy::SecurityPolicy;
use crate::pod::timings::Stage;
use crate::pod::virtual_machine::VirtualMachine;
use crate::pod::written_volumes::WrittenVolumes;
use crate::state::ProcessIdentity;

/// The stop signal of a container without a plan.
const DEFAULT_STOP_SIGNAL: u32 = libc::SIGTERM.unsigned_abs();

/// How a VM is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineEnd {
    Kill,
    PowerOff,
    /// Like a power-off, but another VM uses the same scratch disk next.
    Replace,
}

/// The VM of a Pod. There is at most one at a time.
#[derive(Debug)]
pub struct Machine {
    pod: Arc<SupervisedPod>,
    view: PodView,
    resources: Option<PendingResources>,
    starting: Option<AbortHandle>,
    /// The VMM's process, from its start, even while the VM is still booting.
    vmm: Option<ProcessIdentity>,
    running: Option<RunningMachine>,
    /// By container number: how to start it, or why it cannot be created.
    plan: Vec<Result<PlannedContainer, PlanFailure>>,
    /// The same for containers that were added to this VM.
    added: BTreeMap<usize, PlannedContainer>,
    /// Images of ephemeral containers, until they are added to the running VM.
    added_images: BTreeMap<usize, Image>,
    /// Keeps the volumes of the running VM up to date.
    updates: Option<VolumeUpdates>,
}

impl Machine {
    /// Starts without a VM. The view is updated whenever one starts or ends.
    pub fn new(pod: Arc<SupervisedPod>, view: PodView) -> Self {
        Self {
            pod,
            view,
            resources: None,
            starting: None,
            vmm: None,
            running: None,
            plan: Vec::new(),
            added: BTreeMap::new(),
            added_images: BTreeMap::new(),
            updates: None,
        }
    }

    /// Starts to acquire the host resources of the first VM, while images are being pulled.
    pub fn acquire_resources(&mut self) {
        if self.resources.is_none() && self.running.is_none() && self.starting.is_none() {
            self.resources = Some(PendingResources::begin(&self.pod));
        }
    }

    /// Starts the VM; the result arrives as a message.
    pub fn start(&mut self, images: HeldImages) {
        let mut pending = match self.resources.take() {
            Some(pending) if pending.result.is_some() => pending,
            // The previous VM has used them.
            _ => PendingResources::begin(&self.pod),
        };
        let resources = pending.result.take();
        self.resources = Some(pending);
        let pod = Arc::clone(&self.pod);
        let task = tokio::spawn(async move {
            let start = async {
                let paths = &pod.paths;
                let mut images = images;
                let volumes = volumes::wait_for_files(&pod, || images.release()).await;
                let (images, hold) = images.complete(&pod).await?;
                let images = container_images::fit_layers(paths, images).await?;
                let resources = resources.context("the VM's resources were not acquired")?.await??;
                let network_stage = resources.stage.clone();
                let record = pod.current_record();
                let plan = boot_plan::plan(&record, &images, resources, memory_mib(&volumes), pod.debug)?;
                drop(hold);
                let _slot = BootSlot::wait(paths.run_dir()).await?;
                let mut started = boot(&pod, plan, volumes).await?;
                started.stages.insert(0, network_stage);
                anyhow::Ok(started)
            };
            let message = match start.await {
                Ok(started) => Message::MachineStarted(Box::new(started)),
                Err(error) => Message::Event(Event::SandboxFailed {
                    message: format!("{error:#}"),
                }),
            };
            pod.send(message);
        });
        self.starting = Some(task.abort_handle());
    }

    /// The VMM's process was started.
    pub fn vmm_started(&mut self, vmm: Option<ProcessIdentity>) {
        self.vmm = vmm;
    }

    /// Accepts the started VM. Returns the event for the lifecycle, and the durations of the start.
    pub fn started(&mut self, started: StartedMachine) -> Option<(Event, Vec<Stage>)> {
        let StartedMachine {
            machine,
            layer_disk,
            plan,
            written,
            stages,
        } = started;
        // It was abandoned meanwhile; dropping it kills it.
        self.starting.take()?;
        let is_detached = self.pod.record.detached;
        let event = match plan.iter().find_map(|planned| planned.as_ref().err()) {
            // Kubernetes would wait for a corrected manifest; in the foreground there cannot be one.
            Some(failure) if !is_detached => Event::SandboxFailed {
                message: failure.message.clone(),
            },
            _ => Event::SandboxReady {
                pod_ip: machine.pod_ip.clone(),
                host_ip: machine.host_ip.clone(),
            },
        };
        if is_detached {
            let record = MachinePlan {
                pod_ip: machine.pod_ip.clone(),
                host_ip: machine.host_ip.clone(),
                vmm_version: PROTOCOL_VERSION,
                layer_disk: Some(layer_disk),
                containers: plan.clone(),
            };
            if let Err(error) = record.save(&self.pod.paths, &self.pod.record.uid) {
                // Without the plan, the next supervisor would start the Pod in another VM.
                tracing::error!("cannot write the state for a later supervisor: {error}");
            }
        }
        self.runs(machine, plan, BTreeMap::new(), written);
        Some((event, stages))
    }

    /// Adopts a VM that another supervisor started.
    pub fn adopted(
        &mut self,
        vmm: ProcessIdentity,
        machine: RunningMachine,
        plan: Vec<Result<PlannedContainer, PlanFailure>>,
        added: BTreeMap<usize, PlannedContainer>,
    ) {
        self.vmm = Some(vmm);
        self.runs(machine, plan, added, WrittenVolumes::default());
    }

    fn runs(
        &mut self,
        machine: RunningMachine,
        plan: Vec<Result<PlannedContainer, PlanFailure>>,
        added: BTreeMap<usize, PlannedContainer>,
        written: WrittenVolumes,
    ) {
        self.plan = plan;
        self.added = added;
        self.updates = VolumeUpdates::start(&self.pod, machine.sandbox.agent.clone(), written);
        self.view
            .set_machine(Some((machine.sandbox.agent.clone(), machine.processes.clone())));
        self.running = Some(machine);
    }

    /// The Pod's IP address in the running VM.
    pub fn pod_ip(&self) -> Option<&str> {
        self.running.as_ref().map(|machine| machine.pod_ip.as_str())
    }

    /// How to reach the containers of the running VM.
    pub fn guest(&self) -> Option<Guest> {
        self.running.as_ref()?.guest()
    }

    /// The next report of the running VM. Cancel safe.
    pub async fn next_event(&mut self) -> Option<VmmEvent> {
        match &mut self.running {
            Some(machine) => machine.next_event().await,
            None => std::future::pending().await,
        }
    }

    /// Discards a VM that has ended on its own, and kills what is left of it.
    pub async fn discard_lost(&mut self) {
        self.view.set_machine(None);
        self.updates = None;
        if let Some(machine) = self.running.take() {
            machine.kill().await;
        }
        self.vmm = None;
    }

    /// Ends the VM; one that is still booting is killed.
    pub async fn stop(&mut self, end: MachineEnd) {
        self.view.set_machine(None);
        self.updates = None;
        if let Some(machine) = self.running.take() {
            match end {
                MachineEnd::Kill => machine.kill().await,
                MachineEnd::PowerOff => machine.turn_off(false).await,
                MachineEnd::Replace => machine.turn_off(true).await,
            }
        }
        if let Some(starting) = self.starting.take() {
            // Dropping a VMM kills it, but does not wait until it has ended.
            starting.abort();
            if let Some(vmm) = self.vmm.clone() {
                kill_vmm(&self.pod, vmm).await;
            }
        }
        if let Some(resources) = self.resources.take() {
            resources.finish().await;
        }
        self.vmm = None;
    }

    /// Takes the image of an ephemeral container.
    pub fn add_image(&mut self, container: usize, image: Image) {
        self.added_images.insert(container, image);
    }

    /// Whether a container must be prepared before it can be started in this VM.
    pub fn needs_preparation(&self, container: usize) -> bool {
        self.pod.is_ephemeral(container) && !self.added.contains_key(&container)
    }

    /// Prepares a container that was added to the Pod; the result arrives as a message.
    pub fn prepare_container(&self, attempt: ContainerAttempt, hold: Option<StoreLock>) {
        let Some(machine) = &self.running else { return };
        let (additions, pod) = (machine.additions.clone(), Arc::clone(&self.pod));
        let image = self.added_images.get(&attempt.container).cloned();
        tokio::spawn(async move {
            let prepared = additions.prepare(&pod, attempt.container, image, hold).await;
            pod.send(match prepared {
                Ok(planned) => Message::ContainerPrepared {
                    attempt,
                    planned: Box::new(planned),
                },
                Err(PlanFailure { reason, message }) => Message::Event(Event::ContainerStartFailed {
                    attempt,
                    reason,
                    message,
                }),
            });
        });
    }

    /// A container was prepared for this VM.
    pub fn container_prepared(&mut self, container: usize, planned: PlannedContainer) {
        self.added.insert(container, planned);
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

    /// Starts an attempt of a container; its progress arrives as events.
    pub async fn start_container(&mut self, attempt: ContainerAttempt) {
        let Some(planned) = self.planned(attempt) else { return };
        let mut request = match self.complete(attempt.container, planned).await {
            Ok(request) => request,
            Err(failure) => return self.pod.report(failure.into_event(attempt)),
        };
        match self.target_of(attempt.container) {
            Ok(target) => request.pid_namespace_of = target,
            Err(message) => {
                return self.pod.report(Event::ContainerStartFailed {
                    attempt,
                    reason: "CreateContainerConfigError".to_owned(),
                    message,
                });
            }
        }
        match add_seccomp_profile(&self.pod, attempt.container, &mut request) {
            Ok(()) => self.request_start(attempt, request),
            Err(error) => self.pod.report(Event::ContainerStartFailed {
                attempt,
                reason: "CreateContainerError".to_owned(),
                message: format!("{error:#}"),
            }),
        }
    }

    /// Requests again a start that the previous supervisor requested: the guest answers when that start is done.
    pub async fn follow_start(&mut self, attempt: ContainerAttempt) {
        let Some(planned) = self.planned(attempt) else { return };
        let request = planned.request.clone();
        // Objects and profiles may have been deleted meanwhile; the guest has the values.
        let mut request = self.complete(attempt.container, planned).await.unwrap_or(request);
        request.pid_namespace_of = self.target_of(attempt.container).unwrap_or_default();
        let _ = add_seccomp_profile(&self.pod, attempt.container, &mut request);
        self.request_start(attempt, request);
    }

    /// How to start the container of an attempt; reports why if it cannot be created.
    fn planned(&self, attempt: ContainerAttempt) -> Option<PlannedContainer> {
        match self.plan.get(attempt.container) {
            Some(Ok(planned)) => Some(planned.clone()),
            Some(Err(failure)) => {
                self.pod.report(Event::ContainerStartFailed {
                    attempt,
                    reason: failure.reason.clone(),
                    message: failure.message.clone(),
                });
                None
            }
            None => self.added.get(&attempt.container).cloned(),
        }
    }

    /// The request for one attempt of a container, with its command line and environment.
    async fn complete(
        &self,
        container: usize,
        planned: PlannedContainer,
    ) -> Result<StartContainerRequest, ConfigFailure> {
        let PlannedContainer { mut request, image, .. } = planned;
        let (Some(image), Some(machine)) = (image, &self.running) else {
            return Ok(request);
        };
        let addresses = (machine.pod_ip.parse().ok(), machine.host_ip.parse().ok());
        let values = process_values(&self.pod, container, image, machine.sandbox.agent.clone(), addresses).await?;
        for skipped in &values.skipped {
            self.pod.send(Message::Emit(skipped_keys(skipped)));
        }
        request.args = values.args;
        request.env = values.env;
        // The mounts are those of the manifest, in the same order.
        for (mount, sub_path) in request.mounts.iter_mut().zip(values.sub_paths) {
            if let Some(sub_path) = sub_path {
                mount.sub_path = sub_path;
            }
        }
        Ok(request)
    }

    fn request_start(&mut self, attempt: ContainerAttempt, mut request: StartContainerRequest) {
        let Some(machine) = &mut self.running else { return };
        let agent = machine.sandbox.agent.clone();
        request.id = self.pod.container_id(attempt);
        request.start_after = machine.last_start.replace(request.id.clone()).unwrap_or_default();
        if let Some(number) = attempt.number.checked_sub(1) {
            let earlier = ContainerAttempt::new(attempt.container, number);
            remove_from_guest(&self.pod, &agent, self.pod.container_id(earlier));
        }
        if let Some(run) = ContainerRun::expect(&self.pod, agent, attempt) {
            tokio::spawn(run.start(request));
        }
    }

    /// Sends an attempt of a container its stop signal.
    pub fn stop_container(&self, attempt: ContainerAttempt) {
        let planned = self.plan.get(attempt.container);
        let planned = planned.and_then(|planned| planned.as_ref().ok());
        let planned = planned.or_else(|| self.added.get(&attempt.container));
        let signal = planned.map_or(DEFAULT_STOP_SIGNAL, |planned| planned.stop_signal);
        self.signal_container(attempt, signal, STOPPED_LAG_BYTES);
    }

    /// Sends an attempt of a container SIGKILL.
    pub fn kill_container(&self, attempt: ContainerAttempt) {
        self.signal_container(attempt, libc::SIGKILL.unsigned_abs(), KILLED_LAG_BYTES);
    }

    fn signal_container(&self, attempt: ContainerAttempt, signal: u32, lag_bytes: usize) {
        let Some(machine) = &self.running else { return };
        // A client that does not read must not delay the end: the guest reports it once all output was received.
        if let Some(streams) = self.pod.guest_streams.container(&self.pod.container_id(attempt)) {
            streams.let_followers_lag(lag_bytes);
        }
        let agent = machine.sandbox.agent.clone();
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

/// Adds the container's seccomp profile of type Localhost, if it has one, to the request for an attempt. The file may have
/// changed since the last one.
fn add_seccomp_profile(
    pod: &SupervisedPod,
    container: usize,
    request: &mut StartContainerRequest,
) -> anyhow::Result<()> {
    let Some(container) = pod.container(container) else {
        return Ok(());
    };
    let confinement = security::confinement(&pod.record.pod, &container);
    if let Seccomp::Localhost(name) = &confinement.seccomp {
        let policy = SecurityPolicy::of_environment()?;
        let program = seccomp_profile::program(&policy.seccomp_profiles, name, &confinement.capabilities)?;
        request.security.mut_or_insert_default().seccomp_programs = vec![program];
    }
    Ok(())
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

/// Kills a VMM that is only known by its process identity, and waits until it has ended: its address must not be leased
/// before that.
async fn kill_vmm(pod: &SupervisedPod, vmm: ProcessIdentity) {
    let killed = pod.privileges.kill_vmm(vmm, KILL_PATIENCE).await;
    if !matches!(killed, Ok(true)) {
        tracing::error!("cannot kill the VMM: {killed:?}");
    }
}

/// Starts the VM and waits until its agent has created the sandbox with these volumes.
async fn boot(pod: &SupervisedPod, plan: BootPlan, volumes: Vec<VolumeFiles>) -> anyhow::Result<StartedMachine> {
    let guest_streams = &pod.guest_streams;
    let BootPlan {
        machine,
        pod_ip,
        host_ip,
        sandbox_request,
        layer_disk,
        containers,
    } = plan;
    let mut stages = Vec::new();
    guest_streams.expect_machine();
    let vmm_start = Instant::now();
    let (mut vm, streams) = VirtualMachine::start(pod.privileges.clone(), machine).await?;
    pod.send(Message::VmmStarted(vm.identity.clone()));
    let sandbox = match sandbox::boot(&mut vm, streams, guest_streams, vmm_start, &mut stages).await {
        Ok(sandbox) => sandbox,
        Err(error) => {
            vm.end(Duration::ZERO).await;
            return Err(error.context(describe_loss(guest_streams, "the Pod's VM did not start")));
        }
    };
    let agent_start = Instant::now();
    let mut written = WrittenVolumes::default();
    let created = tokio::select! {
        created = create_sandbox(&sandbox.agent, sandbox_request, volumes, &mut written) => created,
        event = sandbox::next_event(&mut vm, guest_streams) => Err(anyhow::anyhow!(vmm_end(event.as_ref()))),
    };
    let created = match created {
        Ok(created) => created,
        Err(error) => {
            vm.end(Duration::ZERO).await;
            return Err(error.context(describe_loss(guest_streams, "cannot create the Pod's sandbox")));
        }
    };
    sandbox::boot_stages(&mut stages, vmm_start, agent_start, &created);
    let processes = GuestProcesses::new(sandbox.agent.clone(), Arc::clone(guest_streams));
    let added = Additions::of_disk(layer_disk.clone());
    let additions = Additions {
        sandbox: sandbox.clone(),
        vmm_version: PROTOCOL_VERSION,
        pod_ip: pod_ip.clone(),
        host_ip: host_ip.clone(),
        added: Arc::new(tokio::sync::Mutex::new(Some(added))),
    };
    Ok(StartedMachine {
        machine: RunningMachine {
            vm,
            sandbox,
            processes,
            pod_ip,
            host_ip,
            last_start: None,
            additions,
        },
        layer_disk,
        plan: containers,
        written,
        stages,
    })
}

async fn create_sandbox(
    agent: &AgentClientHandle,
    request: CreateSandboxRequest,
    volumes: Vec<VolumeFiles>,
    written: &mut WrittenVolumes,
) -> anyhow::Result<CreateSandboxResponse> {
    let created = agent.create_sandbox(with_duration(CALL_TIMEOUT), request).await;
    let created = created.context("the guest's agent cannot set up the Pod")?;
    for files in volumes {
        let volume = files.volume.clone();
        let files_written = written.write(agent, files).await;
        files_written.with_context(|| format!("the guest's agent cannot write the volume {volume:?}"))?;
    }
    Ok(created)
}

/// The host resources of a VM, while a task acquires them. The task cannot be stopped half-way, and resources that
/// it created after the Pod's release would be leaked, so a release waits for it.
#[derive(Debug)]
struct PendingResources {
    making: JoinHandle<()>,
    result: Option<oneshot::Receiver<anyhow::Result<HostResources>>>,
}

impl PendingResources {
    /// Starts to acquire them.
    fn begin(pod: &Arc<SupervisedPod>) -> Self {
        let pod = Arc::clone(pod);
        Self::of(async move { host_resources::acquire(&pod.privileges, &pod.record).await })
    }

    fn of(make: impl Future<Output = anyhow::Result<HostResources>> + Send + 'static) -> Self {
        let (sender, receiver) = oneshot::channel();
        let making = tokio::spawn(async move {
            // The receiver is gone if the VM was abandoned.
            let _ = sender.send(make.await);
        });
        Self {
            making,
            result: Some(receiver),
        }
    }

    /// Waits until the task has ended.
    async fn finish(self) {
        drop(self.result);
        let _ = self.making.await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn abandoned_resources_are_awaited_even_after_a_cancelled_start() {
        for is_taken in [false, true] {
            let made = Arc::new(AtomicBool::new(false));
            let mut pending = PendingResources::of({
                let made = Arc::clone(&made);
                async move {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    made.store(true, Ordering::Relaxed);
                    anyhow::bail!("no resources")
                }
            });
            if is_taken {
                let result = pending.result.take().unwrap();
                let starting = tokio::spawn(result);
                tokio::task::yield_now().await;
                starting.abort();
            }
            pending.finish().await;
            assert!(made.load(Ordering::Relaxed), "{is_taken}");
        }
    }
}
