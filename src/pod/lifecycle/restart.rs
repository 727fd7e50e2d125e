//! Whether a container is started again after its end, and when.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::interface::Time;
use super::plan::{ContainerPlan, PodPlan, RestartPolicy, Role};

/// The kubelet looks at its containers once a second (`plegRelistPeriod`); so long one sees how a container or a pull ended before
/// one sees that it is waited for.
pub const RELIST_PERIOD: Duration = Duration::from_secs(1);

/// The first wait (`backOffPeriod` of the kubelet). It is also how long the kubelet waits before it tries something again that failed
/// without a back-off of its own.
pub const FIRST_BACK_OFF: Duration = Duration::from_secs(10);

/// The longest wait (`MaxContainerBackOff`).
const MAX_BACK_OFF: Duration = Duration::from_secs(300);

/// After so long without a failure the next one counts as the first.
const RESET_AFTER: Duration = Duration::from_secs(600);

/// Whether a container is restarted after it ended with this code (`ContainerShouldRestart` in `pkg/api/v1/pod/util.go`). Init containers
/// that succeeded are done, whatever the policy says.
pub fn restarts(pod: &PodPlan, container: &ContainerPlan, exit_code: u8) -> bool {
    if container.role == Role::Init && exit_code == 0 {
        return false;
    }
    match container.restart_policy {
        Some(policy) => {
            container.restart_rules.iter().any(|rule| rule.matches(exit_code)) || policy.restarts(exit_code)
        }
        None if container.role == Role::Init => pod.restart_policy != RestartPolicy::Never,
        None => pod.restart_policy.restarts(exit_code),
    }
}

/// Whether a container is restarted after its probe had it killed: decided before it has ended, so its exit code does not count.
pub fn restarts_after_probe(pod: &PodPlan, container: &ContainerPlan) -> bool {
    container.restart_policy.unwrap_or(pod.restart_policy) != RestartPolicy::Never
}

/// The kubelet's back-off (`flowcontrol.Backoff`): no wait at first, then 10 s, doubled every time up to 5 minutes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BackOff {
    /// Zero: nothing has failed yet.
    delay: Duration,
    updated_at: Time,
}

impl BackOff {
    /// How long to wait after what happened at `at`.
    pub fn wait_after(&self, at: Time) -> Duration {
        if self.is_expired(at) {
            Duration::ZERO
        } else {
            self.delay
        }
    }

    /// Makes the next wait longer, because what failed at `failed_at` is tried again (or is waited for) at `now`.
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
