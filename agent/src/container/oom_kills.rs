//! Records when the kernel last killed a process of a container because memory ran out. If the container ends soon
//! afterwards, the kill counts as the reason; if it ends later, it does not.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::Instant;

use super::cgroup::Cgroup;
use crate::lock::lock;

/// If a parent ends this soon after its child was killed, the kill counts as the reason.
pub const RECENT_KILL_WINDOW: Duration = Duration::from_secs(10);

/// Minimum time between two reads of the counter: a container at its limit changes the file all the time.
const PAUSE: Duration = Duration::from_secs(1);

/// The kernel's counter of out-of-memory kills, and when it last rose.
#[derive(Debug, Default)]
pub struct OomKills {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    count: u64,
    rose_at: Option<Instant>,
}

/// The out-of-memory kills before a container's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomKill {
    /// No process was killed.
    Never,
    /// More than [`RECENT_KILL_WINDOW`] earlier.
    Earlier,
    /// Within [`RECENT_KILL_WINDOW`].
    Recent,
}

impl OomKills {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Records the current value of the counter.
    pub fn note(&self, count: u64) {
        let mut seen = self.lock();
        if count > seen.count {
            *seen = Seen {
                count,
                rose_at: Some(Instant::now()),
            };
        }
    }

    /// The last kill that was recorded.
    pub fn last(&self) -> OomKill {
        match self.lock().rose_at {
            None => OomKill::Never,
            Some(at) if at.elapsed() <= RECENT_KILL_WINDOW => OomKill::Recent,
            Some(_) => OomKill::Earlier,
        }
    }

    /// Records the counter whenever it may have changed. Never returns.
    pub async fn follow(&self, cgroup: &Cgroup) {
        match cgroup.memory_events() {
            Ok(events) => loop {
                self.note(cgroup.oom_kills());
                tokio::time::sleep(PAUSE).await;
                match events.ready(Interest::PRIORITY).await {
                    Ok(mut change) => change.clear_ready(),
                    Err(_) => std::future::pending().await,
                }
            },
            // The kernel has no such controller, or does not notify: the value at the end must suffice.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_oom_kill_is_recent_for_a_while_after_the_counter_increases() {
        let kills = OomKills::default();
        kills.note(0);
        assert_eq!(kills.last(), OomKill::Never);
        kills.note(1);
        tokio::time::advance(RECENT_KILL_WINDOW).await;
        kills.note(1);
        assert_eq!(kills.last(), OomKill::Recent);
        tokio::time::advance(Duration::from_secs(1)).await;
        kills.note(1);
        assert_eq!(kills.last(), OomKill::Earlier, "the kill may be hours ago");
        kills.note(3);
        assert_eq!(kills.last(), OomKill::Recent);
    }
}
