//! Runs probes and hooks. Each runs in a task that reports its result.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::task::AbortHandle;

use super::running_machine::Guest;
use super::supervised_pod::SupervisedPod;
use crate::pod::guest_process::{GuestProcesses, RunError};
use crate::pod::lifecycle::{ContainerAttempt, Event, Hook, HookOutcome, ProbeKind, ProbeOutcome};
use crate::pod::probe::{self, Exec, ExecError, ExecOutput, Outcome, Target};

/// The running probes and hooks of a Pod.
#[derive(Debug)]
pub struct Handlers {
    pod: Arc<SupervisedPod>,
    /// Running hooks that can be cancelled.
    hooks: HashMap<(ContainerAttempt, Hook), AbortHandle>,
}

impl Handlers {
    pub fn new(pod: Arc<SupervisedPod>) -> Self {
        Self {
            pod,
            hooks: HashMap::new(),
        }
    }

    /// Runs a hook of an attempt.
    pub fn run_hook(&mut self, guest: Guest, attempt: ContainerAttempt, hook: Hook, timeout: Option<Duration>) {
        let Some(container) = self.reach(guest, attempt) else {
            return;
        };
        let handler = container.spec.lifecycle.as_ref().and_then(|lifecycle| match hook {
            Hook::PostStart => lifecycle.post_start.clone(),
            Hook::PreStop => lifecycle.pre_stop.clone(),
        });
        let Some(handler) = handler else { return };
        let task = tokio::spawn(async move {
            let ran = probe::run_hook(&handler, &container.target(), timeout, &container.exec).await;
            let outcome = match ran {
                Ok(()) => HookOutcome::Success,
                Err(error) => HookOutcome::Failure(error.to_string()),
            };
            container.pod.report(Event::HookEnded { attempt, hook, outcome });
        });
        self.hooks.insert((attempt, hook), task.abort_handle());
    }

    /// Removes a hook that has ended.
    pub fn note(&mut self, event: &Event) {
        if let Event::HookEnded { attempt, hook, .. } = event {
            self.hooks.remove(&(*attempt, *hook));
        }
    }

    pub fn cancel_hook(&mut self, attempt: ContainerAttempt, hook: Hook) {
        if let Some(running) = self.hooks.remove(&(attempt, hook)) {
            running.abort();
        }
    }

    /// Runs a probe of an attempt once.
    pub fn run_probe(&self, guest: Guest, attempt: ContainerAttempt, kind: ProbeKind) {
        let Some(container) = self.reach(guest, attempt) else {
            return;
        };
        let probe: Option<Probe> = match kind {
            ProbeKind::Liveness => container.spec.liveness_probe.clone(),
            ProbeKind::Readiness => container.spec.readiness_probe.clone(),
            ProbeKind::Startup => container.spec.startup_probe.clone(),
        };
        let Some(probe) = probe else { return };
        tokio::spawn(async move {
            let outcome = match probe::probe(&probe, &container.target(), &container.exec).await {
                Outcome::Success => ProbeOutcome::Success,
                Outcome::Warning(message) => ProbeOutcome::Warning(message),
                Outcome::Failure(message) => ProbeOutcome::Failure(message),
                Outcome::Unknown(message) => ProbeOutcome::Unknown(message),
            };
            container.pod.report(Event::ProbeEnded {
                attempt,
                probe: kind,
                outcome,
            });
        });
    }

    /// Finds the container of an attempt. `None` if the Pod has no such container.
    fn reach(&self, guest: Guest, attempt: ContainerAttempt) -> Option<GuestContainer> {
        Some(GuestContainer {
            pod: Arc::clone(&self.pod),
            spec: self.pod.container(attempt.container)?,
            pod_ip: guest.pod_ip,
            exec: GuestExec {
                processes: guest.processes,
                container_id: self.pod.container_id(attempt),
            },
        })
    }
}

/// A container, with the means to reach it.
#[derive(Debug)]
struct GuestContainer {
    pod: Arc<SupervisedPod>,
    spec: Container,
    pod_ip: IpAddr,
    exec: GuestExec,
}

impl GuestContainer {
    fn target(&self) -> Target<'_> {
        Target {
            pod: &self.pod.record.pod,
            container: &self.spec,
            pod_ip: self.pod_ip,
        }
    }
}

/// Runs the commands of probes and hooks in one container.
#[derive(Debug)]
struct GuestExec {
    processes: GuestProcesses,
    container_id: String,
}

impl Exec for GuestExec {
    async fn run(&self, command: &[String], timeout: Option<Duration>) -> Result<ExecOutput, ExecError> {
        let run = self
            .processes
            .run(&self.container_id, command, timeout, probe::OUTPUT_MAX_BYTES);
        match run.await {
            Ok((exit_code, output)) => Ok(ExecOutput {
                exit_code: exit_code.into(),
                output,
            }),
            Err(RunError::TimedOut) => Err(ExecError::TimedOut),
            Err(RunError::Failed(message)) => Err(ExecError::Failed(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::supervised_pod::test_pod;
    use super::*;

    #[tokio::test]
    async fn finished_hooks_are_removed() {
        let (pod, _messages) = test_pod(true);
        let mut handlers = Handlers::new(pod);
        let attempt = |number| ContainerAttempt::new(0, number);
        for number in 0..3 {
            let hook = tokio::spawn(std::future::pending::<()>());
            handlers
                .hooks
                .insert((attempt(number), Hook::PostStart), hook.abort_handle());
        }
        for number in [0, 2, 7] {
            handlers.note(&Event::HookEnded {
                attempt: attempt(number),
                hook: Hook::PostStart,
                outcome: HookOutcome::Success,
            });
        }
        let kept: Vec<_> = handlers.hooks.keys().collect();
        assert_eq!(kept, [&(attempt(1), Hook::PostStart)]);
    }
}
