//! The order in which containers start. The host may name a container that goes before another: the command of the second is executed when the
//! first has been started, or could not be. Everything before that is done for both at the same time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use crate::lock::lock;

/// How long the request for the container that goes before may take to arrive. The host sends it first, but requests are served at the same
/// time.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(10);

/// How long the starts that are under way may hold up an answer about all containers.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// So many starts are remembered. A host names one of the last.
const REMEMBERED: usize = 512;

/// All starts that were asked for lately.
#[derive(Debug)]
pub struct StartOrder {
    /// Ids and what is closed when the start is over.
    starts: Mutex<VecDeque<(String, watch::Receiver<()>)>>,
    arrivals: watch::Sender<()>,
}

/// A start that is under way, until this is dropped.
#[derive(Debug)]
pub struct Start {
    _over: watch::Sender<()>,
}

impl Default for StartOrder {
    fn default() -> Self {
        Self {
            starts: Mutex::default(),
            arrivals: watch::Sender::new(()),
        }
    }
}

impl StartOrder {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, watch::Receiver<()>)>> {
        lock(&self.starts)
    }

    /// The start of a container begins.
    pub fn begin(&self, id: &str) -> Start {
        let (sender, receiver) = watch::channel(());
        {
            let mut starts = self.lock();
            starts.push_back((id.to_owned(), receiver));
            if starts.len() > REMEMBERED {
                starts.pop_front();
            }
        }
        self.arrivals.send_replace(());
        Start { _over: sender }
    }

    /// Waits until the start of a container is over, whatever came of it. One that nobody asks for is not waited for long.
    pub async fn over(&self, id: &str) {
        let mut arrivals = self.arrivals.subscribe();
        let arrived = async {
            loop {
                let found = self.lock().iter().rev().find(|(other, _)| other == id).cloned();
                match found {
                    Some((_, start)) => return start,
                    // The sender is this very object's.
                    None => drop(arrivals.changed().await),
                }
            }
        };
        if let Ok(mut start) = tokio::time::timeout(ARRIVAL_PATIENCE, arrived).await {
            // Nothing is ever sent: this ends with the start.
            while start.changed().await.is_ok() {}
        }
    }

    /// Waits until the starts that are under way are over, but not long.
    pub async fn all_over(&self) {
        let starts: Vec<_> = self.lock().iter().map(|(_, start)| start.clone()).collect();
        let over = async {
            for mut start in starts {
                while start.changed().await.is_ok() {}
            }
        };
        let _ = tokio::time::timeout(START_PATIENCE, over).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_start_is_waited_for_to_its_end_also_when_its_request_comes_late() {
        let order = Arc::new(StartOrder::default());
        let waiting = {
            let order = Arc::clone(&order);
            tokio::spawn(async move { order.over("a-0").await })
        };
        tokio::task::yield_now().await;
        let other = order.begin("b-0");
        let start = order.begin("a-0");
        drop(other);
        tokio::time::sleep(100 * ARRIVAL_PATIENCE).await;
        assert!(!waiting.is_finished());
        drop(start);
        waiting.await.unwrap();
        order.over("a-0").await;
        let begun = Instant::now();
        order.all_over().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let _start = order.begin("c-0");
        order.all_over().await;
        assert_eq!(begun.elapsed(), START_PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_nobody_asks_for_holds_up_nothing_for_long() {
        let order = StartOrder::default();
        let begun = Instant::now();
        order.over("a-0").await;
        assert_eq!(begun.elapsed(), ARRIVAL_PATIENCE);
    }

    #[tokio::test]
    async fn the_last_start_of_an_id_counts_and_old_ones_are_forgotten() {
        let order = StartOrder::default();
        let first = order.begin("a-0");
        drop(order.begin("a-0"));
        order.over("a-0").await;
        drop(first);
        let all: Vec<_> = (0..2 * REMEMBERED).map(|n| order.begin(&n.to_string())).collect();
        assert_eq!(order.lock().len(), REMEMBERED);
        drop(all);
        order.over(&(2 * REMEMBERED - 1).to_string()).await;
    }
}
