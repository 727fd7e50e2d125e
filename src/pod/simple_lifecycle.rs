//! The life of a Pod as a pure function: events and the time go in, actions come out. No I/O, no clock of its own.
//!
//! What is here follows the kubelet: a stop signal to every container at once, the grace period, SIGKILL at its end
//! (`pkg/kubelet/kuberuntime/kuberuntime_container.go`, `killContainer`), and the phase from the containers' states
//! (`pkg/kubelet/kubelet_pods.go`, `getPhase`). Containers are not restarted: the only policy accepted so far is `Never`.

use std::time::Duration;

/// A point in time, measured from any fixed start.
pub type Time = Duration;

/// The shortest grace a container gets, whatever was asked for (`minimumGracePeriodInSeconds` of the kubelet).
pub const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// How long a killed container may take to be reported dead before the machine is turned off under it. SIGKILL cannot be
/// ignored, so only a guest that is out of order, or output that nobody reads, takes this long.
pub const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code as a shell would give it: 128 + n for signal n, 128 for a container that could not be started.
    pub code: u8,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `ContainerStatusUnknown`, as the container's status shows it.
    pub reason: &'static str,
    /// More, where there is more to say.
    pub message: Option<String>,
}

impl Exit {
    /// The end of a process that was started.
    #[must_use]
    pub fn of_process(exit_code: u8, signal: u8, oom_killed: bool) -> Self {
        let code = if signal > 0 {
            128_u8.saturating_add(signal)
        } else {
            exit_code
        };
        let reason = match (oom_killed, code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            (false, _) => "Error",
        };
        Self {
            code,
            reason,
            message: None,
        }
    }

    /// A container that never ran (containerd reports these with exit code 128).
    #[must_use]
    pub fn start_error(message: String) -> Self {
        Self {
            code: 128,
            reason: "StartError",
            message: Some(message),
        }
    }

    /// A container that was lost together with its machine (the kubelet's rule for containers that cannot be located).
    #[must_use]
    pub fn lost(message: String) -> Self {
        Self {
            code: 137,
            reason: "ContainerStatusUnknown",
            message: Some(message),
        }
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Not yet asked for.
    Waiting,
    /// Asked for, not yet confirmed.
    Starting,
    /// Its process runs.
    Running,
    /// Ended, or never to be started.
    Terminated(Exit),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The sandbox is there: containers can be started.
    SandboxReady,
    /// The container with this index runs.
    ContainerStarted(usize),
    /// The container could not be started.
    ContainerStartFailed(usize, String),
    /// The container ended and all its output has been received.
    ContainerExited(usize, Exit),
    /// The Pod is to end. `None`: its own grace period.
    TerminateRequested(Option<Duration>),
    /// The Pod is to end at once.
    KillRequested,
    /// The machine is gone, or is given up.
    SandboxLost(String),
    /// The time returned by [`Lifecycle::deadline`] has come.
    DeadlineReached,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the container with this index.
    StartContainer(usize),
    /// Send its stop signal to the container's PID 1.
    StopContainer(usize),
    /// Send SIGKILL to the container's PID 1.
    KillContainer(usize),
    /// Turn the machine off: the Pod is over.
    ShutDownSandbox,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Pending,
    Running,
    /// Stop signals are out; KILL at this time.
    Stopping(Time),
    /// Killed; the machine goes at this time.
    Killing(Time),
    Ended,
}

/// The state of a Pod's life.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    containers: Vec<ContainerState>,
    grace: Duration,
    stage: Stage,
    first_failure: Option<usize>,
}

impl Lifecycle {
    /// A Pod of so many containers with this `terminationGracePeriodSeconds`.
    #[must_use]
    pub fn new(container_count: usize, grace: Duration) -> Self {
        Self {
            containers: vec![ContainerState::Waiting; container_count],
            grace,
            stage: Stage::Pending,
            first_failure: None,
        }
    }

    /// The containers' states, in the order of the manifest.
    #[must_use]
    pub fn containers(&self) -> &[ContainerState] {
        &self.containers
    }

    /// Whether the Pod is over: nothing will happen any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// The container that failed first, with how it ended.
    #[must_use]
    pub fn first_failure(&self) -> Option<(usize, &Exit)> {
        let index = self.first_failure?;
        match self.containers.get(index)? {
            ContainerState::Terminated(exit) => Some((index, exit)),
            _ => None,
        }
    }

    /// When [`Event::DeadlineReached`] is due, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match self.stage {
            Stage::Stopping(at) | Stage::Killing(at) => Some(at),
            Stage::Pending | Stage::Running | Stage::Ended => None,
        }
    }

    /// Takes in what happened at `now` and says what is to be done.
    pub fn step(&mut self, now: Time, event: Event) -> Vec<Action> {
        if self.has_ended() {
            return Vec::new();
        }
        let mut actions = match event {
            Event::SandboxReady => self.start_all(),
            Event::ContainerStarted(index) => self.started(index),
            Event::ContainerStartFailed(index, message) => self.ended(index, Exit::start_error(message)),
            Event::ContainerExited(index, exit) => self.ended(index, exit),
            Event::TerminateRequested(grace) => self.terminate(now, grace),
            Event::KillRequested => self.kill_all(now),
            Event::SandboxLost(message) => self.lose_all(&message),
            Event::DeadlineReached => self.deadline_reached(now),
        };
        if self.stage != Stage::Ended
            && self
                .containers
                .iter()
                .all(|c| matches!(c, ContainerState::Terminated(_)))
        {
            self.stage = Stage::Ended;
            actions.push(Action::ShutDownSandbox);
        }
        actions
    }

    fn start_all(&mut self) -> Vec<Action> {
        if self.stage != Stage::Pending {
            return Vec::new();
        }
        self.stage = Stage::Running;
        let mut actions = Vec::new();
        for (index, state) in self.containers.iter_mut().enumerate() {
            if *state == ContainerState::Waiting {
                *state = ContainerState::Starting;
                actions.push(Action::StartContainer(index));
            }
        }
        actions
    }

    fn started(&mut self, index: usize) -> Vec<Action> {
        let Some(state @ ContainerState::Starting) = self.containers.get_mut(index) else {
            return Vec::new();
        };
        *state = ContainerState::Running;
        // It was on its way when the Pod's end was asked for: it gets now what the others have got.
        match self.stage {
            Stage::Stopping(_) => vec![Action::StopContainer(index)],
            Stage::Killing(_) => vec![Action::KillContainer(index)],
            Stage::Pending | Stage::Running | Stage::Ended => Vec::new(),
        }
    }

    fn ended(&mut self, index: usize, exit: Exit) -> Vec<Action> {
        match self.containers.get_mut(index) {
            Some(state) if !matches!(state, ContainerState::Terminated(_)) => {
                if exit.code != 0 && self.first_failure.is_none() {
                    self.first_failure = Some(index);
                }
                *state = ContainerState::Terminated(exit);
            }
            _ => {}
        }
        Vec::new()
    }

    fn terminate(&mut self, now: Time, grace: Option<Duration>) -> Vec<Action> {
        let grace = grace.unwrap_or(self.grace).min(self.grace).max(MINIMUM_GRACE);
        let end = now.saturating_add(grace);
        match self.stage {
            Stage::Pending => self.lose_all("the Pod was ended before its containers were started"),
            Stage::Running => {
                self.stage = Stage::Stopping(end);
                self.running().map(Action::StopContainer).collect()
            }
            // A grace period may only get shorter.
            Stage::Stopping(at) => {
                self.stage = Stage::Stopping(at.min(end));
                Vec::new()
            }
            Stage::Killing(_) | Stage::Ended => Vec::new(),
        }
    }

    fn kill_all(&mut self, now: Time) -> Vec<Action> {
        match self.stage {
            Stage::Pending => self.lose_all("the Pod was ended before its containers were started"),
            Stage::Running | Stage::Stopping(_) => {
                self.stage = Stage::Killing(now.saturating_add(KILL_PATIENCE));
                self.running().map(Action::KillContainer).collect()
            }
            Stage::Killing(_) | Stage::Ended => Vec::new(),
        }
    }

    fn deadline_reached(&mut self, now: Time) -> Vec<Action> {
        match self.stage {
            Stage::Stopping(at) if now >= at => self.kill_all(now),
            Stage::Killing(at) if now >= at => self.lose_all("the container did not end after SIGKILL"),
            _ => Vec::new(),
        }
    }

    fn lose_all(&mut self, message: &str) -> Vec<Action> {
        for index in 0..self.containers.len() {
            self.ended(index, Exit::lost(message.to_owned()));
        }
        Vec::new()
    }

    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        self.containers
            .iter()
            .enumerate()
            .filter(|(_, state)| matches!(state, ContainerState::Running))
            .map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Time {
        Duration::from_secs(seconds)
    }

    fn running(count: usize) -> Lifecycle {
        let mut pod = Lifecycle::new(count, GRACE);
        pod.step(at(0), Event::SandboxReady);
        for index in 0..count {
            assert_eq!(pod.step(at(1), Event::ContainerStarted(index)), vec![]);
        }
        pod
    }

    fn success() -> Exit {
        Exit::of_process(0, 0, false)
    }

    #[test]
    fn all_containers_are_started_together_once_the_sandbox_is_ready() {
        let mut pod = Lifecycle::new(2, GRACE);
        assert_eq!(
            pod.step(at(0), Event::SandboxReady),
            vec![Action::StartContainer(0), Action::StartContainer(1)]
        );
        assert_eq!(pod.step(at(0), Event::SandboxReady), vec![]);
    }

    #[test]
    fn the_pod_ends_with_its_last_container() {
        let mut pod = running(2);
        assert_eq!(pod.step(at(2), Event::ContainerExited(1, success())), vec![]);
        assert_eq!(
            pod.step(at(3), Event::ContainerExited(0, success())),
            vec![Action::ShutDownSandbox]
        );
        assert!(pod.has_ended());
        assert_eq!(pod.first_failure(), None);
    }

    #[test]
    fn the_first_container_that_failed_in_time_is_remembered() {
        let mut pod = running(3);
        pod.step(at(2), Event::ContainerExited(2, Exit::of_process(0, 15, false)));
        pod.step(at(3), Event::ContainerExited(0, Exit::of_process(7, 0, false)));
        pod.step(at(4), Event::ContainerExited(1, success()));
        let (index, exit) = pod.first_failure().unwrap();
        assert_eq!((index, exit.code), (2, 143));
    }

    #[test]
    fn termination_stops_every_running_container_at_once_and_kills_at_the_end_of_the_grace_period() {
        let mut pod = running(3);
        pod.step(at(5), Event::ContainerExited(1, success()));
        assert_eq!(
            pod.step(at(10), Event::TerminateRequested(None)),
            vec![Action::StopContainer(0), Action::StopContainer(2)]
        );
        assert_eq!(pod.deadline(), Some(at(40)));
        pod.step(at(11), Event::ContainerExited(0, success()));
        assert_eq!(pod.step(at(40), Event::DeadlineReached), vec![Action::KillContainer(2)]);
        assert_eq!(
            pod.step(at(41), Event::ContainerExited(2, Exit::of_process(0, 9, false))),
            vec![Action::ShutDownSandbox]
        );
        assert_eq!(pod.first_failure().unwrap().1.code, 137);
    }

    #[test]
    fn a_second_request_stops_nobody_twice_and_only_ever_shortens_the_grace_period() {
        let mut pod = running(1);
        assert_eq!(
            pod.step(at(10), Event::TerminateRequested(Some(at(20)))),
            vec![Action::StopContainer(0)]
        );
        assert_eq!(pod.step(at(11), Event::TerminateRequested(None)), vec![]);
        assert_eq!(pod.deadline(), Some(at(30)));
        pod.step(at(12), Event::TerminateRequested(Some(at(5))));
        assert_eq!(pod.deadline(), Some(at(17)));
    }

    #[test]
    fn the_grace_period_is_never_shorter_than_two_seconds() {
        let mut pod = running(1);
        pod.step(at(10), Event::TerminateRequested(Some(Duration::ZERO)));
        assert_eq!(pod.deadline(), Some(at(12)));
    }

    #[test]
    fn a_kill_request_kills_without_waiting_for_the_grace_period() {
        let mut pod = running(2);
        pod.step(at(10), Event::TerminateRequested(None));
        assert_eq!(
            pod.step(at(11), Event::KillRequested),
            vec![Action::KillContainer(0), Action::KillContainer(1)]
        );
    }

    #[test]
    fn a_container_that_starts_while_the_pod_is_terminating_is_stopped() {
        let mut pod = Lifecycle::new(2, GRACE);
        pod.step(at(0), Event::SandboxReady);
        pod.step(at(1), Event::ContainerStarted(0));
        assert_eq!(
            pod.step(at(2), Event::TerminateRequested(None)),
            vec![Action::StopContainer(0)]
        );
        assert_eq!(
            pod.step(at(3), Event::ContainerStarted(1)),
            vec![Action::StopContainer(1)]
        );
    }

    #[test]
    fn a_pod_that_is_ended_before_its_sandbox_is_ready_starts_nothing() {
        let mut pod = Lifecycle::new(1, GRACE);
        assert_eq!(
            pod.step(at(0), Event::TerminateRequested(None)),
            vec![Action::ShutDownSandbox]
        );
        assert_eq!(pod.step(at(1), Event::SandboxReady), vec![]);
    }

    #[test]
    fn a_container_that_cannot_be_started_counts_as_failed_with_code_128() {
        let mut pod = Lifecycle::new(1, GRACE);
        pod.step(at(0), Event::SandboxReady);
        assert_eq!(
            pod.step(at(1), Event::ContainerStartFailed(0, "no such file".to_owned())),
            vec![Action::ShutDownSandbox]
        );
        let (_, exit) = pod.first_failure().unwrap();
        assert_eq!((exit.code, exit.reason), (128, "StartError"));
    }

    #[test]
    fn containers_lost_with_their_machine_count_as_exit_137() {
        let mut pod = running(2);
        pod.step(at(2), Event::ContainerExited(0, success()));
        assert_eq!(
            pod.step(at(3), Event::SandboxLost("kernel panic".to_owned())),
            vec![Action::ShutDownSandbox]
        );
        let (index, exit) = pod.first_failure().unwrap();
        assert_eq!((index, exit.code, exit.reason), (1, 137, "ContainerStatusUnknown"));
    }

    #[test]
    fn a_killed_container_that_never_ends_does_not_hold_the_pod() {
        let mut pod = running(1);
        pod.step(at(10), Event::KillRequested);
        assert_eq!(
            pod.step(at(10) + KILL_PATIENCE, Event::DeadlineReached),
            vec![Action::ShutDownSandbox]
        );
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let index = 0_usize..4;
        prop_oneof![
            Just(Event::SandboxReady),
            index.clone().prop_map(Event::ContainerStarted),
            index
                .clone()
                .prop_map(|i| Event::ContainerStartFailed(i, "x".to_owned())),
            (index, any::<u8>()).prop_map(|(i, code)| Event::ContainerExited(i, Exit::of_process(code, 0, false))),
            proptest::option::of(0_u64..100).prop_map(|s| Event::TerminateRequested(s.map(Duration::from_secs))),
            Just(Event::KillRequested),
            Just(Event::SandboxLost("x".to_owned())),
            Just(Event::DeadlineReached),
        ]
    }

    proptest! {
        #[test]
        fn no_sequence_of_events_breaks_the_rules(events in proptest::collection::vec((any_event(), 0_u64..50), 0..60)) {
            let mut pod = Lifecycle::new(3, GRACE);
            let mut now = Duration::ZERO;
            let (mut started, mut stopped, mut shut_down) = ([0; 3], [0; 3], 0);
            let mut last_stop_deadline = None;
            for (event, seconds) in events {
                now += Duration::from_secs(seconds);
                let before = pod.containers().to_vec();
                for action in pod.step(now, event) {
                    prop_assert_eq!(shut_down, 0, "nothing happens after the end");
                    match action {
                        Action::StartContainer(i) => started[i] += 1,
                        Action::StopContainer(i) => stopped[i] += 1,
                        Action::KillContainer(_) => {}
                        Action::ShutDownSandbox => shut_down += 1,
                    }
                }
                for (old, new) in before.iter().zip(pod.containers()) {
                    if matches!(old, ContainerState::Terminated(_)) {
                        prop_assert_eq!(old, new, "a terminated container stays as it is");
                    }
                }
                if let Stage::Stopping(at) = pod.stage {
                    prop_assert!(last_stop_deadline.is_none_or(|last| at <= last), "grace never grows");
                    last_stop_deadline = Some(at);
                }
            }
            prop_assert!(started.iter().all(|n| *n <= 1), "no container is started twice");
            prop_assert!(stopped.iter().all(|n| *n <= 1), "no container gets its stop signal twice");
            prop_assert_eq!(shut_down == 1, pod.has_ended());
        }
    }
}
