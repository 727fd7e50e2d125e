//! Starts, takes over, and ends the Pod's VM.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use microkube_protocol::messages::{CreateSandboxRequest, CreateSandboxResponse};
use microkube_vmm::config::{PROTOCOL_VERSION, VmmEvent};
use tokio::task::AbortHandle;
use ttrpc::context::with_duration;

use super::container_plans::ContainerPlans;
use super::images::{CompleteImages, HeldImages};
use super::machine_containers::MachineContainers;
use super::message::Message;
use super::pending_resources::PendingResources;
use super::pod_view::PodView;
use super::running_machine::{Additions, Guest, RunningMachine, StartedMachine};
use super::storage::StorageWatch;
use super::supervised_pod::SupervisedPod;
use super::volumes::{self, ReadyVolumes, VolumeUpdates};
use crate::pod::agent::CALL_TIMEOUT;
use crate::pod::boot_plan::{self, BootPlan};
use crate::pod::boot_slot::BootSlot;
use crate::pod::container_images;
use crate::pod::guest_process::GuestProcesses;
use crate::pod::lifecycle::Event;
use crate::pod::machine_plan::MachinePlan;
use crate::pod::patience::KILL_PATIENCE;
use crate::pod::projected_volumes::{VolumeFiles, memory_mib};
use crate::pod::sandbox::{self, AgentClientHandle, describe_loss, vmm_end};
use crate::pod::timings::Stage;
use crate::pod::virtual_machine::VirtualMachine;
use crate::pod::written_volumes::WrittenVolumes;
use crate::state::ProcessIdentity;

/// How a VM is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineEnd {
    Kill,
    PowerOff,
    /// Like a power-off, but the next VM uses the same scratch disk.
    Replace,
}

/// The VM of a Pod. A Pod has at most one at a time.
#[derive(Debug)]
pub struct Machine {
    pod: Arc<SupervisedPod>,
    view: PodView,
    resources: Option<PendingResources>,
    starting: Option<AbortHandle>,
    /// The VMM's process, from its start, even while the VM is still booting.
    vmm: Option<ProcessIdentity>,
    running: Option<RunningMachine>,
    /// The containers of the running VM.
    pub containers: MachineContainers,
    /// Keeps the volumes of the running VM up to date.
    updates: Option<VolumeUpdates>,
    /// Watches what the running VM uses of its disk.
    storage: Option<StorageWatch>,
}

impl Machine {
    /// A Pod without a VM. The view is updated whenever a VM starts or ends.
    pub fn new(pod: Arc<SupervisedPod>, view: PodView) -> Self {
        Self {
            containers: MachineContainers::new(Arc::clone(&pod), view.clone()),
            pod,
            view,
            resources: None,
            starting: None,
            vmm: None,
            running: None,
            updates: None,
            storage: None,
        }
    }

    /// Starts to acquire the host resources of the first VM, while images are being pulled.
    pub fn acquire_resources(&mut self) {
        if self.resources.is_none() && self.running.is_none() && self.starting.is_none() {
            self.resources = Some(PendingResources::begin(&self.pod));
        }
    }

    /// Starts the VM with images that have these ids; the result arrives as a message.
    pub fn start(&mut self, images: HeldImages, image_ids: Vec<String>) {
        let mut pending = match self.resources.take() {
            Some(pending) if pending.result.is_some() => pending,
            // The previous VM has used the resources.
            _ => PendingResources::begin(&self.pod),
        };
        let resources = pending.result.take();
        self.resources = Some(pending);
        let pod = Arc::clone(&self.pod);
        let task = tokio::spawn(async move {
            let start = async {
                let paths = &pod.paths;
                let mut images = images;
                let ReadyVolumes { files: volumes, shares } = volumes::wait(&pod, || images.release()).await;
                let CompleteImages {
                    containers,
                    volumes: volume_images,
                    hold,
                } = images.complete(&pod).await?;
                let names: Vec<_> = containers.iter().map(|found| found.name.clone()).collect();
                let images = containers.into_iter().chain(volume_images).map(|found| found.image);
                let mut images = container_images::fit_layers(paths, images.collect()).await?;
                let volume_images = images.split_off(names.len().min(images.len()));
                let resources = resources.context("the VM's resources were not acquired")?.await??;
                let network_stage = resources.stage.clone();
                let record = pod.current_record();
                let volumes_mib = memory_mib(&volumes);
                let found = (images.as_slice(), volume_images.as_slice());
                let plan = boot_plan::plan(&record, found, resources, volumes_mib, shares, pod.debug)?;
                drop(hold);
                let _slot = BootSlot::wait(paths.run_dir()).await?;
                let mut started = boot(&pod, plan, volumes).await?;
                started.plan.images = names;
                started.plan.image_ids = image_ids;
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

    /// Records that the VMM's process was started.
    pub fn vmm_started(&mut self, vmm: Option<ProcessIdentity>) {
        self.vmm = vmm;
    }

    /// Accepts the started VM. Returns the event for the lifecycle, and the durations of the start.
    pub fn started(&mut self, started: StartedMachine) -> Option<(Event, Vec<Stage>)> {
        let StartedMachine {
            machine,
            additions,
            plan,
            written,
            stages,
        } = started;
        // If the VM was abandoned meanwhile, dropping it kills it.
        self.starting.take()?;
        let is_detached = self.pod.record.detached;
        let event = match plan.containers.iter().find_map(|planned| planned.as_ref().err()) {
            // Kubernetes would wait for a corrected manifest, which a foreground Pod cannot get.
            Some(failure) if !is_detached => Event::SandboxFailed {
                message: failure.message.clone(),
            },
            _ => Event::SandboxReady {
                pod_ip: plan.pod_ip.clone(),
                host_ip: plan.host_ip.clone(),
            },
        };
        if is_detached && let Err(error) = plan.save(&self.pod.paths, &self.pod.record.uid) {
            // Without the plan, the next supervisor would start the Pod in another VM.
            tracing::error!("cannot write the state for a later supervisor: {error}");
        }
        let plans = ContainerPlans::new(plan.containers, plan.images, plan.image_ids);
        self.runs(machine, additions, plans, written);
        Some((event, stages))
    }

    /// Adopts a VM that another supervisor started.
    pub fn adopted(
        &mut self,
        vmm: ProcessIdentity,
        machine: RunningMachine,
        additions: Additions,
        plans: ContainerPlans,
    ) {
        self.vmm = Some(vmm);
        self.runs(machine, additions, plans, WrittenVolumes::default());
    }

    fn runs(&mut self, machine: RunningMachine, additions: Additions, plans: ContainerPlans, written: WrittenVolumes) {
        self.containers.attach(additions, plans);
        self.updates = VolumeUpdates::start(&self.pod, machine.sandbox.agent.clone(), written);
        self.view
            .set_machine(Some((machine.sandbox.agent.clone(), machine.processes.clone())));
        self.storage = StorageWatch::start(&self.pod, &self.view, machine.sandbox.agent.clone());
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

    /// Discards a VM that has ended on its own, and kills its VMM if that still runs.
    pub async fn discard_lost(&mut self) {
        self.view.set_machine(None);
        self.updates = None;
        self.storage = None;
        if let Some(machine) = self.running.take() {
            machine.kill().await;
        }
        self.containers.detach().await;
        self.vmm = None;
    }

    /// Ends the VM. A VM that is still booting is killed.
    pub async fn stop(&mut self, end: MachineEnd) {
        self.view.set_machine(None);
        self.updates = None;
        self.storage = None;
        if let Some(machine) = self.running.take() {
            match end {
                MachineEnd::Kill => machine.kill().await,
                MachineEnd::PowerOff => machine.turn_off(false).await,
                MachineEnd::Replace => machine.turn_off(true).await,
            }
        }
        self.containers.detach().await;
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
}

/// Kills a VMM of which only the process identity is known, and waits until it has ended, because the VM's address must
/// not be leased again before that.
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
    let plan = MachinePlan {
        pod_ip,
        host_ip,
        vmm_version: PROTOCOL_VERSION,
        layer_disk: Some(layer_disk.clone()),
        containers,
        images: Vec::new(),
        image_ids: Vec::new(),
    };
    let additions = Additions::new(sandbox.clone(), &plan, Some(Additions::of_disk(layer_disk)));
    Ok(StartedMachine {
        machine: RunningMachine {
            vm,
            sandbox,
            processes,
            pod_ip: plan.pod_ip.clone(),
        },
        additions,
        plan,
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
