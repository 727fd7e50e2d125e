//! Invariants under any sequence of events, valid or not.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn spec() -> impl Strategy<Value = serde_json::Value> {
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    let main =
        (0..4_u8, any::<[bool; 5]>(), 0..3_i64).prop_map(|(own_policy, [start, live, ready, post, pre], grace)| {
            let probe = |wanted: bool, grace: i64| {
                let mut probe = json!({"tcpSocket": {"port": 80}, "failureThreshold": 1, "periodSeconds": 3});
                if grace > 0 {
                    probe["terminationGracePeriodSeconds"] = json!(grace);
                }
                wanted.then_some(probe)
            };
            let mut container = json!({"image": "i"});
            if let Some(policy) = ["Always", "OnFailure", "Never"].get(usize::from(own_policy)) {
                container["restartPolicy"] = json!(policy);
                container["restartPolicyRules"] = json!([
                    {"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}},
                    {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [4]}},
                ]);
            }
            for (field, probe) in [
                ("startupProbe", probe(start, grace)),
                ("livenessProbe", probe(live, grace)),
                ("readinessProbe", probe(ready, 0)),
            ] {
                if let Some(probe) = probe {
                    container[field] = probe;
                }
            }
            let handler = json!({"exec": {"command": ["true"]}});
            if post {
                container["lifecycle"]["postStart"] = handler.clone();
            }
            if pre {
                container["lifecycle"]["preStop"] = handler;
            }
            container
        });
    let init = (any::<bool>(), main.clone()).prop_map(|(is_sidecar, mut container)| {
        if is_sidecar {
            container["restartPolicy"] = json!("Always");
        } else {
            container = json!({"image": "i"});
        }
        container
    });
    let named = |prefix: &'static str, list: Vec<serde_json::Value>| -> serde_json::Value {
        let name = |(number, mut container): (usize, serde_json::Value)| {
            container["name"] = json!(format!("{prefix}{number}"));
            container
        };
        list.into_iter().enumerate().map(name).collect()
    };
    (
        policy,
        proptest::collection::vec(init, 0..3),
        proptest::collection::vec(main, 1..4),
        proptest::option::of(1..200_i64),
        0..40_i64,
        0..3_usize,
    )
        .prop_map(move |(policy, init, main, active_deadline, grace, volumes)| {
            let volumes = vec![json!({"image": {"reference": "v"}}); volumes];
            json!({
                "restartPolicy": policy, "initContainers": named("i", init), "containers": named("m", main),
                "activeDeadlineSeconds": active_deadline, "terminationGracePeriodSeconds": grace,
                "volumes": named("v", volumes),
            })
        })
}

/// The next event: an answer to a pending action, or anything else.
#[derive(Debug, Clone)]
enum Move {
    /// Answers the pending action at this position, with success or failure.
    Answer(prop::sample::Index, bool),
    /// Ends a started container with this exit code.
    Exit(prop::sample::Index, u8),
    Wait,
    Any(Event),
    /// Restarts the supervisor; the flags say which containers are lost.
    Restart([bool; 8]),
}

/// Changes of the images of up to four containers, and of the deadline.
fn any_change() -> impl Strategy<Value = Event> {
    let images = proptest::collection::vec(prop_oneof![Just("i"), Just("j")], 4);
    let deadline = proptest::option::of(1..200_u64);
    (images, deadline).prop_map(|(images, deadline)| {
        let containers: Vec<_> = images
            .iter()
            .map(|image| json!({"name": "c", "image": image}))
            .collect();
        let mut spec = json!({"terminationGracePeriodSeconds": 5, "containers": containers});
        if let Some(deadline) = deadline {
            spec["activeDeadlineSeconds"] = deadline.into();
        }
        Event::PodChanged {
            change: PodChange::of(&pod_of(spec)),
        }
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    let container = 0..6_usize;
    let attempt =
        (container.clone(), 0..4_u32).prop_map(|(container, number)| ContainerAttempt::new(container, number));
    let of = prop_oneof![
        container.prop_map(ImageUse::Container),
        (0..3_usize).prop_map(ImageUse::Volume),
    ];
    let text = Just("x".to_owned());
    let hook = prop_oneof![Just(Hook::PostStart), Just(Hook::PreStop)];
    let probe = prop::sample::select(ProbeKind::ALL.to_vec());
    let outcome = prop_oneof![
        Just(ProbeOutcome::Success),
        Just(ProbeOutcome::Failure("x".to_owned())),
        Just(ProbeOutcome::Unknown("x".to_owned())),
    ];
    let grace = proptest::option::of((0..60_u64).prop_map(secs));
    let reason = prop_oneof![
        Just("RunContainerError".to_owned()),
        Just("CreateContainerError".to_owned())
    ];
    let attempt_of_missing = (attempt.clone(), text.clone())
        .prop_map(|(attempt, message)| Event::ContainerConfigUnavailable { attempt, message });
    let attempt_without_image =
        (attempt.clone(), text.clone()).prop_map(|(attempt, message)| Event::ImageNotAdded { attempt, message });
    prop_oneof![
        Just(Event::Begin),
        text.clone().prop_map(|message| Event::Rejected {
            reason: "SysctlForbidden",
            message
        }),
        text.clone().prop_map(|message| Event::Invalid { message }),
        text.clone().prop_map(|message| Event::Unplaced {
            why: Some(NotPlaced {
                is_error: false,
                message
            })
        }),
        text.clone().prop_map(|message| Event::Evicted { message }),
        text.clone()
            .prop_map(|message| Event::SupervisorRestartedAlone { message }),
        of.clone().prop_map(|of| Event::ImagePullStarted { of }),
        (of.clone(), text.clone()).prop_map(|(of, image_id)| Event::ImageReady { of, image_id }),
        (of, text.clone()).prop_map(|(of, message)| Event::ImageFailed {
            of,
            reason: "ErrImagePull".to_owned(),
            message
        }),
        Just(Event::SandboxReady {
            pod_ip: "10.88.0.2".to_owned(),
            host_ip: "10.88.0.1".to_owned()
        }),
        text.clone().prop_map(|message| Event::SandboxFailed { message }),
        text.clone().prop_map(|message| Event::SandboxLost { message }),
        (attempt.clone(), text.clone()).prop_map(|(attempt, container_id)| {
            Event::ContainerStarted {
                attempt,
                container_id,
                user: None,
            }
        }),
        (attempt.clone(), reason, text).prop_map(|(attempt, reason, message)| {
            Event::ContainerStartFailed {
                attempt,
                reason,
                message,
            }
        }),
        (attempt.clone(), any::<u8>()).prop_map(|(attempt, code)| {
            Event::ContainerExited {
                attempt,
                exit: exit(code),
            }
        }),
        (attempt.clone(), hook, any::<bool>()).prop_map(|(attempt, hook, fine)| {
            Event::HookEnded {
                attempt,
                hook,
                outcome: hook_outcome(fine),
            }
        }),
        (attempt.clone(), probe, outcome).prop_map(|(attempt, probe, outcome)| {
            Event::ProbeEnded {
                attempt,
                probe,
                outcome,
            }
        }),
        (grace, any::<bool>()).prop_map(|(grace, deletion)| Event::TerminateRequested { grace, deletion }),
        Just(Event::KillRequested),
        any_change(),
        (
            proptest::collection::vec((attempt.clone(), any::<bool>()), 0..4),
            proptest::collection::vec(attempt, 0..4)
        )
            .prop_map(|(found, starting)| Event::SupervisorRestarted {
                found: found
                    .into_iter()
                    .map(|(attempt, has_ended)| FoundAttempt { attempt, has_ended })
                    .collect(),
                starting
            }),
        Just(Event::DeadlineReached),
        Just(Event::ObjectsChanged),
        attempt_of_missing,
        attempt_without_image,
    ]
}

fn moves() -> impl Strategy<Value = Vec<(Move, u64)>> {
    let answer =
        (any::<prop::sample::Index>(), prop::bool::weighted(0.85)).prop_map(|(which, fine)| Move::Answer(which, fine));
    let exit = (
        any::<prop::sample::Index>(),
        prop_oneof![Just(0), Just(3), Just(4), any::<u8>()],
    )
        .prop_map(|(which, code)| Move::Exit(which, code));
    let one = prop_oneof![
        24 => answer,
        6 => exit,
        8 => Just(Move::Wait),
        3 => any_event().prop_map(Move::Any),
        2 => any_change().prop_map(Move::Any),
        1 => any::<[bool; 8]>().prop_map(Move::Restart),
    ];
    proptest::collection::vec((one, prop_oneof![Just(0), 0..20_u64]), 1..120)
}

fn hook_outcome(fine: bool) -> HookOutcome {
    match fine {
        true => HookOutcome::Success,
        false => HookOutcome::Failure("x".to_owned()),
    }
}

/// The answer of a host to an action.
fn answer(action: &Action, fine: bool) -> Option<Event> {
    let message = "x".to_owned();
    Some(match *action {
        Action::PullImage { of } if fine => Event::ImageReady { of, image_id: message },
        Action::PullImage { of } => Event::ImageFailed {
            of,
            reason: "ErrImagePull".to_owned(),
            message,
        },
        Action::StartSandbox if fine => Event::SandboxReady {
            pod_ip: "10.88.0.2".to_owned(),
            host_ip: "10.88.0.1".to_owned(),
        },
        Action::StartSandbox => Event::SandboxFailed { message },
        Action::StartContainer { attempt } if fine => Event::ContainerStarted {
            attempt,
            container_id: message,
            user: None,
        },
        Action::StartContainer { attempt } if attempt.number % 2 == 1 => Event::ImageNotAdded { attempt, message },
        Action::StartContainer { attempt } => Event::ContainerStartFailed {
            attempt,
            reason: "RunContainerError".to_owned(),
            message,
        },
        Action::RunHook { attempt, hook, .. } => Event::HookEnded {
            attempt,
            hook,
            outcome: hook_outcome(fine),
        },
        Action::RunProbe { attempt, probe } => Event::ProbeEnded {
            attempt,
            probe,
            outcome: if fine {
                ProbeOutcome::Success
            } else {
                ProbeOutcome::Failure(message)
            },
        },
        Action::StopContainer { attempt } => Event::ContainerExited {
            attempt,
            exit: if fine { exit(0) } else { Exit::of_process(0, 15, false) },
        },
        Action::KillContainer { attempt } => Event::ContainerExited {
            attempt,
            exit: killed(),
        },
        Action::StopSandbox => Event::SandboxLost { message },
        Action::CancelHook { .. } | Action::Emit(_) => return None,
    })
}

/// Observes the lifecycle from outside.
#[derive(Default)]
struct Watch {
    phase: Option<Phase>,
    restart_counts: Vec<i32>,
    started: HashSet<ContainerAttempt>,
    stopped: HashSet<ContainerAttempt>,
    grace_ends_at: Option<Time>,
    sandbox_is_stopped: bool,
    sandbox_is_starting: bool,
    /// Attempts whose postStart hooks are running or will run.
    hooked: HashSet<ContainerAttempt>,
}

impl Watch {
    /// Containers start in order, and not before the postStart hooks of others have returned.
    fn check_starts(&mut self, pod: &Lifecycle, event: &Event, actions: &[Action]) {
        match event {
            Event::HookEnded { attempt, .. }
            | Event::ContainerStartFailed { attempt, .. }
            | Event::ContainerConfigUnavailable { attempt, .. }
            | Event::ImageNotAdded { attempt, .. }
            | Event::ContainerExited { attempt, .. } => {
                self.hooked.remove(attempt);
            }
            Event::SandboxFailed { .. }
            | Event::SandboxLost { .. }
            | Event::SupervisorRestarted { .. }
            | Event::SupervisorRestartedAlone { .. } => self.hooked.clear(),
            _ => {}
        }
        // The hook of a container that is stopped before it runs never runs.
        self.hooked.retain(|attempt| {
            let active = pod.containers[attempt.container].active();
            active.is_none_or(|active| {
                active.attempt != attempt.number || active.stop.is_none() || active.running.is_some()
            })
        });
        let mut last = None;
        for action in actions {
            match action {
                Action::StartContainer { attempt } => {
                    assert!(self.hooked.is_empty(), "{action:?} while hooks run: {:?}", self.hooked);
                    assert!(last.replace(attempt.container) < Some(attempt.container), "{actions:?}");
                    if pod.containers[attempt.container].plan.post_start {
                        self.hooked.insert(*attempt);
                    }
                }
                Action::RunHook {
                    attempt,
                    hook: Hook::PostStart,
                    ..
                } => {
                    self.hooked.insert(*attempt);
                }
                Action::CancelHook { attempt, .. } | Action::KillContainer { attempt } => {
                    self.hooked.remove(attempt);
                }
                _ => {}
            }
        }
    }

    fn check(&mut self, pod: &Lifecycle, event: &Event, actions: &[Action]) {
        self.check_starts(pod, event, actions);
        if let Event::SupervisorRestarted { .. } | Event::SupervisorRestartedAlone { .. } = event {
            self.sandbox_is_starting = false;
        }
        if let Event::SandboxReady { .. } | Event::SandboxFailed { .. } | Event::SandboxLost { .. } = event {
            self.sandbox_is_starting = false;
        }
        if let Event::SupervisorRestarted { .. } = event {
            self.started.clear();
            self.stopped.clear();
            self.grace_ends_at = None;
        }
        // The container was not created, so the attempt may be repeated.
        match event {
            Event::ContainerStartFailed { attempt, reason, .. } if reason.starts_with("Create") => {
                self.started.remove(attempt);
            }
            Event::ContainerConfigUnavailable { attempt, .. } | Event::ImageNotAdded { attempt, .. } => {
                self.started.remove(attempt);
            }
            _ => {}
        }
        for action in actions {
            match action {
                Action::StartContainer { attempt } => {
                    assert!(self.started.insert(*attempt), "{action:?} twice");
                    assert!(!self.sandbox_is_stopped, "{action:?} after the sandbox was stopped");
                    assert!(!pod.is_terminating(), "{action:?} of a Pod that is ending");
                }
                Action::StartSandbox => {
                    assert!(!self.sandbox_is_stopped && !pod.is_terminating(), "{action:?}");
                    assert!(
                        !std::mem::replace(&mut self.sandbox_is_starting, true),
                        "{action:?} twice"
                    );
                }
                Action::RunHook { .. } | Action::RunProbe { .. } | Action::PullImage { .. } => {
                    assert!(!self.sandbox_is_stopped, "{action:?} after the sandbox was stopped");
                }
                Action::StopContainer { attempt } => {
                    assert!(self.stopped.insert(*attempt), "{action:?} twice");
                }
                // Another sandbox follows one that is replaced.
                Action::StopSandbox => self.sandbox_is_stopped = !pod.sandbox.is_replaced,
                Action::KillContainer { .. } | Action::CancelHook { .. } | Action::Emit(_) => {}
            }
        }
        if let Some(phase) = self.phase.filter(|phase| phase.is_terminal()) {
            assert_eq!(phase, pod.phase, "a terminal phase was left");
        }
        self.phase = Some(pod.phase);
        if let (Some(before), Some(now)) = (self.grace_ends_at, &pod.termination) {
            assert!(now.ends_at <= before, "the grace period grew");
        }
        self.grace_ends_at = pod.termination.as_ref().map(|termination| termination.ends_at);
        let status = pod.status(Duration::ZERO);
        let init = status.init_container_statuses.into_iter().flatten();
        let counts: Vec<i32> = init
            .chain(status.container_statuses.into_iter().flatten())
            .map(|container| container.restart_count)
            .collect();
        for (before, now) in self.restart_counts.iter().zip(&counts) {
            assert!(before <= now, "a restartCount decreased");
        }
        self.restart_counts = counts;
        assert!(
            !pod.has_ended() || pod.deadline().is_none(),
            "a Pod that has ended waits for something"
        );
    }
}

proptest! {
    #[test]
    fn no_sequence_of_events_breaks_an_invariant(spec in spec(), moves in moves()) {
        let mut pod = Lifecycle::new(&pod_of(spec), at(0));
        let mut watch = Watch::default();
        let mut now = at(0);
        let mut open: Vec<Action> = Vec::new();
        let mut started: Vec<ContainerAttempt> = Vec::new();
        let mut step = |pod: &mut Lifecycle, now: Time, event: Event, open: &mut Vec<Action>, started: &mut Vec<ContainerAttempt>| {
            let actions = pod.step(now, event.clone());
            watch.check(pod, &event, &actions);
            // Every action that was due was requested.
            assert!(pod.deadline().is_none_or(|deadline| deadline > now), "{event:?} left {:?} due", pod.deadline());
            for action in &actions {
                if let Action::StartContainer { attempt } = action {
                    started.push(*attempt);
                }
            }
            open.extend(actions);
            let text = serde_json::to_string(pod).unwrap();
            assert_eq!(&serde_json::from_str::<Lifecycle>(&text).unwrap(), pod, "the Pod differs after it was written and read");
        };
        step(&mut pod, now, Event::Begin, &mut open, &mut started);
        for (one, pause) in moves {
            now += secs(pause);
            let event = match one {
                Move::Answer(which, fine) if !open.is_empty() => {
                    let action = open.remove(which.index(open.len()));
                    match answer(&action, fine) {
                        Some(event) => event,
                        None => continue,
                    }
                }
                Move::Exit(which, code) if !started.is_empty() => {
                    let attempt = started.remove(which.index(started.len()));
                    Event::ContainerExited { attempt, exit: exit(code) }
                }
                Move::Answer(..) | Move::Exit(..) | Move::Wait => {
                    let Some(deadline) = pod.deadline() else { continue };
                    now = now.max(deadline);
                    Event::DeadlineReached
                }
                Move::Any(event) => event,
                Move::Restart(lost) => {
                    let lives = |(index, container): (usize, &Container)| {
                        let active = container.active().filter(|_| !lost[index % lost.len()])?;
                        Some((active.attempt_of(index), active.running.is_some() || index % 2 == 0))
                    };
                    let found: Vec<_> = pod.containers.iter().enumerate().filter_map(lives).collect();
                    let (running, starting): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, runs)| *runs);
                    Event::SupervisorRestarted {
                        found: running.into_iter().map(|(attempt, _)| FoundAttempt { attempt, has_ended: false }).collect(),
                        starting: starting.into_iter().map(|(attempt, _)| attempt).collect(),
                    }
                }
            };
            step(&mut pod, now, event, &mut open, &mut started);
        }
        // Without further answers, a Pod that is asked to end does so within its grace period and the time for the
        // kills.
        step(&mut pod, now, Event::TerminateRequested { grace: None, deletion: true }, &mut open, &mut started);
        let latest = now + secs(40) + MINIMUM_GRACE + MINIMUM_GRACE + KILL_PATIENCE + secs(30);
        let mut steps = 0;
        while let Some(deadline) = pod.deadline() {
            now = now.max(deadline);
            step(&mut pod, now, Event::DeadlineReached, &mut open, &mut started);
            steps += 1;
            prop_assert!(steps < 1000, "the Pod does not end");
        }
        prop_assert!(pod.has_ended());
        prop_assert!(now <= latest);
    }
}
