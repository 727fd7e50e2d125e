//! Takes over from the previous supervisor: restores its lifecycle, and takes over its VM if that still runs.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use microkube_protocol::messages::ContainerSummary;
use microkube_vmm::config::PROTOCOL_VERSION;
use ttrpc::context::with_duration;

use super::container::ContainerRun;
use super::container_plans::ContainerPlans;
use super::machine::Machine;
use super::pod_view::PodView;
use super::running_machine::{Additions, RunningMachine};
use super::supervised_pod::SupervisedPod;
use crate::pod::agent::CALL_TIMEOUT;
use crate::pod::guest_process::GuestProcesses;
use crate::pod::lifecycle::{ContainerAttempt, FoundAttempt, Lifecycle};
use crate::pod::machine_plan::{AddedPlan, MachinePlan};
use crate::pod::patience::KILL_PATIENCE;
use crate::pod::sandbox;
use crate::pod::virtual_machine::VirtualMachine;
use crate::state::ProcessIdentity;

/// Takes over the Pod's VM if it runs and fits the restored lifecycle, and returns its containers. Otherwise ends the
/// VM.
pub async fn take_over(
    pod: &Arc<SupervisedPod>,
    machine: &mut Machine,
    view: &PodView,
    lifecycle: &Lifecycle,
) -> Option<Found> {
    let noted = pod.record.vmm.clone();
    let adopted = match noted.clone() {
        Some(vmm) if lifecycle.has_sandbox() => adopt(pod, machine, view, lifecycle, vmm).await,
        // A VM that was still booting is replaced.
        _ => Err(anyhow::anyhow!("it was not ready")),
    };
    let error = match adopted {
        Ok(found) => return Some(found),
        Err(error) => error,
    };
    tracing::info!("cannot take over the Pod's VM: {error:#}");
    let ended = pod.privileges.end_vmms(noted, KILL_PATIENCE).await;
    if !matches!(ended, Ok(true)) {
        tracing::error!("cannot kill the VMM: {ended:?}");
    }
    None
}

/// Connects to the VM, follows its containers again, and returns them.
async fn adopt(
    pod: &Arc<SupervisedPod>,
    machine: &mut Machine,
    view: &PodView,
    lifecycle: &Lifecycle,
    identity: ProcessIdentity,
) -> anyhow::Result<Found> {
    let mut vm = VirtualMachine::adopt(pod.privileges.clone(), identity.clone())?.context("its VMM has ended")?;
    let mut plan = MachinePlan::load(&pod.paths, &pod.record.uid)?.context("its plan is missing")?;
    if plan.vmm_version > PROTOCOL_VERSION {
        let version = plan.vmm_version;
        bail!("its VMM speaks protocol version {version}, this supervisor versions up to {PROTOCOL_VERSION}");
    }
    let expected = lifecycle.expected_attempts();
    pod.guest_streams
        .expect_adopted_machine(expected.map(|attempt| pod.container_id(attempt)).collect());
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
    if plan.note_images(|container| lifecycle.ran_image(container))
        && let Err(error) = plan.save(&pod.paths, &pod.record.uid)
    {
        // Without the images, the next supervisor would not notice that one has changed.
        tracing::error!("cannot write the state for a later supervisor: {error}");
    }
    let added = match AddedPlan::load(&pod.paths, &pod.record.uid)? {
        Some(added) => Some(added),
        None => plan.layer_disk.clone().map(Additions::of_disk),
    };
    let MachinePlan {
        containers,
        images,
        image_ids,
        ..
    } = &plan;
    let plans = ContainerPlans::new(containers.clone(), images.clone(), image_ids.clone());
    let plans = match &added {
        Some(added) => plans.with_added(added),
        None => plans,
    };
    let additions = Additions::new(sandbox.clone(), &plan, added);
    let running = RunningMachine {
        vm,
        processes: GuestProcesses::new(agent.clone(), Arc::clone(&pod.guest_streams)),
        sandbox,
        pod_ip: plan.pod_ip,
    };
    machine.adopted(identity, running, additions, plans);
    let found = Found::among(listed.containers, |id| pod.attempt_of(id), lifecycle);
    if let Some(id) = &found.strange {
        pod.guest_streams.complain(format_args!(
            "the guest has containers that are not part of the Pod, such as {id:?}"
        ));
    }
    for &FoundAttempt { attempt, has_ended } in &found.known {
        if !lifecycle.expects(attempt) {
            continue;
        }
        let Some(run) = ContainerRun::expect(pod, agent.clone(), attempt) else {
            continue;
        };
        if !has_ended {
            view.found(attempt.container, &pod.container_id(attempt));
        }
        tokio::spawn(run.follow());
    }
    for &attempt in &found.starting {
        // The image may have changed since. The guest cannot be starting a container that was never planned.
        if lifecycle.expects(attempt) {
            machine.containers.follow_start(attempt).await;
        }
    }
    pod.guest_streams.unpark();
    Ok(found)
}

/// The guest's containers that match the Pod's records.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Each attempt once, except for those that have ended and whose end no longer matters.
    pub known: Vec<FoundAttempt>,
    /// Attempts that are starting, in the order of the Pod's containers. The agent sends one answer to all requests for
    /// the same attempt.
    pub starting: Vec<ContainerAttempt>,
    /// A container that the Pod cannot have, if the guest listed any.
    strange: Option<String>,
}

impl Found {
    fn among(
        listed: Vec<ContainerSummary>,
        attempt_of: impl Fn(&str) -> Option<ContainerAttempt>,
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
                Some(attempt) if summary.starting && (lifecycle.expects(attempt) || lifecycle.is_past(attempt)) => {
                    if seen.insert(attempt) {
                        found.starting.push(attempt);
                    }
                }
                Some(attempt) if lifecycle.expects(attempt) => {
                    if seen.insert(attempt) {
                        found.known.push(FoundAttempt {
                            attempt,
                            has_ended: summary.ended,
                        });
                    }
                }
                Some(attempt) if lifecycle.is_past(attempt) => {
                    if !summary.ended && seen.insert(attempt) {
                        found.known.push(FoundAttempt {
                            attempt,
                            has_ended: false,
                        });
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
    use crate::pod::lifecycle::{Event, Exit, ImageUse, Time};

    /// A Pod whose only container, `web`, runs for the third time.
    fn lifecycle() -> Lifecycle {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"restartPolicy": "Always", "containers": [{"name": "web", "image": "i"}]},
        }))
        .unwrap();
        let now = Time::from_secs(1_700_000_000);
        let mut lifecycle = Lifecycle::new(&pod, now);
        let started = |number| Event::ContainerStarted {
            attempt: ContainerAttempt::new(0, number),
            container_id: container_id("web", number),
            user: None,
        };
        let image = Event::ImageReady {
            of: ImageUse::Container(0),
            image_id: String::new(),
        };
        let sandbox = Event::SandboxReady {
            pod_ip: String::new(),
            host_ip: String::new(),
        };
        for event in [Event::Begin, image, sandbox, started(0)] {
            lifecycle.step(now, event);
        }
        for number in 0..2 {
            let exited = Event::ContainerExited {
                attempt: ContainerAttempt::new(0, number),
                exit: Exit::of_process(1, 0, false),
            };
            lifecycle.step(now, exited);
            let later = now + std::time::Duration::from_secs(1000 * (u64::from(number) + 1));
            lifecycle.step(later, Event::DeadlineReached);
            lifecycle.step(later, started(number + 1));
        }
        lifecycle
    }

    fn attempt_of(id: &str) -> Option<ContainerAttempt> {
        let number = id.strip_prefix("web-")?.parse().ok()?;
        Some(ContainerAttempt::new(0, number))
    }

    fn found(number: u32, has_ended: bool) -> FoundAttempt {
        FoundAttempt {
            attempt: ContainerAttempt::new(0, number),
            has_ended,
        }
    }

    fn among(ids: &[(&str, bool)]) -> Found {
        let listed = ids.iter().map(|(id, ended)| ContainerSummary {
            id: (*id).to_owned(),
            ended: *ended,
            ..Default::default()
        });
        Found::among(listed.collect(), attempt_of, &lifecycle())
    }

    #[test]
    fn only_known_attempts_are_adopted_and_each_once() {
        let lifecycle = lifecycle();
        let expected: Vec<_> = lifecycle.expected_attempts().collect();
        assert_eq!(expected, [ContainerAttempt::new(0, 2)]);
        let flood: Vec<(&str, bool)> = std::iter::repeat_n(("web-2", false), 100_000).collect();
        assert_eq!(among(&flood).known, [found(2, false)]);
        // The first entry counts.
        assert_eq!(among(&[("web-2", true), ("web-2", false)]).known, [found(2, true)]);
        // Old attempts that run are killed; old ones that have ended are ignored.
        assert_eq!(
            among(&[("web-0", false), ("web-1", true), ("web-0", false)]).known,
            [found(0, false)]
        );
        assert!(
            !lifecycle.expects(ContainerAttempt::new(0, 0)),
            "an old one is not followed"
        );
    }

    #[test]
    fn a_pending_start_is_not_a_container_and_counts_once() {
        let starting = |id: &str| ContainerSummary {
            id: id.to_owned(),
            starting: true,
            ..Default::default()
        };
        let listed = ["web-2", "web-0", "web-2", "web-9", "other-0"].map(starting).to_vec();
        let found = Found::among(listed, attempt_of, &lifecycle());
        assert_eq!(found.known, []);
        assert_eq!(found.starting, [0, 2].map(|number| ContainerAttempt::new(0, number)));
        assert_eq!(found.strange.as_deref(), Some("web-9"));
    }

    #[test]
    fn invalid_and_unknown_containers_are_ignored_and_reported_once() {
        let listed = [("web-4294967295", false), ("web-3", false), ("other-0", true)];
        let found = among(&listed);
        assert_eq!(found.known, []);
        assert_eq!(found.strange.as_deref(), Some("web-4294967295"));
    }
}
