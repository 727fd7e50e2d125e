//! When the kernel last killed a process of a container for want of memory: an end soon after that may be due to it, a later one is not.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::Instant;

use super::cgroup::Cgroup;
use crate::lock::lock;

/// How long after such a kill of a child the end of its parent may be due to it.
pub const LATELY: Duration = Duration::from_secs(10);

/// How often the counter is looked at, at most: a container at its limit changes its file all the time.
const PAUSE: Duration = Duration::from_secs(1);

/// The kernel's counter of such kills, and when it rose last.
#[derive(Debug, Default)]
pub struct OomKills {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    count: u64,
    rose_at: Option<Instant>,
}

/// What it says at a container's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomKill {
    /// No process was killed so.
    Never,
    /// Some time before.
    Earlier,
    /// Within [`LATELY`].
    Lately,
}

impl OomKills {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Takes the counter in, as it is now.
    pub fn note(&self, count: u64) {
        let mut seen = self.lock();
        if count > seen.count {
            *seen = Seen {
                count,
                rose_at: Some(Instant::now()),
            };
        }
    }

    /// What is known by now.
    pub fn last(&self) -> OomKill {
        match self.lock().rose_at {
            None => OomKill::Never,
            Some(at) if at.elapsed() <= LATELY => OomKill::Lately,
            Some(_) => OomKill::Earlier,
        }
    }

    /// Takes the counter in whenever it may have changed. Never ends.
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
            // The kernel has no such controller, or nobody is told: what was seen at the end counts then.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_kill_is_of_late_for_a_while_after_the_counter_rose() {
        let kills = OomKills::default();
        kills.note(0);
        assert_eq!(kills.last(), OomKill::Never);
        kills.note(1);
        tokio::time::advance(LATELY).await;
        kills.note(1);
        assert_eq!(kills.last(), OomKill::Lately);
        tokio::time::advance(Duration::from_secs(1)).await;
        kills.note(1);
        assert_eq!(kills.last(), OomKill::Earlier, "hours ago, for instance");
        kills.note(3);
        assert_eq!(kills.last(), OomKill::Lately);
    }
}
