//! The state of one container, and what becomes of it when it starts and ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::images::Image;
use super::interface::{Action, Exit, Hook, ProcessUser};
use super::plan::{ContainerPlan, Role};
use super::probes::Probes;
use super::restart::{self, BackOff, FIRST_BACK_OFF};
use super::termination::{Cause, Step, Stop};
use super::{Lifecycle, Time, event};

/// The kubelet looks at its containers once a second (`plegRelistPeriod`); so long one sees how a container or a pull ended before
/// one sees that it is waited for.
pub const RELIST_PERIOD: Duration = Duration::from_secs(1);

/// How long a start may stay unanswered (`runtimeRequestTimeout` of the kubelet). The container is killed then, should it exist.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// A container over all its attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    pub plan: ContainerPlan,
    pub image: Image,
    pub state: State,
    /// How the attempt before the present state ended.
    pub last: Option<Terminated>,
    pub next_attempt: u32,
    pub restart_count: u32,
    pub back_off: BackOff,
    /// In this sandbox, the init container after it may start: it succeeded, or, as a sidecar, was started once.
    pub is_initialized: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// Not started since the sandbox is there.
    Waiting,
    /// It could not be created; the same attempt is made again.
    Refused {
        reason: String,
        message: String,
        retry_at: Time,
    },
    /// From the request to start it to its end.
    Active(Active),
    /// Ended.
    Ended(Ended),
}

/// A container that is asked for or runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Active {
    pub attempt: u32,
    pub asked_at: Time,
    /// Since its start was confirmed.
    pub running: Option<Running>,
    pub stop: Option<Stop>,
}

/// A container whose process runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub container_id: Option<String>,
    pub user: Option<ProcessUser>,
    pub started_at: Time,
    pub post_start: PostStart,
    /// Its startup probe, if it has one, succeeded.
    pub is_started: bool,
    pub is_ready: bool,
    pub probes: Probes,
}

/// Until the postStart hook has returned, the container counts as waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PostStart {
    Running,
    Failed(String),
    Done,
}

/// A container that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub last: Terminated,
    pub retry: Option<Retry>,
    /// Why it could not be started, if that was how it ended: reason and message.
    pub start_error: Option<(String, String)>,
}

/// A container that is to be started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    pub at: Time,
    /// The wait, if the back-off demands one.
    pub back_off: Option<Duration>,
    /// Whether the back-off is shown in place of the end.
    pub is_shown: bool,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminated {
    pub exit: Exit,
    pub container_id: Option<String>,
    pub user: Option<ProcessUser>,
    pub started_at: Option<Time>,
    pub finished_at: Time,
    /// Its place among all ends of the Pod.
    pub order: u64,
}

impl Container {
    pub fn new(plan: ContainerPlan) -> Self {
        Self {
            plan,
            image: Image::Unasked,
            state: State::Waiting,
            last: None,
            next_attempt: 0,
            restart_count: 0,
            back_off: BackOff::default(),
            is_initialized: false,
        }
    }

    pub fn active(&self) -> Option<&Active> {
        match &self.state {
            State::Active(active) => Some(active),
            _ => None,
        }
    }

    pub fn active_mut(&mut self) -> Option<&mut Active> {
        match &mut self.state {
            State::Active(active) => Some(active),
            _ => None,
        }
    }

    /// The attempt if it is the present one.
    pub fn attempt_mut(&mut self, attempt: u32) -> Option<&mut Active> {
        self.active_mut().filter(|active| active.attempt == attempt)
    }

    /// Whom its present attempt runs as, or its last one ran as.
    pub fn user(&self) -> Option<&ProcessUser> {
        let running = self.active().and_then(|active| active.running.as_ref());
        let ended = match &self.state {
            State::Ended(ended) => Some(&ended.last),
            _ => self.last.as_ref(),
        };
        match running {
            Some(running) => running.user.as_ref(),
            None => ended?.user.as_ref(),
        }
    }

    pub fn is_active(&self) -> bool {
        self.active().is_some()
    }

    /// Whether its postStart hook runs or will: other containers start after that. One that is being stopped holds up nobody.
    pub fn holds_up_others(&self) -> bool {
        self.plan.post_start
            && self.active().is_some_and(|active| {
                let running = active.running.as_ref();
                active.stop.is_none() && running.is_none_or(|running| running.post_start == PostStart::Running)
            })
    }

    /// Whether it was ever started.
    pub fn has_run(&self) -> bool {
        self.is_active() || self.last.is_some() || matches!(self.state, State::Ended(_))
    }
}

impl Active {
    /// Whether it runs and its postStart hook has returned.
    pub fn is_up(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.post_start == PostStart::Done)
    }

    /// The hook that is running.
    pub fn hook(&self) -> Option<Hook> {
        if matches!(&self.stop, Some(stop) if stop.step == Step::PreStop) {
            Some(Hook::PreStop)
        } else if matches!(&self.running, Some(running) if running.post_start == PostStart::Running) {
            Some(Hook::PostStart)
        } else {
            None
        }
    }
}

impl Lifecycle {
    /// Starts the next attempt.
    pub(super) fn start_container(&mut self, now: Time, index: usize, out: &mut Vec<Action>) {
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let attempt = container.next_attempt;
        let active = Active {
            attempt,
            asked_at: now,
            running: None,
            stop: None,
        };
        if let State::Ended(ended) = std::mem::replace(&mut container.state, State::Active(active)) {
            container.back_off.lengthen(ended.last.finished_at, now);
            container.last = Some(ended.last);
        }
        container.next_attempt = attempt.saturating_add(1);
        container.restart_count = container.restart_count.max(attempt);
        out.push(Action::StartContainer {
            container: index,
            attempt,
        });
    }

    /// When a container is given up whose start nobody answers.
    pub(super) fn start_patience_ends_at(active: &Active) -> Option<Time> {
        (active.running.is_none() && active.stop.is_none()).then(|| active.asked_at.saturating_add(START_PATIENCE))
    }

    pub(super) fn container_started(
        &mut self,
        now: Time,
        index: usize,
        attempt: u32,
        container_id: Option<String>,
        user: Option<ProcessUser>,
        out: &mut Vec<Action>,
    ) {
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let next_attempt = container.next_attempt;
        let has_hook = container.plan.post_start;
        let Some(active) = container.attempt_mut(attempt) else {
            // Given up before it was there: nobody waits for it any more.
            if attempt < next_attempt {
                out.push(Action::KillContainer {
                    container: index,
                    attempt,
                });
            }
            return;
        };
        if let Some(running) = &mut active.running {
            running.container_id = running.container_id.take().or(container_id);
            running.user = running.user.take().or(user);
            return;
        }
        let is_stopping = active.stop.is_some();
        active.running = Some(Running {
            container_id,
            user,
            started_at: now,
            post_start: if has_hook && !is_stopping {
                PostStart::Running
            } else {
                PostStart::Done
            },
            is_started: false,
            is_ready: false,
            probes: Probes::default(),
        });
        out.push(event::created(index));
        out.push(event::started(index));
        if is_stopping {
            self.stop_started(now, index, out);
        } else if has_hook {
            out.push(Action::RunHook {
                container: index,
                attempt,
                hook: Hook::PostStart,
                timeout: None,
            });
        } else {
            self.container_is_up(now, index);
        }
    }

    pub(super) fn container_start_failed(
        &mut self,
        now: Time,
        index: usize,
        attempt: u32,
        reason: String,
        message: String,
        out: &mut Vec<Action>,
    ) {
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let Some(active) = container.attempt_mut(attempt).filter(|active| active.running.is_none()) else {
            return;
        };
        let is_stopping = active.stop.is_some();
        out.push(event::start_failed(index, &message));
        if reason.starts_with("Create") {
            container.next_attempt = attempt;
            container.state = if is_stopping {
                State::Waiting
            } else {
                State::Refused {
                    reason,
                    message,
                    retry_at: now.saturating_add(FIRST_BACK_OFF),
                }
            };
        } else {
            let exit = Exit::start_error(message.clone());
            self.container_ended(now, index, exit, Some((reason, message)), out);
        }
    }

    pub(super) fn container_exited(
        &mut self,
        now: Time,
        index: usize,
        attempt: u32,
        exit: Exit,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self
            .containers
            .get_mut(index)
            .and_then(|container| container.attempt_mut(attempt))
        else {
            return;
        };
        if active.running.is_none() {
            // The answer to its start is still on its way.
            active.running = Some(Running {
                container_id: None,
                user: None,
                started_at: active.asked_at,
                post_start: PostStart::Done,
                is_started: false,
                is_ready: false,
                probes: Probes::default(),
            });
            out.push(event::created(index));
            out.push(event::started(index));
        }
        self.container_ended(now, index, exit, None, out);
    }

    /// A container that was running, or might have been, and cannot be found any more. It counts as restarted, so that one that
    /// must run once does not run twice.
    pub(super) fn container_lost(&mut self, now: Time, index: usize, out: &mut Vec<Action>) {
        self.container_ended(now, index, Exit::lost(), None, out);
        if let Some(container) = self.containers.get_mut(index) {
            container.restart_count = container.restart_count.max(container.next_attempt);
        }
    }

    fn container_ended(
        &mut self,
        now: Time,
        index: usize,
        exit: Exit,
        start_error: Option<(String, String)>,
        out: &mut Vec<Action>,
    ) {
        let is_terminating = self.is_terminating();
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let State::Active(active) = std::mem::replace(&mut container.state, State::Waiting) else {
            return;
        };
        if let Some(hook) = active.hook() {
            out.push(Action::CancelHook {
                container: index,
                attempt: active.attempt,
                hook,
            });
        }
        let is_restarted = !is_terminating
            && match active.stop.as_ref().map(|stop| stop.cause) {
                Some(Cause::Probe(_)) => restart::restarts_after_probe(&self.plan, &container.plan),
                _ => restart::restarts(&self.plan, &container.plan, exit.code),
            };
        let retry = is_restarted.then(|| {
            let wait = container.back_off.wait_after(now);
            // What could not be started is not tried again at once.
            let pause = if start_error.is_some() {
                wait.max(FIRST_BACK_OFF)
            } else {
                wait
            };
            Retry {
                at: now.saturating_add(pause),
                back_off: (!wait.is_zero()).then_some(wait),
                is_shown: false,
            }
        });
        if container.plan.role == Role::Init && exit.code == 0 {
            container.is_initialized = true;
        }
        self.ends = self.ends.saturating_add(1);
        let running = active.running;
        container.state = State::Ended(Ended {
            last: Terminated {
                exit,
                container_id: running.as_ref().and_then(|running| running.container_id.clone()),
                started_at: running.as_ref().map(|running| running.started_at),
                user: running.and_then(|running| running.user),
                finished_at: now,
                order: self.ends,
            },
            retry,
            start_error,
        });
    }

    /// When the back-off of a container replaces its end in what it shows.
    pub(super) fn end_shown_at(&self, index: usize) -> Option<Time> {
        match &self.containers.get(index)?.state {
            State::Ended(ended) => {
                let retry = ended.retry.as_ref()?;
                let waits = retry.back_off.is_some() && !retry.is_shown;
                waits.then(|| ended.last.finished_at.saturating_add(RELIST_PERIOD))
            }
            _ => None,
        }
    }

    pub(super) fn show_ends(&mut self, now: Time, out: &mut Vec<Action>) {
        for index in 0..self.containers.len() {
            if self.end_shown_at(index).is_none_or(|at| now < at) {
                continue;
            }
            let pod = event::pod_reference(&self.plan);
            if let Some(container) = self.containers.get_mut(index)
                && let State::Ended(ended) = &mut container.state
                && let Some(retry) = &mut ended.retry
            {
                retry.is_shown = true;
                out.push(event::back_off(index, &container.plan.name, &pod));
            }
        }
    }
}
