//! A machine that runs: its VMM, its agent, and how it ends.

use std::net::IpAddr;
use std::time::Duration;

use microkube_vmm::config::VmmEvent;
use ttrpc::context::with_duration;

use crate::pod::container_spec::{PlanFailure, PlannedContainer};
use crate::pod::guest_process::GuestProcesses;
use crate::pod::patience::{LAST_WORD_PATIENCE, POWER_OFF_PATIENCE};
use crate::pod::sandbox::ReadySandbox;
use crate::pod::timings::Stage;
use crate::pod::virtual_machine::VirtualMachine;

/// A machine that runs.
#[derive(Debug)]
pub struct RunningMachine {
    /// Its VMM.
    pub vm: VirtualMachine,
    /// Its agent.
    pub sandbox: ReadySandbox,
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
    /// The machine.
    pub machine: RunningMachine,
    /// The containers that are to be started in it, or why one of them cannot be created.
    pub plan: Vec<Result<PlannedContainer, PlanFailure>>,
    /// How long the stages of its start took.
    pub stages: Vec<Stage>,
}

/// Where probes and hooks reach a Pod's containers.
#[derive(Debug)]
pub struct Guest {
    /// Runs commands in them.
    pub processes: GuestProcesses,
    /// Address of the Pod.
    pub pod_ip: IpAddr,
}

impl RunningMachine {
    /// Where its containers are reached.
    pub fn guest(&self) -> Option<Guest> {
        Some(Guest {
            processes: self.processes.clone(),
            pod_ip: self.pod_ip.parse().ok()?,
        })
    }

    /// What its VMM reports next; the loss of its agent ends it, too.
    pub async fn next_event(&mut self) -> Option<VmmEvent> {
        let lost = tokio::select! {
            biased;
            event = self.vm.next_event() => return event,
            lost = self.sandbox.agent.lost() => lost,
        };
        // A machine that ends loses its agent, too: it has a moment to say so.
        let end = tokio::time::timeout_at(lost.at + LAST_WORD_PATIENCE, self.vm.next_event());
        end.await.unwrap_or_else(|_| {
            Some(VmmEvent::Failed {
                message: format!("its agent {}", lost.why),
            })
        })
    }

    /// Turns it off through its agent, and sees to it that its VMM ends.
    pub async fn turn_off(mut self) {
        // Whether it answers does not matter: what counts is that the VMM ends, and `end` sees to that.
        let agent = &self.sandbox.agent;
        let _ = agent
            .shutdown(with_duration(POWER_OFF_PATIENCE), &Default::default())
            .await;
        self.vm.end(POWER_OFF_PATIENCE).await;
    }

    /// Ends its VMM at once.
    pub async fn kill(mut self) {
        self.vm.end(Duration::ZERO).await;
    }
}
