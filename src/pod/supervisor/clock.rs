//! The time as a Pod's lifecycle is told it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::pod::lifecycle::Time;

/// Wall-clock time that never jumps while this process runs.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    start_time: Time,
}

impl Clock {
    /// Begins with the time of the host.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            start_time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// Now.
    pub fn now(&self) -> Time {
        self.start_time.saturating_add(self.start.elapsed())
    }

    /// Waits for a time; for ever without one.
    pub async fn wait_until(&self, time: Option<Time>) {
        match time {
            Some(time) => tokio::time::sleep_until(self.instant(time)).await,
            None => std::future::pending().await,
        }
    }

    /// When it is that time.
    fn instant(&self, time: Time) -> tokio::time::Instant {
        let ahead = time.saturating_sub(self.start_time);
        // Centuries ahead is as good as never.
        let far = self.start + Duration::from_secs(1 << 31);
        tokio::time::Instant::from_std(self.start.checked_add(ahead).unwrap_or(far).min(far))
    }
}
