//! Decides when probes are executed, and handles their results (`pkg/kubelet/prober/worker.go`, without its random
//! delay).

use std::time::Duration;

use super::event;
use super::interface::Time;
use super::interface::{Action, ContainerAttempt, ProbeKind, ProbeOutcome};
use super::state::Lifecycle;
use super::state::{Active, Cause};

/// How long after its timeout a probe's result may arrive. After that the probe is repeated, because a lost result must
/// not end the probing.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// The startup probe comes before the others. A container that is being stopped is only probed for readiness.
fn is_due(active: &Active, kind: ProbeKind) -> bool {
    let Some(running) = &active.running else { return false };
    active.is_up()
        && running.is_started != (kind == ProbeKind::Startup)
        && (active.stop.is_none() || kind == ProbeKind::Readiness)
}

impl Lifecycle {
    /// Sets the first execution times of a container's probes once they may start.
    pub(super) fn schedule_probes(&mut self, now: Time, index: usize) {
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let delays = ProbeKind::ALL.map(|kind| container.plan.probe(kind).map(|probe| probe.initial_delay));
        let Some(running) = container.active_mut().and_then(|active| active.running.as_mut()) else {
            return;
        };
        for (kind, delay) in ProbeKind::ALL.into_iter().zip(delays) {
            let delay = delay.unwrap_or_default();
            running.probes.of_mut(kind).next_at = running.started_at.saturating_add(delay).max(now);
        }
    }

    fn probe_due_at(&self, index: usize, kind: ProbeKind) -> Option<Time> {
        let container = self.containers.get(index)?;
        let plan = container.plan.probe(kind)?;
        let active = container.active().filter(|active| is_due(active, kind))?;
        let probing = active.running.as_ref()?.probes.of(kind);
        Some(match probing.asked_at {
            Some(at) => at.saturating_add(plan.timeout).saturating_add(ANSWER_PATIENCE),
            None => probing.next_at,
        })
    }

    /// When the next probe of the container is due.
    pub(super) fn probes_due_at(&self, index: usize) -> Option<Time> {
        ProbeKind::ALL
            .into_iter()
            .filter_map(|kind| self.probe_due_at(index, kind))
            .min()
    }

    pub(super) fn run_probes(&mut self, now: Time, out: &mut Vec<Action>) {
        for index in 0..self.containers.len() {
            for kind in ProbeKind::ALL {
                if self.probe_due_at(index, kind).is_none_or(|at| now < at) {
                    continue;
                }
                let Some(container) = self.containers.get_mut(index) else {
                    continue;
                };
                let period = container.plan.probe(kind).map_or(Duration::ZERO, |plan| plan.period);
                let Some(active) = container.active_mut() else {
                    continue;
                };
                let attempt = active.attempt_of(index);
                if let Some(running) = &mut active.running {
                    let probing = running.probes.of_mut(kind);
                    probing.asked_at = Some(now);
                    probing.next_at = now.saturating_add(period);
                    out.push(Action::RunProbe { attempt, probe: kind });
                }
            }
        }
    }

    pub(super) fn probe_ended(
        &mut self,
        now: Time,
        attempt: ContainerAttempt,
        kind: ProbeKind,
        outcome: ProbeOutcome,
        out: &mut Vec<Action>,
    ) {
        let index = attempt.container;
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let Some((success_threshold, failure_threshold)) = container
            .plan
            .probe(kind)
            .map(|plan| (plan.success_threshold, plan.failure_threshold))
        else {
            return;
        };
        let Some(active) = container.attempt_mut(attempt.number) else {
            return;
        };
        let counts = is_due(active, kind);
        let Some(running) = &mut active.running else { return };
        let probing = running.probes.of_mut(kind);
        if probing.asked_at.take().is_none() || !counts {
            return;
        }
        let result = match outcome {
            ProbeOutcome::Success => true,
            ProbeOutcome::Warning(output) => {
                out.push(event::probe_warning(index, kind, output));
                true
            }
            ProbeOutcome::Failure(output) => {
                out.push(event::unhealthy(index, kind, output));
                false
            }
            ProbeOutcome::Unknown(error) => return out.push(event::probe_errored(index, kind, error)),
        };
        probing.run_length = if probing.last == Some(result) {
            probing.run_length.saturating_add(1)
        } else {
            1
        };
        probing.last = Some(result);
        let threshold = if result { success_threshold } else { failure_threshold };
        if probing.run_length < threshold {
            return;
        }
        match (kind, result) {
            (ProbeKind::Readiness, ready) => running.is_ready = ready,
            (ProbeKind::Startup, true) => self.container_has_started(now, index),
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => self.stop_unhealthy(now, index, kind, out),
        }
    }

    /// Kills a container whose liveness or startup probe failed, with the probe's own grace period if it has one.
    fn stop_unhealthy(&mut self, now: Time, index: usize, kind: ProbeKind, out: &mut Vec<Action>) {
        let Some(container) = self.containers.get(index) else {
            return;
        };
        let grace = container.plan.probe(kind).and_then(|probe| probe.grace);
        let grace = grace.unwrap_or(self.plan.grace);
        self.stop_container(now, index, Cause::Probe(kind), grace, now.saturating_add(grace), out);
    }
}
