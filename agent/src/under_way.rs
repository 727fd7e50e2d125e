//! Calls in progress, by id. If a call is made again while it is in progress, both callers get the same answer. A
//! supervisor that takes over a VM uses this to repeat the requests of its predecessor.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use crate::lock::lock;

/// A call whose answer goes to all its callers.
pub type Call<T> = Shared<BoxFuture<'static, T>>;

/// All calls of one kind that have not been answered yet.
#[derive(Debug)]
pub struct UnderWay<T> {
    calls: Arc<Mutex<HashMap<String, Call<T>>>>,
}

impl<T> Default for UnderWay<T> {
    fn default() -> Self {
        Self { calls: Arc::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> UnderWay<T> {
    /// Returns the call with this id, and makes it if it is not in progress. It continues even if no caller waits for
    /// it any more. `broken` is the answer to a call that panics.
    pub fn join(
        &self,
        id: &str,
        call: impl Future<Output = T> + Send + 'static,
        broken: impl Fn(tokio::task::JoinError) -> T + Send + 'static,
    ) -> Call<T> {
        let mut calls = lock(&self.calls);
        if let Some(call) = calls.get(id) {
            return call.clone();
        }
        let (key, all) = (id.to_owned(), Arc::clone(&self.calls));
        let task = tokio::spawn(async move {
            // Create the guard only here: a runtime that is shutting down drops new tasks immediately, while we hold
            // the lock.
            let _end = End { id: key, calls: all };
            call.await
        });
        let call = task.map(move |answer| answer.unwrap_or_else(broken)).boxed().shared();
        calls.insert(id.to_owned(), call.clone());
        call
    }

    /// The ids in order.
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = lock(&self.calls).keys().cloned().collect();
        ids.sort();
        ids
    }
}

/// Removes a call when it is over, however it ends.
struct End<T> {
    id: String,
    calls: Arc<Mutex<HashMap<String, Call<T>>>>,
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        let call = lock(&self.calls).remove(&self.id);
        drop(call);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn a_call_repeated_while_it_runs_is_made_once() {
        let (calls, made) = (UnderWay::default(), Arc::new(AtomicU32::new(0)));
        let (may_end, ends) = watch::channel(false);
        let call = || {
            let (made, mut ends) = (Arc::clone(&made), ends.clone());
            let call = async move {
                made.fetch_add(1, Ordering::Relaxed);
                let _ = ends.wait_for(|may| *may).await;
                Ok::<_, String>(7)
            };
            calls.join("web-0", call, |error| Err(error.to_string()))
        };
        drop(call());
        let (one, other) = (call(), call());
        assert_eq!(calls.ids(), ["web-0"]);
        may_end.send_replace(true);
        assert_eq!((one.await, other.await), (Ok(7), Ok(7)));
        assert_eq!(made.load(Ordering::Relaxed), 1);
        assert!(calls.ids().is_empty());
        assert_eq!(call().await, Ok(7));
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_call_that_panics_is_answered_and_forgotten() {
        let calls = UnderWay::default();
        let call = calls.join("web-0", async { panic!("of the test") }, |_| "broken");
        assert_eq!(call.await, "broken");
        assert!(calls.ids().is_empty());
    }
}
