//! Takes over what a supervisor before this one left: its lifecycle, and its machine if that still runs.

use std::sync::Arc;

use anyhow::Context as _;
use ttrpc::context::with_duration;

use super::CALL_TIMEOUT;
use super::container::container_id;
use super::machine::{KILL_PATIENCE, Machine};
use super::pod_run::PodRun;
use crate::pod::guest_process::GuestProcesses;
use crate::pod::lifecycle::Event;
use crate::pod::prepare;
use crate::pod::sandbox;
use crate::pod::virtual_machine::{VirtualMachine, unnoted_vmms};
use crate::state::ProcessIdentity;

impl PodRun {
    /// What has become of the machine in the meantime, for the restored lifecycle.
    pub(super) async fn take_over(&mut self) -> Vec<Event> {
        let adopted = match self.record.vmm.clone() {
            Some(vmm) if self.lifecycle.has_sandbox() => self.adopt(vmm).await,
            // One that was still being started is begun anew.
            _ => Err(anyhow::anyhow!("none was ready")),
        };
        let error = match adopted {
            Ok(containers) => return vec![Event::SupervisorRestarted { containers }],
            Err(error) => error,
        };
        tracing::info!("the Pod has no machine any more: {error:#}");
        self.end_lost_machines().await;
        self.lose_machine().await;
        vec![Event::SupervisorRestartedAlone {
            message: "the Pod's virtual machine was lost together with its supervisor".to_owned(),
        }]
    }

    /// Ends machines that cannot be taken over.
    async fn end_lost_machines(&self) {
        let lost = self
            .record
            .vmm
            .clone()
            .into_iter()
            .chain(unnoted_vmms(&self.record.uid));
        for vmm in lost {
            let killed = tokio::task::spawn_blocking(move || vmm.kill(KILL_PATIENCE)).await;
            if !matches!(killed, Ok(Ok(true))) {
                tracing::error!("cannot kill the VMM: {killed:?}");
            }
        }
    }

    /// Connects to the machine and follows its containers again; returns which there are, and whether they have ended.
    async fn adopt(&mut self, identity: ProcessIdentity) -> anyhow::Result<Vec<(usize, u32, bool)>> {
        let mut vm = VirtualMachine::adopt(identity)?.context("its VMM has ended")?;
        let (pod_ip, host_ip) = self.restore_plan()?.context("what was planned for it is not known")?;
        self.output.expect_adopted_machine();
        let path = prepare::vsock_path(&self.paths, &self.record.uid);
        let adopted = tokio::select! {
            adopted = async {
                let sandbox = sandbox::adopt(&path, &self.output).await?;
                let listed = sandbox.agent.list_containers(with_duration(CALL_TIMEOUT), &Default::default()).await;
                anyhow::Ok((sandbox, listed.context("its agent does not answer")?))
            } => adopted,
            _ = vm.next_event() => Err(anyhow::anyhow!("its VMM has ended")),
        };
        let (sandbox, listed) = adopted?;
        let processes = GuestProcesses::new(sandbox.agent.clone(), Arc::clone(&self.output));
        self.vmm = self.record.vmm.clone();
        self.running
            .machine_is(Some((sandbox.agent.clone(), processes.clone())));
        let agent = sandbox.agent.clone();
        self.machine = Some(Machine {
            vm,
            sandbox,
            processes,
            pod_ip,
            host_ip,
            last_start: None,
        });
        let mut found = Vec::new();
        for summary in listed.containers {
            // What the guest says is taken for what it says only where it fits the Pod.
            let Some((container, attempt)) = self.attempt_of(&summary.id) else {
                tracing::warn!("the guest has a container {:?} that the Pod does not have", summary.id);
                continue;
            };
            let Some(streams) = self.expect_container(container, attempt) else {
                continue;
            };
            found.push((container, attempt, summary.ended));
            if !summary.ended {
                self.running.found(container, &summary.id);
            }
            tokio::spawn(self.container_run(container, attempt, streams, agent.clone()).follow());
        }
        self.output.unpark();
        Ok(found)
    }

    /// The container and the attempt of an id in the guest.
    fn attempt_of(&self, id: &str) -> Option<(usize, u32)> {
        let (name, attempt) = id.rsplit_once('-')?;
        let container = prepare::containers(&self.record.pod).position(|container| container.name == name)?;
        let attempt: u32 = attempt.parse().ok()?;
        (container_id(name, attempt) == id).then_some((container, attempt))
    }
}
