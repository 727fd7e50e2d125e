//! The host resources of a VM, while a task acquires them.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::supervised_pod::SupervisedPod;
use crate::pod::host_resources::{self, HostResources};

/// The host resources of a VM, while or after a task acquires them. The task cannot be stopped half-way, and resources
/// that it created after the Pod's release would be leaked, so a release waits for it.
#[derive(Debug)]
pub struct PendingResources {
    making: JoinHandle<()>,
    /// The resources, which can be taken once. `None` if a start of the VM has taken them.
    pub result: Option<oneshot::Receiver<anyhow::Result<HostResources>>>,
}

impl PendingResources {
    /// Starts to acquire the resources.
    pub fn begin(pod: &Arc<SupervisedPod>) -> Self {
        let pod = Arc::clone(pod);
        Self::of(async move { host_resources::acquire(&pod.privileges, &pod.record).await })
    }

    fn of(make: impl Future<Output = anyhow::Result<HostResources>> + Send + 'static) -> Self {
        let (sender, receiver) = oneshot::channel();
        let making = tokio::spawn(async move {
            // The receiver is gone if the VM was abandoned.
            let _ = sender.send(make.await);
        });
        Self {
            making,
            result: Some(receiver),
        }
    }

    /// Waits until the task has ended.
    pub async fn finish(self) {
        drop(self.result);
        let _ = self.making.await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn abandoned_resources_are_awaited_even_after_a_cancelled_start() {
        for is_taken in [false, true] {
            let made = Arc::new(AtomicBool::new(false));
            let mut pending = PendingResources::of({
                let made = Arc::clone(&made);
                async move {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    made.store(true, Ordering::Relaxed);
                    anyhow::bail!("no resources")
                }
            });
            if is_taken {
                let result = pending.result.take().unwrap();
                let starting = tokio::spawn(result);
                tokio::task::yield_now().await;
                starting.abort();
            }
            pending.finish().await;
            assert!(made.load(Ordering::Relaxed), "{is_taken}");
        }
    }
}
