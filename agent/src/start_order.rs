//! The order in which containers start. The host may name a container that starts before another: the command of the
//! second is executed when the first has started or failed. All preparation happens for both at the same time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use crate::lock::lock;

/// How long to wait for the request of the container that starts first. The host sends it first, but requests are
/// served concurrently.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(10);

/// How long the starts in progress may delay an answer about all containers.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Number of starts that are remembered. The host names one of the latest.
const REMEMBERED: usize = 512;

/// All recent starts.
#[derive(Debug)]
pub struct StartOrder {
    /// Ids, each with a channel that is closed when the start is over.
    starts: Mutex<VecDeque<(String, watch::Receiver<()>)>>,
    arrivals: watch::Sender<()>,
}

/// A start in progress; dropping it ends the start.
#[derive(Debug)]
pub struct Start {
    _over: watch::Sender<()>,
}

/// The start that another start waits for.
#[derive(Debug)]
pub enum Turn {
    /// For the end of a start that is in progress or over.
    After(watch::Receiver<()>),
    /// For the end of a start whose request has not arrived yet.
    AfterArrival(String),
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

    /// Begins the start of container `id`, whose turn comes after the start of container `after`; an empty id means no
    /// other container.
    ///
    /// Only earlier requests count: a container that is requested again because it could not be created waits neither
    /// for itself nor for one that waits for it.
    pub fn begin(&self, id: &str, after: &str) -> (Start, Option<Turn>) {
        let (sender, receiver) = watch::channel(());
        let turn = {
            let mut starts = self.lock();
            let before = starts.iter().rev().find(|(other, _)| other == after);
            let turn = match before {
                Some((_, start)) => Some(Turn::After(start.clone())),
                None if after.is_empty() || after == id => None,
                None => Some(Turn::AfterArrival(after.to_owned())),
            };
            starts.push_back((id.to_owned(), receiver));
            if starts.len() > REMEMBERED {
                starts.pop_front();
            }
            turn
        };
        self.arrivals.send_replace(());
        (Start { _over: sender }, turn)
    }

    /// Waits until the other start is over, whether it succeeded or not. If that start is not requested, the wait is
    /// short.
    pub async fn come(&self, turn: Turn) {
        let mut start = match turn {
            Turn::After(start) => start,
            Turn::AfterArrival(id) => match tokio::time::timeout(ARRIVAL_PATIENCE, self.arrival(&id)).await {
                Ok(start) => start,
                Err(_) => return,
            },
        };
        // The channel carries no messages: this loop ends with the start.
        while start.changed().await.is_ok() {}
    }

    async fn arrival(&self, id: &str) -> watch::Receiver<()> {
        let mut arrivals = self.arrivals.subscribe();
        loop {
            let found = self.lock().iter().find(|(other, _)| other == id).cloned();
            match found {
                Some((_, start)) => return start,
                // This object owns the sender, so the wait cannot fail.
                None => drop(arrivals.changed().await),
            }
        }
    }

    /// Waits until the starts in progress are over, but not for long.
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

    /// Waits for the turn of a container that starts after another one.
    async fn turn(order: &StartOrder, id: &str, after: &str) {
        let (_start, turn) = order.begin(id, after);
        if let Some(turn) = turn {
            order.come(turn).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_is_awaited_to_its_end_even_if_its_request_arrives_late() {
        let order = Arc::new(StartOrder::default());
        let waiting = {
            let order = Arc::clone(&order);
            tokio::spawn(async move { turn(&order, "x-0", "a-0").await })
        };
        tokio::task::yield_now().await;
        let other = order.begin("b-0", "");
        let start = order.begin("a-0", "");
        drop(other);
        tokio::time::sleep(100 * ARRIVAL_PATIENCE).await;
        assert!(!waiting.is_finished());
        drop(start);
        waiting.await.unwrap();
        turn(&order, "y-0", "a-0").await;
        let begun = Instant::now();
        order.all_over().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let _start = order.begin("c-0", "");
        order.all_over().await;
        assert_eq!(begun.elapsed(), START_PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_is_never_requested_delays_others_only_briefly() {
        let order = StartOrder::default();
        let begun = Instant::now();
        turn(&order, "b-0", "a-0").await;
        assert_eq!(begun.elapsed(), ARRIVAL_PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_start_waits_neither_for_itself_nor_for_its_waiters() {
        let order = StartOrder::default();
        let begun = Instant::now();
        drop(order.begin("a-0", ""));
        turn(&order, "a-0", "a-0").await;
        let (_b, after_a) = order.begin("b-0", "a-0");
        let (again, after_b) = order.begin("a-0", "b-0");
        // The other container waits for its first request.
        order.come(after_a.unwrap()).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(matches!(after_b, Some(Turn::After(_))));
        drop(again);
        assert!(order.begin("c-0", "c-0").1.is_none());
    }

    #[tokio::test]
    async fn the_latest_start_of_an_id_counts_and_old_ones_are_dropped() {
        let order = StartOrder::default();
        let first = order.begin("a-0", "");
        drop(order.begin("a-0", ""));
        turn(&order, "b-0", "a-0").await;
        drop(first);
        let all: Vec<_> = (0..2 * REMEMBERED).map(|n| order.begin(&n.to_string(), "")).collect();
        assert_eq!(order.lock().len(), REMEMBERED);
        drop(all);
        turn(&order, "b-1", &(2 * REMEMBERED - 1).to_string()).await;
    }
}
