//! Retries: after increasing waits, for as long as the registry asks, and a limited number of times.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use microkube_base::causes::with_causes;

use super::limits::Limits;
use crate::error::PullError;

/// The attempts at one operation.
#[derive(Debug)]
pub(super) struct Backoff {
    limits: Limits,
    failures: u32,
    next_wait: Duration,
}

impl Backoff {
    pub fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            failures: 0,
            next_wait: limits.first_wait,
        }
    }

    /// Resets the failures after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
        self.next_wait = self.limits.first_wait;
    }

    /// Waits for the next attempt, or returns the error if there were enough attempts.
    pub async fn after(&mut self, error: PullError) -> Result<(), PullError> {
        self.failures += 1;
        let asked = error.retry_after().unwrap_or_default();
        if self.failures >= self.limits.attempts || asked > self.limits.longest_retry_after {
            return Err(error);
        }
        tracing::debug!(error = %with_causes(&error), "trying again");
        tokio::time::sleep(asked + spread(self.next_wait)).await;
        self.next_wait = (self.next_wait * 2).min(self.limits.longest_wait);
        Ok(())
    }
}

/// A random wait between half and all of `wait`, so that clients that failed together do not retry together.
fn spread(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) % 1024;
    wait / 2 + wait / 2 * u32::try_from(random).unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(retry_after: Option<Duration>) -> PullError {
        PullError::Registry {
            registry: "r.example".into(),
            detail: "busy".into(),
            transient: true,
            retry_after,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_up_to_the_last_attempt() {
        let limits = Limits {
            attempts: 4,
            ..Limits::default()
        };
        let mut backoff = Backoff::new(&limits);
        let mut waits = Vec::new();
        loop {
            let start = tokio::time::Instant::now();
            if backoff.after(busy(None)).await.is_err() {
                break;
            }
            waits.push(start.elapsed().as_millis());
        }
        assert_eq!(waits.len(), 3);
        for (wait, longest) in waits.iter().zip([500, 1000, 2000]) {
            assert!((longest / 2..=longest + 2).contains(wait), "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_may_request_a_wait_up_to_the_limit() {
        let mut backoff = Backoff::new(&Limits::default());
        let start = tokio::time::Instant::now();
        backoff.after(busy(Some(Duration::from_secs(40)))).await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(40));
        assert!(backoff.after(busy(Some(Duration::from_secs(61)))).await.is_err());
    }
}
