//! The clock of a Pod's lifecycle.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::pod::lifecycle::Time;

/// Wall-clock time that never jumps while this process runs.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    start_time: Time,
}

impl Clock {
    /// Starts with the host's time.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            start_time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    pub fn now(&self) -> Time {
        self.start_time.saturating_add(self.start.elapsed())
    }

    /// Waits until this time, or forever if there is none.
    pub async fn wait_until(&self, time: Option<Time>) {
        match time {
            Some(time) => tokio::time::sleep_until(self.instant(time)).await,
            None => std::future::pending().await,
        }
    }

    /// Converts a time for tokio.
    fn instant(&self, time: Time) -> tokio::time::Instant {
        let ahead = time.saturating_sub(self.start_time);
        // A time centuries ahead is never reached.
        let far = self.start + Duration::from_secs(1 << 31);
        tokio::time::Instant::from_std(self.start.checked_add(ahead).unwrap_or(far).min(far))
    }
}
