//! The lifecycle under a simulated clock. Test names state the Kubernetes rule that they prove.

mod admission;
mod back_off;
mod conditions;
mod ephemeral;
mod image_volumes;
mod missing_objects;
mod phase;
mod pod_change;
mod probes;
mod properties;
mod recovery;
mod restart_all;
mod running;
mod shown;
mod starting;
mod states_and_events;
mod termination;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};
use serde_json::{Value, json};

use super::*;

/// When the Pod's life starts, in seconds. Tests count from here.
const EPOCH: u64 = 1_700_000_000;

fn at(seconds: u64) -> Time {
    Duration::from_secs(EPOCH + seconds)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn exit(code: u8) -> Exit {
    Exit::of_process(code, 0, false)
}

fn killed() -> Exit {
    Exit::of_process(0, 9, false)
}

/// A restart of the supervisor while no container is starting.
fn restarted_with(found: Vec<FoundAttempt>) -> Event {
    Event::SupervisorRestarted {
        found,
        starting: Vec::new(),
    }
}

/// The first attempt of the container with this number, found running.
fn found_running(container: usize) -> FoundAttempt {
    FoundAttempt {
        attempt: ContainerAttempt::new(container, 0),
        has_ended: false,
    }
}

/// A Pod with this spec, named web in the namespace default.
fn pod_of(spec: Value) -> Pod {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "uid": "u-1"},
        "spec": spec,
    });
    serde_json::from_value(pod).expect("the test's Pod is valid")
}

/// A Pod under a simulated clock, on a host that carries out every action unless the test says otherwise.
struct World {
    pod: Lifecycle,
    now: Time,
    names: Vec<String>,
    events: Vec<PodEvent>,
}

impl World {
    /// A Pod before any event.
    fn new(spec: Value) -> Self {
        Self::of(&pod_of(spec))
    }

    fn of(pod: &Pod) -> Self {
        let names = plan::containers(pod).map(|container| container.name).collect();
        Self {
            pod: Lifecycle::new(pod, at(0)),
            now: at(0),
            names,
            events: Vec::new(),
        }
    }

    /// A Pod whose sandbox is ready and whose first containers were requested.
    fn with_sandbox(spec: Value) -> Self {
        let mut world = Self::new(spec);
        world.step(Event::Begin);
        world.images();
        world.sandbox();
        world
    }

    /// A Pod without init containers in which all of `containers` run.
    fn running(spec: Value) -> Self {
        let mut world = Self::with_sandbox(spec);
        for name in world.names.clone() {
            world.started(&name, 0);
        }
        world
    }

    fn index(&self, name: &str) -> usize {
        let found = self.names.iter().position(|known| known == name);
        found.expect("the test names a container of its Pod")
    }

    fn attempt(&self, name: &str, number: u32) -> ContainerAttempt {
        ContainerAttempt::new(self.index(name), number)
    }

    /// Processes an event. Collects the Pod's events, and returns the other actions as text.
    fn step(&mut self, event: Event) -> Vec<String> {
        let actions = self.pod.step(self.now, event);
        self.words(actions)
    }

    /// Collects the Pod's events, and returns the other actions as text.
    fn words(&mut self, actions: Vec<Action>) -> Vec<String> {
        let mut words = Vec::new();
        for action in actions {
            let name = |container: usize| self.names[container].as_str();
            let named = |attempt: ContainerAttempt| format!("{} {}", name(attempt.container), attempt.number);
            words.push(match action {
                Action::Emit(event) => {
                    self.events.push(event);
                    continue;
                }
                Action::PullImage { of } => match of {
                    ImageUse::Container(container) => format!("pull {}", name(container)),
                    ImageUse::Volume(volume) => format!("pull volume {volume}"),
                },
                Action::StartSandbox => "start sandbox".to_owned(),
                Action::StopSandbox => "stop sandbox".to_owned(),
                Action::StartContainer { attempt } => format!("start {}", named(attempt)),
                Action::StopContainer { attempt } => format!("stop {}", named(attempt)),
                Action::KillContainer { attempt } => format!("kill {}", named(attempt)),
                Action::RunHook { attempt, hook, timeout } => {
                    let timeout = timeout.map_or("ever".to_owned(), |timeout| format!("{}s", timeout.as_secs()));
                    format!("run {hook:?} {} for {timeout}", named(attempt))
                }
                Action::CancelHook { attempt, hook } => format!("cancel {hook:?} {}", named(attempt)),
                Action::RunProbe { attempt, probe } => format!("probe {probe:?} {}", named(attempt)),
            });
        }
        words
    }

    /// Advances to a point in time, through all deadlines before it.
    fn go_to(&mut self, seconds: u64) -> Vec<String> {
        let mut words = Vec::new();
        while let Some(deadline) = self.pod.deadline().filter(|deadline| *deadline <= at(seconds)) {
            self.now = deadline.max(self.now);
            words.extend(self.step(Event::DeadlineReached));
            assert!(
                self.pod.deadline().is_none_or(|next| next > self.now),
                "a deadline was reached and is still due"
            );
        }
        self.now = at(seconds);
        words
    }

    fn images(&mut self) {
        for container in 0..self.names.len() {
            self.step(Event::ImageReady {
                of: ImageUse::Container(container),
                image_id: format!("sha256:{container}"),
            });
        }
    }

    fn sandbox(&mut self) -> Vec<String> {
        self.step(Event::SandboxReady {
            pod_ip: "10.88.0.2".to_owned(),
            host_ip: "10.88.0.1".to_owned(),
        })
    }

    fn lose_sandbox(&mut self) -> Vec<String> {
        self.step(Event::SandboxLost {
            message: "it crashed".to_owned(),
        })
    }

    fn started(&mut self, name: &str, number: u32) -> Vec<String> {
        let attempt = self.attempt(name, number);
        self.step(Event::ContainerStarted {
            attempt,
            container_id: format!("microkube://{name}-{number}"),
            user: None,
        })
    }

    fn start_failed(&mut self, name: &str, number: u32, reason: &str) -> Vec<String> {
        let attempt = self.attempt(name, number);
        self.step(Event::ContainerStartFailed {
            attempt,
            reason: reason.to_owned(),
            message: "it does not work".to_owned(),
        })
    }

    /// Objects that the container refers to are missing.
    fn config_unavailable(&mut self, name: &str, number: u32, message: &str) -> Vec<String> {
        let attempt = self.attempt(name, number);
        self.step(Event::ContainerConfigUnavailable {
            attempt,
            message: message.to_owned(),
        })
    }

    fn exited(&mut self, name: &str, number: u32, exit: Exit) -> Vec<String> {
        let attempt = self.attempt(name, number);
        self.step(Event::ContainerExited { attempt, exit })
    }

    fn hook(&mut self, name: &str, number: u32, hook: Hook, result: Result<(), &str>) -> Vec<String> {
        let attempt = self.attempt(name, number);
        self.step(Event::HookEnded {
            attempt,
            hook,
            outcome: match result {
                Ok(()) => HookOutcome::Success,
                Err(message) => HookOutcome::Failure(message.to_owned()),
            },
        })
    }

    fn probed(&mut self, name: &str, number: u32, probe: ProbeKind, success: bool) -> Vec<String> {
        let outcome = if success {
            ProbeOutcome::Success
        } else {
            ProbeOutcome::Failure("503".to_owned())
        };
        let attempt = self.attempt(name, number);
        self.step(Event::ProbeEnded {
            attempt,
            probe,
            outcome,
        })
    }

    fn terminate(&mut self, grace: Option<u64>) -> Vec<String> {
        self.step(Event::TerminateRequested {
            grace: grace.map(secs),
            deletion: true,
        })
    }

    fn status(&self) -> PodStatus {
        self.pod.status(self.now)
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap_or_default()
    }

    fn container(&self, name: &str) -> ContainerStatus {
        let status = self.status();
        let all = status.init_container_statuses.into_iter().flatten();
        all.chain(status.container_statuses.into_iter().flatten())
            .find(|container| container.name == name)
            .expect("every container has a status")
    }

    /// The state of a container as text: `running`, `waiting Reason`, `terminated Reason code`.
    fn state(&self, name: &str) -> String {
        state_words(&self.container(name).state.expect("every container has a state"))
    }

    fn last_state(&self, name: &str) -> String {
        state_words(&self.container(name).last_state.unwrap_or_default())
    }

    /// A condition as text: `True`, or `False Reason: message`.
    fn condition(&self, kind: &str) -> String {
        let condition = self
            .status()
            .conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == kind)
            .expect("all conditions are always shown");
        let reason = condition.reason.map_or(String::new(), |reason| format!(" {reason}"));
        let message = condition
            .message
            .map_or(String::new(), |message| format!(": {message}"));
        format!("{}{reason}{message}", condition.status)
    }

    /// When a condition changed, in seconds of the test.
    fn changed_at(&self, kind: &str) -> u64 {
        let conditions = self.status().conditions.unwrap_or_default();
        let condition = conditions.iter().find(|condition| condition.type_ == kind);
        let time = condition.and_then(|condition| condition.last_transition_time.as_ref());
        let seconds = time.expect("conditions have times").0.as_second();
        u64::try_from(seconds).expect("after 1970") - EPOCH
    }

    /// The events since the last call: `Reason: message`, warnings with `!`.
    fn events(&mut self) -> Vec<String> {
        let words = |event: PodEvent| {
            let mark = if event.warning { "!" } else { "" };
            format!("{mark}{}: {}", event.reason, event.message)
        };
        std::mem::take(&mut self.events).into_iter().map(words).collect()
    }

    /// The deadline in seconds of the test.
    fn deadline(&self) -> Option<u64> {
        self.pod.deadline().map(|deadline| deadline.as_secs() - EPOCH)
    }

    /// Saves and restores the Pod, as another process would.
    fn reload(&mut self) {
        let text = serde_json::to_string(&self.pod).expect("a lifecycle can be written");
        let read: Lifecycle = serde_json::from_str(&text).expect("a written lifecycle can be read");
        assert_eq!(read, self.pod);
        self.pod = read;
    }
}

fn state_words(state: &ContainerState) -> String {
    match (&state.waiting, &state.running, &state.terminated) {
        (Some(waiting), None, None) => format!("waiting {}", waiting.reason.clone().unwrap_or_default()),
        (None, Some(_), None) => "running".to_owned(),
        (None, None, Some(terminated)) => {
            let reason = terminated.reason.clone().unwrap_or_default();
            format!("terminated {reason} {}", terminated.exit_code)
        }
        (None, None, None) => "none".to_owned(),
        _ => "more than one".to_owned(),
    }
}

/// Plain containers with these names.
fn containers(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"name": name, "image": "i"})).collect()
}
