//! Decides whether and when a container is restarted after its end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::interface::Time;
use super::plan::{ContainerPlan, PodPlan, RestartPolicy, Role};

/// The kubelet checks its containers once a second (`plegRelistPeriod`). For this long, the status shows the end of a
/// container or the failure of a pull; then it shows the back-off.
pub const RELIST_PERIOD: Duration = Duration::from_secs(1);

/// The first back-off (`backOffPeriod` of the kubelet), and how long the kubelet waits before it retries a failed
/// operation that has no back-off.
pub const FIRST_BACK_OFF: Duration = Duration::from_secs(10);

/// The longest back-off (`MaxContainerBackOff`).
const MAX_BACK_OFF: Duration = Duration::from_secs(300);

/// After this time without a failure, the next failure counts as the first.
const RESET_AFTER: Duration = Duration::from_secs(600);

/// Whether a container is restarted after it ended with this code (`ContainerShouldRestart` in
/// `pkg/api/v1/pod/util.go`). Init containers that succeeded and ephemeral containers are never restarted, under any
/// policy.
pub fn restarts(pod: &PodPlan, container: &ContainerPlan, exit_code: u8) -> bool {
    if (container.role == Role::Init && exit_code == 0) || container.is_ephemeral() {
        return false;
    }
    match container.restart_policy {
        Some(policy) => match container.restart_rule(exit_code) {
            Some(rule) if !rule.restarts_all => true,
            _ => policy.restarts(exit_code),
        },
        None if container.role == Role::Init => pod.restart_policy != RestartPolicy::Never,
        None => pod.restart_policy.restarts(exit_code),
    }
}

/// Whether a container that is killed because of a failed probe is restarted. This is decided before it has ended, so
/// its exit code does not count.
pub fn restarts_after_probe(pod: &PodPlan, container: &ContainerPlan) -> bool {
    container.restart_policy.unwrap_or(pod.restart_policy) != RestartPolicy::Never
}

/// The kubelet's back-off (`flowcontrol.Backoff`): no wait at first, then 10 s, doubled each time up to 5 minutes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BackOff {
    /// Zero before the first failure.
    delay: Duration,
    updated_at: Time,
}

impl BackOff {
    /// How long to wait after a failure at `at`.
    pub fn wait_after(&self, at: Time) -> Duration {
        if self.is_expired(at) {
            Duration::ZERO
        } else {
            self.delay
        }
    }

    /// Lengthens the next wait after a failure at `failed_at`. The time until the back-off is reset counts from `now`.
    pub fn lengthen(&mut self, failed_at: Time, now: Time) {
        self.delay = if self.delay.is_zero() || self.is_expired(failed_at) {
            FIRST_BACK_OFF
        } else {
            self.delay.saturating_mul(2).min(MAX_BACK_OFF)
        };
        self.updated_at = now;
    }

    fn is_expired(&self, at: Time) -> bool {
        at.saturating_sub(self.updated_at) > RESET_AFTER
    }
}
