//! Takes over what a supervisor before this one left: its lifecycle, and its machine if that still runs.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context as _;
use microkube_protocol::messages::ContainerSummary;
use ttrpc::context::with_duration;

use super::CALL_TIMEOUT;
use super::container::container_id;
use super::machine::{KILL_PATIENCE, Machine};
use super::pod_run::PodRun;
use crate::pod::guest_process::GuestProcesses;
use crate::pod::lifecycle::{Event, Lifecycle};
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
        self.output.expect_adopted_machine(self.expected_ids());
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
        let Found { known, strange } = Found::among(listed.containers, |id| self.attempt_of(id), &self.lifecycle);
        if let Some(id) = strange {
            self.output.complain(format_args!(
                "the guest has containers that the Pod does not have, as {id:?}"
            ));
        }
        let mut found = Vec::new();
        for (container, attempt, has_ended) in known {
            found.push((container, attempt, has_ended));
            if !self.lifecycle.expects(container, attempt) {
                continue;
            }
            let Some(streams) = self.expect_container(container, attempt) else {
                continue;
            };
            if !has_ended {
                let id = container_id(&self.container_name(container), attempt);
                self.running.found(container, &id);
            }
            tokio::spawn(self.container_run(container, attempt, streams, agent.clone()).follow());
        }
        self.output.unpark();
        Ok(found)
    }

    /// The ids of the containers that the machine may hold.
    fn expected_ids(&self) -> HashSet<String> {
        let names = prepare::containers(&self.record.pod).map(|container| container.name.as_str());
        names
            .enumerate()
            .filter_map(|(container, name)| Some(container_id(name, self.lifecycle.expected_attempt(container)?)))
            .collect()
    }

    /// The container and the attempt of an id in the guest.
    fn attempt_of(&self, id: &str) -> Option<(usize, u32)> {
        let (name, attempt) = id.rsplit_once('-')?;
        let container = prepare::containers(&self.record.pod).position(|container| container.name == name)?;
        let attempt: u32 = attempt.parse().ok()?;
        (container_id(name, attempt) == id).then_some((container, attempt))
    }
}

/// What the guest says there is in the machine, taken for that only where it fits what is known of the Pod.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Container, attempt, whether it has ended: each attempt once. Ended ones that nobody waits for are not among them.
    known: Vec<(usize, u32, bool)>,
    /// One of the containers that the Pod cannot have.
    strange: Option<String>,
}

impl Found {
    fn among(
        listed: Vec<ContainerSummary>,
        attempt_of: impl Fn(&str) -> Option<(usize, u32)>,
        lifecycle: &Lifecycle,
    ) -> Self {
        let mut found = Self {
            known: Vec::new(),
            strange: None,
        };
        let mut seen = HashSet::new();
        for summary in listed {
            match attempt_of(&summary.id) {
                Some((container, attempt)) if lifecycle.expects(container, attempt) => {
                    if seen.insert((container, attempt)) {
                        found.known.push((container, attempt, summary.ended));
                    }
                }
                Some((container, attempt)) if lifecycle.is_past(container, attempt) => {
                    if !summary.ended && seen.insert((container, attempt)) {
                        found.known.push((container, attempt, false));
                    }
                }
                _ => {
                    found.strange.get_or_insert(summary.id);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::pod::lifecycle::{Exit, Time};

    /// A Pod whose only container, `web`, runs for the third time.
    fn lifecycle() -> Lifecycle {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"restartPolicy": "Always", "containers": [{"name": "web", "image": "i"}]},
        }))
        .unwrap();
        let now = Time::from_secs(1_700_000_000);
        let mut lifecycle = Lifecycle::new(&pod, now);
        let started = |attempt| Event::ContainerStarted {
            container: 0,
            attempt,
            container_id: container_id("web", attempt),
            user: None,
        };
        let image = Event::ImageReady {
            container: 0,
            image_id: String::new(),
        };
        let sandbox = Event::SandboxReady {
            pod_ip: String::new(),
            host_ip: String::new(),
        };
        for event in [Event::Begin, image, sandbox, started(0)] {
            lifecycle.step(now, event);
        }
        for attempt in 0..2 {
            let exit = Exit::of_process(1, 0, false);
            lifecycle.step(
                now,
                Event::ContainerExited {
                    container: 0,
                    attempt,
                    exit,
                },
            );
            let later = now + std::time::Duration::from_secs(1000 * (u64::from(attempt) + 1));
            lifecycle.step(later, Event::DeadlineReached);
            lifecycle.step(later, started(attempt + 1));
        }
        lifecycle
    }

    fn among(ids: &[(&str, bool)]) -> Found {
        let attempt_of = |id: &str| Some((0, id.strip_prefix("web-")?.parse().ok()?));
        let listed = ids.iter().map(|(id, ended)| ContainerSummary {
            id: (*id).to_owned(),
            ended: *ended,
            ..Default::default()
        });
        Found::among(listed.collect(), attempt_of, &lifecycle())
    }

    #[test]
    fn only_attempts_that_the_pod_knows_of_are_taken_over_and_each_once() {
        let lifecycle = lifecycle();
        assert_eq!(lifecycle.expected_attempt(0), Some(2));
        let flood: Vec<(&str, bool)> = std::iter::repeat_n(("web-2", false), 100_000).collect();
        assert_eq!(among(&flood).known, [(0, 2, false)]);
        // The first word counts.
        assert_eq!(among(&[("web-2", true), ("web-2", false)]).known, [(0, 2, true)]);
        // Old ones that run are killed, old ones that have ended are nobody's.
        assert_eq!(
            among(&[("web-0", false), ("web-1", true), ("web-0", false)]).known,
            [(0, 0, false)]
        );
        assert!(!lifecycle.expects(0, 0), "an old one is not followed");
    }

    #[test]
    fn absurd_and_unknown_containers_are_ignored_and_said_once() {
        let listed = [("web-4294967295", false), ("web-3", false), ("other-0", true)];
        let found = among(&listed);
        assert_eq!(found.known, []);
        assert_eq!(found.strange.as_deref(), Some("web-4294967295"));
    }
}
