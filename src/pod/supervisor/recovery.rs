//! Takes over what a supervisor before this one left: its lifecycle, and its machine if that still runs.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use microkube_protocol::messages::ContainerSummary;
use microkube_vmm::config::PROTOCOL_VERSION;
use ttrpc::context::with_duration;

use super::container::ContainerRun;
use super::machine::Machine;
use super::pod_view::PodView;
use super::running_machine::RunningMachine;
use super::supervised_pod::SupervisedPod;
use crate::pod::agent::CALL_TIMEOUT;
use crate::pod::guest_process::GuestProcesses;
use crate::pod::lifecycle::Lifecycle;
use crate::pod::machine_plan::MachinePlan;
use crate::pod::patience::KILL_PATIENCE;
use crate::pod::sandbox;
use crate::pod::virtual_machine::VirtualMachine;
use crate::state::ProcessIdentity;

/// Takes the Pod's machine over, if it runs and the restored lifecycle can go on with it: returns what there is in it. Ends it otherwise.
pub async fn take_over(
    pod: &Arc<SupervisedPod>,
    machine: &mut Machine,
    view: &PodView,
    lifecycle: &Lifecycle,
) -> Option<Found> {
    let noted = pod.record.vmm.clone();
    let adopted = match noted.clone() {
        Some(vmm) if lifecycle.has_sandbox() => adopt(pod, machine, view, lifecycle, vmm).await,
        // One that was still being started is begun anew.
        _ => Err(anyhow::anyhow!("none was ready")),
    };
    let error = match adopted {
        Ok(found) => return Some(found),
        Err(error) => error,
    };
    tracing::info!("the Pod has no machine any more: {error:#}");
    let ended = pod.privileges.end_vmms(noted, KILL_PATIENCE).await;
    if !matches!(ended, Ok(true)) {
        tracing::error!("cannot kill the VMM: {ended:?}");
    }
    None
}

/// Connects to the machine and follows its containers again; returns which there are.
async fn adopt(
    pod: &Arc<SupervisedPod>,
    machine: &mut Machine,
    view: &PodView,
    lifecycle: &Lifecycle,
    identity: ProcessIdentity,
) -> anyhow::Result<Found> {
    let mut vm = VirtualMachine::adopt(pod.privileges.clone(), identity.clone())?.context("its VMM has ended")?;
    let plan = MachinePlan::load(&pod.paths, &pod.record.uid)?.context("what was planned for it is not known")?;
    if plan.vmm_version > PROTOCOL_VERSION {
        let version = plan.vmm_version;
        bail!("its VMM speaks version {version} of its protocol, this supervisor versions up to {PROTOCOL_VERSION}");
    }
    pod.guest_streams
        .expect_adopted_machine(pod.ids_of(|container| lifecycle.expected_attempt(container)));
    let adopted = tokio::select! {
        adopted = async {
            let sandbox = sandbox::adopt(&pod.privileges, &pod.guest_streams).await?;
            let listed = sandbox.agent.list_containers(with_duration(CALL_TIMEOUT)).await;
            anyhow::Ok((sandbox, listed.context("its agent does not answer")?))
        } => adopted,
        _ = vm.next_event() => Err(anyhow::anyhow!("its VMM has ended")),
    };
    let (sandbox, listed) = adopted?;
    let agent = sandbox.agent.clone();
    let MachinePlan {
        pod_ip,
        host_ip,
        vmm_version: _,
        containers,
    } = plan;
    let running = RunningMachine {
        vm,
        processes: GuestProcesses::new(agent.clone(), Arc::clone(&pod.guest_streams)),
        sandbox,
        pod_ip,
        host_ip,
        last_start: None,
    };
    machine.adopted(identity, running, containers);
    let found = Found::among(listed.containers, |id| pod.attempt_of(id), lifecycle);
    if let Some(id) = &found.strange {
        pod.guest_streams.complain(format_args!(
            "the guest has containers that the Pod does not have, as {id:?}"
        ));
    }
    for &(container, attempt, has_ended) in &found.known {
        if !lifecycle.expects(container, attempt) {
            continue;
        }
        let Some(run) = ContainerRun::expect(pod, agent.clone(), container, attempt) else {
            continue;
        };
        if !has_ended {
            view.found(container, &pod.container_id(container, attempt));
        }
        tokio::spawn(run.follow());
    }
    for &(container, attempt) in &found.starting {
        if lifecycle.expects(container, attempt) {
            machine.start_container(container, attempt);
        }
    }
    pod.guest_streams.unpark();
    Ok(found)
}

/// What the guest says there is in the machine, taken for that only where it fits what is known of the Pod.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Container, attempt, whether it has ended: each attempt once. Ended ones that nobody waits for are not among them.
    pub known: Vec<(usize, u32, bool)>,
    /// Attempts whose start is under way, in the order of the Pod's containers. The agent answers once to all who ask for the same one.
    pub starting: Vec<(usize, u32)>,
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
            starting: Vec::new(),
            strange: None,
        };
        let mut seen = HashSet::new();
        for summary in listed {
            match attempt_of(&summary.id) {
                Some((container, attempt))
                    if summary.starting
                        && (lifecycle.expects(container, attempt) || lifecycle.is_past(container, attempt)) =>
                {
                    if seen.insert((container, attempt)) {
                        found.starting.push((container, attempt));
                    }
                }
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
        found.starting.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::super::supervised_pod::container_id;
    use super::*;
    use crate::pod::lifecycle::{Event, Exit, Time};

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
    fn a_start_that_is_under_way_is_not_taken_for_a_container_and_counts_once() {
        let attempt_of = |id: &str| Some((0, id.strip_prefix("web-")?.parse().ok()?));
        let starting = |id: &str| ContainerSummary {
            id: id.to_owned(),
            starting: true,
            ..Default::default()
        };
        let listed = ["web-2", "web-0", "web-2", "web-9", "other-0"].map(starting).to_vec();
        let found = Found::among(listed, attempt_of, &lifecycle());
        assert_eq!(found.known, []);
        assert_eq!(found.starting, [(0, 0), (0, 2)]);
        assert_eq!(found.strange.as_deref(), Some("web-9"));
    }

    #[test]
    fn absurd_and_unknown_containers_are_ignored_and_said_once() {
        let listed = [("web-4294967295", false), ("web-3", false), ("other-0", true)];
        let found = among(&listed);
        assert_eq!(found.known, []);
        assert_eq!(found.strange.as_deref(), Some("web-4294967295"));
    }
}
