//! A running VM: its VMM, its agent, and how it ends.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use microkube_protocol::messages::ShutdownRequest;
use microkube_vmm::config::VmmEvent;
use tokio::sync::Mutex;
use ttrpc::context::with_duration;

use crate::pod::guest_process::GuestProcesses;
use crate::pod::layer_disk::LayerDisk;
use crate::pod::machine_plan::{AddedPlan, MachinePlan};
use crate::pod::patience::{MACHINE_END_PATIENCE, POWER_OFF_PATIENCE, SYNC_PATIENCE};
use crate::pod::sandbox::ReadySandbox;
use crate::pod::timings::Stage;
use crate::pod::virtual_machine::VirtualMachine;
use crate::pod::written_volumes::WrittenVolumes;

#[derive(Debug)]
pub struct RunningMachine {
    pub vm: VirtualMachine,
    pub sandbox: ReadySandbox,
    /// Starts exec processes in the VM.
    pub processes: GuestProcesses,
    /// IP address of the Pod.
    pub pod_ip: String,
}

/// Layers and containers that were added to a running VM, and the means to add more. Clones share the state.
#[derive(Debug, Clone)]
pub struct Additions {
    pub sandbox: ReadySandbox,
    /// The version of the VMM's protocol with which the VM was started.
    pub vmm_version: u32,
    /// IP address of the Pod.
    pub pod_ip: String,
    /// IP address of the host in the Pod's network.
    pub host_ip: String,
    /// Held while the disk is extended. `None` if an older build started the VM and recorded no layers,
    /// or the VM is gone.
    pub added: Arc<Mutex<Option<AddedPlan>>>,
}

impl Additions {
    /// `added` is `None` if an older build started the VM and recorded no layers.
    pub fn new(sandbox: ReadySandbox, plan: &MachinePlan, added: Option<AddedPlan>) -> Self {
        Self {
            sandbox,
            vmm_version: plan.vmm_version,
            pod_ip: plan.pod_ip.clone(),
            host_ip: plan.host_ip.clone(),
            added: Arc::new(Mutex::new(added)),
        }
    }

    pub fn of_disk(layer_disk: LayerDisk) -> AddedPlan {
        AddedPlan {
            layer_disk,
            containers: BTreeMap::new(),
            images: BTreeMap::new(),
            image_ids: BTreeMap::new(),
        }
    }

    /// Prevents further additions and their records, because the VM is gone.
    pub async fn close(&self) {
        *self.added.lock().await = None;
    }
}

/// A VM that has just started.
#[derive(Debug)]
pub struct StartedMachine {
    pub machine: RunningMachine,
    /// The means to add layers and containers to the VM.
    pub additions: Additions,
    /// The data that a later supervisor needs to start containers in the VM.
    pub plan: MachinePlan,
    /// The files in the VM's volumes.
    pub written: WrittenVolumes,
    /// Durations of the stages of the VM's start.
    pub stages: Vec<Stage>,
}

/// How probes and hooks reach a Pod's containers.
#[derive(Debug)]
pub struct Guest {
    /// Runs commands in the containers.
    pub processes: GuestProcesses,
    /// IP address of the Pod.
    pub pod_ip: IpAddr,
}

impl RunningMachine {
    /// How to reach the VM's containers, if its address is valid.
    pub fn guest(&self) -> Option<Guest> {
        Some(Guest {
            processes: self.processes.clone(),
            pod_ip: self.pod_ip.parse().ok()?,
        })
    }

    /// The next report of the VMM. The loss of the agent ends the VM, too.
    pub async fn next_event(&mut self) -> Option<VmmEvent> {
        let lost = tokio::select! {
            biased;
            event = self.vm.next_event() => return event,
            lost = self.sandbox.agent.lost() => lost,
        };
        // A VM that ends also loses its agent: give it a moment to report its end.
        let end = tokio::time::timeout_at(lost.at + MACHINE_END_PATIENCE, self.vm.next_event());
        end.await.unwrap_or_else(|_| {
            Some(VmmEvent::Failed {
                message: format!("its agent {}", lost.why),
            })
        })
    }

    /// Powers the VM off through its agent, and makes sure that its VMM ends. `keep_volumes`: the next VM uses the same
    /// scratch disk.
    pub async fn turn_off(mut self, keep_volumes: bool) {
        let request = ShutdownRequest {
            keep_volumes,
            ..Default::default()
        };
        let patience = match keep_volumes {
            true => SYNC_PATIENCE,
            false => POWER_OFF_PATIENCE,
        };
        // The answer does not matter: `end` makes sure that the VMM ends.
        let _ = self.sandbox.agent.shutdown(with_duration(patience), &request).await;
        self.vm.end(POWER_OFF_PATIENCE).await;
    }

    /// Ends the VMM immediately.
    pub async fn kill(mut self) {
        self.vm.end(Duration::ZERO).await;
    }
}
