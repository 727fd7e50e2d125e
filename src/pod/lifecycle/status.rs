//! The Pod's status in Kubernetes' form.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, PodIP, PodStatus,
};
use microkube_manifest::admission::STATUS_PREFIX;

use super::event;
use super::interface::ProcessUser;
use super::interface::{RESTARTING_ALL, RESTARTING_ALL_MESSAGE, Time, timestamp};
use super::plan::ContainerPlan;
use super::state::Lifecycle;
use super::state::{Image, PostStart, Rejection, Running, State, Terminated};

/// The container state that the status shows.
#[derive(Debug, Clone)]
pub enum Shown<'l> {
    Waiting {
        reason: &'l str,
        message: Option<String>,
        last: Option<&'l Terminated>,
    },
    Running(&'l Running),
    Terminated {
        terminated: &'l Terminated,
        last: Option<&'l Terminated>,
    },
}

impl Lifecycle {
    /// The Pod's `status`.
    #[must_use]
    pub fn status(&self, now: Time) -> PodStatus {
        let statuses = |is_wanted: fn(&ContainerPlan) -> bool| {
            (0..self.containers.len())
                .filter(|index| is_wanted(&self.containers[*index].plan))
                .map(|index| self.container_status(index))
                .collect::<Vec<_>>()
        };
        let init = statuses(ContainerPlan::is_init);
        let ephemeral = statuses(ContainerPlan::is_ephemeral);
        // A Pod with scheduling gates or without volumes is on no node, and the kubelet does not handle a Pod that it ignores.
        let has_containers = !self.is_gated() && !self.is_unplaced && !self.is_invalid;
        let (reason, message) = match &self.eviction {
            Some(message) => (Some(event::EVICTED), Some(message.as_str())),
            None if self.deadline_exceeded => (Some("DeadlineExceeded"), Some(event::DEADLINE_EXCEEDED)),
            None => (None, None),
        };
        let status = PodStatus {
            phase: Some(self.phase.as_str().to_owned()),
            conditions: Some(self.shown_conditions(now)),
            container_statuses: has_containers.then(|| statuses(ContainerPlan::is_main)),
            init_container_statuses: (!init.is_empty() && has_containers).then_some(init),
            ephemeral_container_statuses: (!ephemeral.is_empty() && has_containers).then_some(ephemeral),
            pod_ip: self.sandbox.pod_ip.clone(),
            pod_ips: self.sandbox.pod_ip.clone().map(|ip| vec![PodIP { ip }]),
            host_ip: self.sandbox.host_ip.clone(),
            host_ips: self.sandbox.host_ip.clone().map(|ip| vec![HostIP { ip }]),
            qos_class: Some(self.plan.qos_class.clone()),
            observed_generation: self.generation().filter(|_| !self.is_invalid && !self.is_unplaced),
            start_time: self.began_at.and_then(timestamp),
            reason: reason.map(str::to_owned),
            message: message.map(str::to_owned),
            ..PodStatus::default()
        };
        match &self.rejection {
            Some(rejection) => rejected(rejection, status),
            None => status,
        }
    }

    /// `metadata.generation`. A deletion increments it, and counts as observed at once.
    pub(super) fn generation(&self) -> Option<i64> {
        let deletions = i64::from(self.deletion.is_some());
        Some(self.plan.generation?.saturating_add(deletions))
    }

    /// The state to show for the container with this number.
    pub(super) fn shown(&self, index: usize) -> Option<Shown<'_>> {
        let container = self.containers.get(index)?;
        let last = container.last.as_ref();
        let waiting = |reason, message| Shown::Waiting { reason, message, last };
        Some(match &container.state {
            State::Waiting => match self.missing_image(index) {
                Some((name, image)) => image_failure(name, image, last)?,
                None if last.is_some() && self.restart_all.is_some() => {
                    waiting(RESTARTING_ALL, Some(RESTARTING_ALL_MESSAGE.to_owned()))
                }
                None => waiting(self.default_waiting_reason(), None),
            },
            State::Refused { reason, message, .. } => waiting(reason, Some(message.clone())),
            State::Active(active) => match &active.running {
                Some(running) => match &running.post_start {
                    PostStart::Done => Shown::Running(running),
                    PostStart::Running => waiting(self.default_waiting_reason(), None),
                    PostStart::Failed(message) => waiting("PostStartHookError", Some(message.clone())),
                },
                None => waiting(self.default_waiting_reason(), None),
            },
            // The container's image has changed and cannot be pulled.
            State::Ended(ended) if ended.retry.is_some() && matches!(container.image, Image::Failed { .. }) => {
                image_failure(&container.plan.image, &container.image, Some(&ended.last))?
            }
            State::Ended(ended) => {
                let back_off = ended.retry.as_ref().filter(|retry| retry.is_shown);
                match (back_off.and_then(|retry| retry.back_off), &ended.start_error) {
                    (Some(delay), _) => {
                        let message = format!(
                            "back-off {} restarting failed container={} pod={}",
                            event::go_duration(delay),
                            container.plan.name,
                            event::pod_reference(&self.plan)
                        );
                        Shown::Waiting {
                            reason: "CrashLoopBackOff",
                            message: Some(message),
                            last: Some(&ended.last),
                        }
                    }
                    (None, Some((reason, message))) if ended.retry.is_some() => Shown::Waiting {
                        reason,
                        message: Some(message.clone()),
                        last: Some(&ended.last),
                    },
                    (None, _) => Shown::Terminated {
                        terminated: &ended.last,
                        last,
                    },
                }
            }
        })
    }

    fn default_waiting_reason(&self) -> &'static str {
        if self.containers.iter().any(|container| container.plan.is_init()) {
            "PodInitializing"
        } else {
            "ContainerCreating"
        }
    }

    fn container_status(&self, index: usize) -> ContainerStatus {
        let container = &self.containers[index];
        let (state, last, container_id) = match self.shown(index) {
            Some(Shown::Waiting { reason, message, last }) => {
                let state = ContainerState {
                    waiting: Some(ContainerStateWaiting {
                        reason: Some(reason.to_owned()),
                        message,
                    }),
                    ..ContainerState::default()
                };
                (state, last, last.and_then(|last| last.container_id.clone()))
            }
            Some(Shown::Running(running)) => {
                let state = ContainerState {
                    running: Some(ContainerStateRunning {
                        started_at: timestamp(running.started_at),
                    }),
                    ..ContainerState::default()
                };
                (state, container.last.as_ref(), running.container_id.clone())
            }
            Some(Shown::Terminated { terminated, last }) => {
                (terminated_state(terminated), last, terminated.container_id.clone())
            }
            None => (ContainerState::default(), None, None),
        };
        let image_id = match &container.image {
            Image::Ready { id } => id.clone(),
            Image::Unasked | Image::Wanted { .. } | Image::Failed { .. } => String::new(),
        };
        let is_ephemeral = container.plan.is_ephemeral();
        let (image, image_id) = match &container.ran_image {
            Some(ran) => (ran.name.clone(), ran.id.clone()),
            None => (container.plan.image.clone(), image_id),
        };
        ContainerStatus {
            name: container.plan.name.clone(),
            image,
            image_id,
            container_id,
            state: Some(state),
            last_state: Some(last.map(terminated_state).unwrap_or_default()),
            ready: self.is_ready(index),
            started: (!is_ephemeral).then(|| self.is_started(index)),
            restart_count: i32::try_from(container.restart_count).unwrap_or(i32::MAX),
            // This is known only for containers that were created.
            resources: (container.has_run() && !is_ephemeral).then(|| container.plan.resources.clone()),
            allocated_resources: container
                .plan
                .resources
                .requests
                .clone()
                .filter(|_| container.has_run()),
            volume_mounts: Some(container.plan.volume_mounts.clone()).filter(|mounts| !mounts.is_empty()),
            user: container.user().map(container_user),
            ..ContainerStatus::default()
        }
    }
}

/// The status of a Pod that was rejected, which has no containers.
fn rejected(rejection: &Rejection, status: PodStatus) -> PodStatus {
    PodStatus {
        reason: Some(rejection.reason.clone()),
        message: Some(format!("{STATUS_PREFIX}{}", rejection.message)),
        container_statuses: None,
        init_container_statuses: None,
        ephemeral_container_statuses: None,
        ..status
    }
}

/// The state of a container that needs an image that is not available.
fn image_failure<'l>(name: &str, image: &'l Image, last: Option<&'l Terminated>) -> Option<Shown<'l>> {
    let Image::Failed {
        reason,
        message,
        is_shown,
        ..
    } = image
    else {
        return None;
    };
    let (reason, message) = match *is_shown {
        true => {
            let message = format!("Back-off pulling image \"{name}\": {reason}: {message}");
            ("ImagePullBackOff", message)
        }
        false => (reason.as_str(), message.clone()),
    };
    Some(Shown::Waiting {
        reason,
        message: Some(message),
        last,
    })
}

fn container_user(user: &ProcessUser) -> ContainerUser {
    let groups: Vec<i64> = user.supplemental_gids.iter().copied().map(i64::from).collect();
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: (!groups.is_empty()).then_some(groups),
        }),
    }
}

fn terminated_state(terminated: &Terminated) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: terminated.container_id.clone(),
            exit_code: i32::from(terminated.exit.code),
            // Kubernetes' container runtimes report signals only through exit codes.
            signal: None,
            reason: Some(terminated.exit.reason.clone()),
            message: terminated.exit.message.clone(),
            started_at: terminated.started_at.and_then(timestamp),
            finished_at: timestamp(terminated.finished_at),
        }),
        ..ContainerState::default()
    }
}
