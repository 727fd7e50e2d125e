//! The Pod's machine: put together, started, taken for lost, turned off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use ttrpc::context::with_duration;

use super::CALL_TIMEOUT;
use super::pod_run::{Message, PodRun};
use crate::image::Image;
use crate::pod::boot_slot::BootSlot;
use crate::pod::container_spec::{PlanFailure, PlannedContainer};
use crate::pod::guest_process::GuestProcesses;
use crate::pod::lifecycle::Event;
use crate::pod::output::Output;
use crate::pod::prepare::{self, HostResources, Prepared};
use crate::pod::sandbox::{self, Sandbox, describe_loss, vmm_end};
use crate::pod::timings::Stage;
use crate::pod::virtual_machine::VirtualMachine;
use crate::state::{Paths, PodRecord, read_json, replace_json};

/// How long the guest may take to turn itself off after it was asked to.
const POWER_OFF_PATIENCE: Duration = Duration::from_secs(3);

/// How long a VMM that was abandoned while it started may take to be gone.
pub const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Name of the file with what a later supervisor needs to start containers again in the same machine.
pub const PLAN_FILE: &str = "plan.json";

/// A machine that runs.
#[derive(Debug)]
pub struct Machine {
    /// Its VMM.
    pub vm: VirtualMachine,
    /// Its agent.
    pub sandbox: Sandbox,
    /// Starts further processes in it.
    pub processes: GuestProcesses,
    /// Address of the Pod.
    pub pod_ip: String,
    /// Address of the host in the Pod's network.
    pub host_ip: String,
    /// The container that was asked for last: the next one starts after it.
    pub last_start: Option<String>,
}

/// A machine that has just been started.
#[derive(Debug)]
pub struct StartedMachine {
    machine: Machine,
    plan: Vec<Result<PlannedContainer, PlanFailure>>,
    stages: Vec<Stage>,
}

/// What the machine needs of the host, while it is being had. It is made by tasks of their own: whoever gives the machine up meanwhile has to
/// wait until they are done, for they cannot be stopped half-way, and what they make after the release would stay.
#[derive(Debug)]
pub struct PendingResources {
    making: JoinHandle<()>,
    result: Option<oneshot::Receiver<anyhow::Result<HostResources>>>,
}

impl PendingResources {
    /// Begins to make them.
    pub fn begin(paths: &Paths, record: &PodRecord) -> Self {
        let (paths, record) = (paths.clone(), record.clone());
        Self::of(async move { prepare::host_resources(&paths, &record).await })
    }

    fn of(make: impl Future<Output = anyhow::Result<HostResources>> + Send + 'static) -> Self {
        let (sender, receiver) = oneshot::channel();
        let making = tokio::spawn(async move {
            // If nobody wants them any more they are dropped.
            let _ = sender.send(make.await);
        });
        Self {
            making,
            result: Some(receiver),
        }
    }

    /// Waits until nothing of them is being made any more.
    pub async fn finish(self) {
        drop(self.result);
        let _ = self.making.await;
    }
}

/// What a later supervisor must know of a machine.
#[derive(Debug, Serialize, Deserialize)]
struct PlanRecord {
    pod_ip: String,
    host_ip: String,
    containers: Vec<Result<PlannedContainer, PlanFailure>>,
}

impl PodRun {
    /// Begins to start the machine; the answer comes as a message.
    pub(super) fn start_machine(&mut self) {
        let mut pending = match self.resources.take() {
            Some(pending) if pending.result.is_some() => pending,
            // The last machine had them.
            _ => PendingResources::begin(&self.paths, &self.record),
        };
        let resources = pending.result.take();
        self.resources = Some(pending);
        let images = self.images.clone();
        let (paths, record, debug) = (self.paths.clone(), self.record.clone(), self.debug);
        let (output, inbox) = (Arc::clone(&self.output), self.inbox.clone());
        let hold = self.hold.take();
        let task = tokio::spawn(async move {
            let start = async {
                let images = all_images(&paths, &record, images).await?;
                let images = prepare::fit_layers(&paths, images).await?;
                let resources = resources.context("the machine's resources are not there")?.await??;
                let network_stage = resources.stage.clone();
                let prepared = prepare::assemble(&paths, &record, &images, resources, debug)?;
                drop(hold);
                let _slot = BootSlot::wait(paths.run_dir()).await?;
                let mut started = boot(prepared, &output, &inbox).await?;
                started.stages.insert(0, network_stage);
                anyhow::Ok(started)
            };
            let message = match start.await {
                Ok(started) => Message::MachineStarted(Box::new(started)),
                Err(error) => Message::Event(Event::SandboxFailed {
                    message: format!("{error:#}"),
                }),
            };
            let _ = inbox.send(message);
        });
        self.starting = Some(task.abort_handle());
    }

    /// Takes the machine in; what it means to the lifecycle.
    pub(super) fn machine_started(&mut self, started: StartedMachine) -> Option<Event> {
        let StartedMachine { machine, plan, stages } = started;
        // Given up in the meantime; dropping it kills it.
        self.starting.take()?;
        self.stages.extend(stages);
        let event = match plan.iter().find_map(|planned| planned.as_ref().err()) {
            // Kubernetes would wait for the manifest to be changed; in the foreground nobody can.
            Some(failure) if !self.record.detached => Event::SandboxFailed {
                message: failure.message.clone(),
            },
            _ => Event::SandboxReady {
                pod_ip: machine.pod_ip.clone(),
                host_ip: machine.host_ip.clone(),
            },
        };
        if self.record.detached {
            let record = PlanRecord {
                pod_ip: machine.pod_ip.clone(),
                host_ip: machine.host_ip.clone(),
                containers: plan.clone(),
            };
            let path = self.paths.pod_state(&self.record.uid).join(PLAN_FILE);
            if let Err(error) = replace_json(&path, &record) {
                // The next supervisor would start the Pod in another machine.
                tracing::error!("what a later supervisor needs cannot be written: {error}");
            }
        }
        self.plan = plan;
        self.running
            .machine_is(Some((machine.sandbox.agent.clone(), machine.processes.clone())));
        self.machine = Some(machine);
        Some(event)
    }

    /// Reads what a supervisor before this one knew of the machine: its containers' plan, the Pod's address and the host's.
    pub(super) fn restore_plan(&mut self) -> anyhow::Result<Option<(String, String)>> {
        let record: Option<PlanRecord> = read_json(&self.paths.pod_state(&self.record.uid).join(PLAN_FILE))?;
        Ok(record.map(|record| {
            self.plan = record.containers;
            (record.pod_ip, record.host_ip)
        }))
    }

    /// The machine has ended by itself: makes sure of that, and lets go of it.
    pub(super) async fn lose_machine(&mut self) {
        self.running.machine_is(None);
        if let Some(mut machine) = self.machine.take() {
            machine.vm.end(Duration::ZERO).await;
        }
        self.forget_vmm();
    }

    /// Turns the machine off, gracefully where it can be.
    pub(super) async fn stop_machine(&mut self, gracefully: bool) {
        self.running.machine_is(None);
        if let Some(mut machine) = self.machine.take() {
            if gracefully {
                // Whether it answers does not matter: what counts is that the VMM ends, and `end` sees to that.
                let agent = &machine.sandbox.agent;
                let _ = agent
                    .shutdown(with_duration(POWER_OFF_PATIENCE), &Default::default())
                    .await;
                machine.vm.end(POWER_OFF_PATIENCE).await;
            } else {
                machine.vm.end(Duration::ZERO).await;
            }
        }
        if let Some(starting) = self.starting.take() {
            // Dropping a VMM kills it, but does not wait for its end, before which its address must not be given away.
            starting.abort();
            if let Some(vmm) = self.vmm.clone() {
                let killed = tokio::task::spawn_blocking(move || vmm.kill(KILL_PATIENCE)).await;
                if !matches!(killed, Ok(Ok(true))) {
                    tracing::error!("cannot kill the VMM: {killed:?}");
                }
            }
        }
        if let Some(resources) = self.resources.take() {
            resources.finish().await;
        }
        self.forget_vmm();
    }

    fn forget_vmm(&mut self) {
        self.vmm = None;
        self.record.vmm = None;
        self.save_record();
        // It is about that machine only. There may have been none.
        let _ = std::fs::remove_file(self.paths.pod_state(&self.record.uid).join(PLAN_FILE));
    }

    /// Writes the Pod's record. Without it the machine is found by the Pod's UID in the VMM's arguments.
    pub(super) fn save_record(&self) {
        if let Err(error) = self.records.save(&self.record) {
            tracing::error!("the Pod's record cannot be written: {error}");
        }
    }
}

/// The images of all containers: those that this process has not looked up itself were there for the supervisor before it.
async fn all_images(paths: &Paths, record: &PodRecord, known: Vec<Option<Image>>) -> anyhow::Result<Vec<Image>> {
    let mut images = Vec::new();
    for (container, known) in prepare::containers(&record.pod).zip(known) {
        images.push(match known {
            Some(image) => image,
            None => {
                let image = prepare::image(paths, container, &record.pull_secrets, None).await;
                image.with_context(|| format!("container {:?}", container.name))?
            }
        });
    }
    Ok(images)
}

/// Starts the machine and waits for its agent to make the sandbox.
async fn boot(
    prepared: Prepared,
    output: &Arc<Output>,
    inbox: &mpsc::UnboundedSender<Message>,
) -> anyhow::Result<StartedMachine> {
    let Prepared {
        machine,
        pod_ip,
        host_ip,
        sandbox_request,
        containers,
    } = prepared;
    let mut stages = Vec::new();
    output.expect_machine();
    let vmm_start = Instant::now();
    let (mut vm, streams) = VirtualMachine::start(machine)?;
    let _ = inbox.send(Message::VmmStarted(vm.identity.clone()));
    let sandbox = match sandbox::boot(&mut vm, streams, output, vmm_start, &mut stages).await {
        Ok(sandbox) => sandbox,
        Err(error) => {
            vm.end(Duration::ZERO).await;
            return Err(error.context(describe_loss(output, "the Pod's virtual machine did not start")));
        }
    };
    let agent_start = Instant::now();
    let created = tokio::select! {
        created = sandbox.agent.create_sandbox(with_duration(CALL_TIMEOUT), &sandbox_request) => {
            created.context("the agent in the guest cannot set up the Pod")
        }
        event = sandbox::next_event(&mut vm, output) => Err(anyhow::anyhow!(vmm_end(event.as_ref()))),
    };
    let created = match created {
        Ok(created) => created,
        Err(error) => {
            vm.end(Duration::ZERO).await;
            return Err(error.context(describe_loss(output, "the Pod's sandbox could not be created")));
        }
    };
    sandbox::boot_stages(&mut stages, vmm_start, agent_start, &created);
    let processes = GuestProcesses::new(sandbox.agent.clone(), Arc::clone(output));
    Ok(StartedMachine {
        machine: Machine {
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
