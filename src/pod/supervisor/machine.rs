//! The Pod's machine: started, taken over, lost, turned off; and the requests to its containers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use microkube_protocol::messages::{RemoveContainerRequest, SignalContainerRequest};
use microkube_vmm::config::{PROTOCOL_VERSION, VmmEvent};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};
use ttrpc::context::with_duration;

use super::container::ContainerRun;
use super::images::HeldImages;
use super::message::Message;
use super::pod_view::PodView;
use super::running_machine::{Guest, RunningMachine, StartedMachine};
use super::supervised_pod::{SupervisedPod, container_id};
use crate::pod::agent::CALL_TIMEOUT;
use crate::pod::boot_plan::{self, BootPlan};
use crate::pod::boot_slot::BootSlot;
use crate::pod::container_images;
use crate::pod::container_spec::{PlanFailure, PlannedContainer};
use crate::pod::guest_process::GuestProcesses;
use crate::pod::host_resources::{self, HostResources};
use crate::pod::lifecycle::{ContainerAttempt, Event};
use crate::pod::machine_plan::MachinePlan;
use crate::pod::patience::KILL_PATIENCE;
use crate::pod::sandbox::{self, AgentClientHandle, describe_loss, vmm_end};
use crate::pod::timings::Stage;
use crate::pod::virtual_machine::VirtualMachine;
use crate::state::ProcessIdentity;

/// The stop signal of a container whose plan is not known.
const DEFAULT_STOP_SIGNAL: u32 = libc::SIGTERM.unsigned_abs();

/// The machine of a Pod, at most one at a time.
#[derive(Debug)]
pub struct Machine {
    pod: Arc<SupervisedPod>,
    view: PodView,
    resources: Option<PendingResources>,
    starting: Option<AbortHandle>,
    /// The VMM as far as it was started, be it of a machine that is only coming up.
    vmm: Option<ProcessIdentity>,
    running: Option<RunningMachine>,
    /// By the container's number: how it is started, or why it cannot be created.
    plan: Vec<Result<PlannedContainer, PlanFailure>>,
}

impl Machine {
    /// There is none yet. Each that starts or ends is set in the view.
    pub fn new(pod: Arc<SupervisedPod>, view: PodView) -> Self {
        Self {
            pod,
            view,
            resources: None,
            starting: None,
            vmm: None,
            running: None,
            plan: Vec::new(),
        }
    }

    /// Begins to acquire what the first machine needs of the host, while images are being pulled.
    pub fn acquire_resources(&mut self) {
        if self.resources.is_none() && self.running.is_none() && self.starting.is_none() {
            self.resources = Some(PendingResources::begin(&self.pod));
        }
    }

    /// Begins to start the machine; the answer comes as a message.
    pub fn start(&mut self, images: HeldImages) {
        let mut pending = match self.resources.take() {
            Some(pending) if pending.result.is_some() => pending,
            // The last machine had them.
            _ => PendingResources::begin(&self.pod),
        };
        let resources = pending.result.take();
        self.resources = Some(pending);
        let pod = Arc::clone(&self.pod);
        let task = tokio::spawn(async move {
            let start = async {
                let paths = &pod.paths;
                let (images, hold) = images.complete(&pod).await?;
                let images = container_images::fit_layers(paths, images).await?;
                let resources = resources.context("the machine's resources are not there")?.await??;
                let network_stage = resources.stage.clone();
                let plan = boot_plan::plan(&pod.record, &images, resources, pod.debug)?;
                drop(hold);
                let _slot = BootSlot::wait(paths.run_dir()).await?;
                let mut started = boot(&pod, plan).await?;
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

    /// Its VMM was started.
    pub fn vmm_started(&mut self, vmm: Option<ProcessIdentity>) {
        self.vmm = vmm;
    }

    /// Takes the machine in; returns what it means to the lifecycle, and how long its start took.
    pub fn started(&mut self, started: StartedMachine) -> Option<(Event, Vec<Stage>)> {
        let StartedMachine { machine, plan, stages } = started;
        // Given up in the meantime; dropping it kills it.
        self.starting.take()?;
        let is_detached = self.pod.record.detached;
        let event = match plan.iter().find_map(|planned| planned.as_ref().err()) {
            // Kubernetes would wait for the manifest to be changed; in the foreground it cannot be.
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
                containers: plan.clone(),
            };
            if let Err(error) = record.save(&self.pod.paths, &self.pod.record.uid) {
                // The next supervisor would start the Pod in another machine.
                tracing::error!("what a later supervisor needs cannot be written: {error}");
            }
        }
        self.runs(machine, plan);
        Some((event, stages))
    }

    /// Takes over a machine that another supervisor started.
    pub fn adopted(
        &mut self,
        vmm: ProcessIdentity,
        machine: RunningMachine,
        plan: Vec<Result<PlannedContainer, PlanFailure>>,
    ) {
        self.vmm = Some(vmm);
        self.runs(machine, plan);
    }

    fn runs(&mut self, machine: RunningMachine, plan: Vec<Result<PlannedContainer, PlanFailure>>) {
        self.plan = plan;
        self.view
            .machine_is(Some((machine.sandbox.agent.clone(), machine.processes.clone())));
        self.running = Some(machine);
    }

    /// Address of the Pod in the machine that runs.
    pub fn pod_ip(&self) -> Option<&str> {
        self.running.as_ref().map(|machine| machine.pod_ip.as_str())
    }

    /// Where the containers of the machine that runs are reached.
    pub fn guest(&self) -> Option<Guest> {
        self.running.as_ref()?.guest()
    }

    /// What the machine that runs reports next. Can be cancelled.
    pub async fn next_event(&mut self) -> Option<VmmEvent> {
        match &mut self.running {
            Some(machine) => machine.next_event().await,
            None => std::future::pending().await,
        }
    }

    /// Discards a machine that has ended by itself, and kills what is left of it.
    pub async fn discard_lost(&mut self) {
        self.view.machine_is(None);
        if let Some(machine) = self.running.take() {
            machine.kill().await;
        }
        self.vmm = None;
    }

    /// Turns it off, gracefully where it can be; one that is only coming up is given up.
    pub async fn stop(&mut self, gracefully: bool) {
        self.view.machine_is(None);
        match self.running.take() {
            Some(machine) if gracefully => machine.turn_off().await,
            Some(machine) => machine.kill().await,
            None => {}
        }
        if let Some(starting) = self.starting.take() {
            // Dropping a VMM kills it, but does not wait for its end.
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

    /// Starts an attempt of a container; what becomes of it comes as events.
    pub fn start_container(&mut self, attempt: ContainerAttempt) {
        let Some(machine) = &mut self.running else { return };
        let agent = machine.sandbox.agent.clone();
        let planned = match self.plan.get(attempt.container) {
            Some(Ok(planned)) => planned,
            Some(Err(failure)) => {
                return self.pod.report(Event::ContainerStartFailed {
                    attempt,
                    reason: failure.reason.clone(),
                    message: failure.message.clone(),
                });
            }
            None => return,
        };
        let mut request = planned.request.clone();
        request.id = container_id(&planned.name, attempt.number);
        request.start_after = machine.last_start.replace(request.id.clone()).unwrap_or_default();
        if let Some(earlier) = attempt.number.checked_sub(1) {
            remove_from_guest(&self.pod, &agent, container_id(&planned.name, earlier));
        }
        if let Some(run) = ContainerRun::expect(&self.pod, agent, attempt) {
            tokio::spawn(run.start(request));
        }
    }

    /// Sends an attempt of a container its stop signal.
    pub fn stop_container(&self, attempt: ContainerAttempt) {
        let planned = self
            .plan
            .get(attempt.container)
            .and_then(|planned| planned.as_ref().ok());
        let signal = planned.map_or(DEFAULT_STOP_SIGNAL, |planned| planned.stop_signal);
        self.signal_container(attempt, signal);
    }

    /// Sends an attempt of a container SIGKILL.
    pub fn kill_container(&self, attempt: ContainerAttempt) {
        self.signal_container(attempt, libc::SIGKILL.unsigned_abs());
    }

    fn signal_container(&self, attempt: ContainerAttempt, signal: u32) {
        let Some(machine) = &self.running else { return };
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
                    "container {} could not be sent signal {}: {error}",
                    request.id, request.signal
                ));
            }
        });
    }
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
                "container {} cannot be removed from the guest: {error}",
                request.id
            ));
        }
    });
}

/// Kills a VMM of which this process has only the identity, and waits for its end: before that, its address must not be leased again.
async fn kill_vmm(pod: &SupervisedPod, vmm: ProcessIdentity) {
    let killed = pod.privileges.kill_vmm(vmm, KILL_PATIENCE).await;
    if !matches!(killed, Ok(true)) {
        tracing::error!("cannot kill the VMM: {killed:?}");
    }
}

/// Starts the machine and waits for its agent to make the sandbox.
async fn boot(pod: &SupervisedPod, plan: BootPlan) -> anyhow::Result<StartedMachine> {
    let guest_streams = &pod.guest_streams;
    let BootPlan {
        machine,
        pod_ip,
        host_ip,
        sandbox_request,
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
            return Err(error.context(describe_loss(guest_streams, "the Pod's virtual machine did not start")));
        }
    };
    let agent_start = Instant::now();
    let created = tokio::select! {
        created = sandbox.agent.create_sandbox(with_duration(CALL_TIMEOUT), sandbox_request) => {
            created.context("the agent in the guest cannot set up the Pod")
        }
        event = sandbox::next_event(&mut vm, guest_streams) => Err(anyhow::anyhow!(vmm_end(event.as_ref()))),
    };
    let created = match created {
        Ok(created) => created,
        Err(error) => {
            vm.end(Duration::ZERO).await;
            return Err(error.context(describe_loss(guest_streams, "the Pod's sandbox could not be created")));
        }
    };
    sandbox::boot_stages(&mut stages, vmm_start, agent_start, &created);
    let processes = GuestProcesses::new(sandbox.agent.clone(), Arc::clone(guest_streams));
    Ok(StartedMachine {
        machine: RunningMachine {
            vm,
            sandbox,
            processes,
            pod_ip,
            host_ip,
            last_start: None,
        },
        plan: containers,
        stages,
    })
}

/// The host's resources for a machine, while a task makes them. That cannot be stopped half-way, and what it made after the Pod's release would
/// stay: before a release, the task is waited for.
#[derive(Debug)]
struct PendingResources {
    making: JoinHandle<()>,
    result: Option<oneshot::Receiver<anyhow::Result<HostResources>>>,
}

impl PendingResources {
    /// Begins to make them.
    fn begin(pod: &Arc<SupervisedPod>) -> Self {
        let pod = Arc::clone(pod);
        Self::of(async move { host_resources::acquire(&pod.privileges, &pod.record).await })
    }

    fn of(make: impl Future<Output = anyhow::Result<HostResources>> + Send + 'static) -> Self {
        let (sender, receiver) = oneshot::channel();
        let making = tokio::spawn(async move {
            // Dropped if the machine was given up.
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
    async fn resources_that_are_given_up_are_waited_for_also_when_somebody_waited_for_them() {
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
