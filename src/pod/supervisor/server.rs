//! The Pod's socket, on which its supervisor serves command lines.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::order::Order;
use super::pod_view::PodView;
use super::session;
use crate::pod::supervisor_protocol;
use crate::state::Paths;

/// Maximum number of command lines served at a time.
const MAX_SESSIONS: usize = 256;

/// Accepts command lines until this is dropped.
#[derive(Debug)]
pub struct Server {
    task: AbortHandle,
}

impl Server {
    /// Listens on the Pod's socket.
    pub fn listen(paths: &Paths, uid: &str, view: PodView, orders: mpsc::Sender<Order>) -> anyhow::Result<Self> {
        let directory = paths.pod_run(uid);
        let listen = || {
            let listener = supervisor_protocol::listen(&directory)?;
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        };
        let listener =
            listen().with_context(|| format!("cannot listen on {}", paths.supervisor_socket(uid).display()))?;
        let task = tokio::spawn(accept(listener, view, orders));
        Ok(Self {
            task: task.abort_handle(),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: UnixListener, view: PodView, orders: mpsc::Sender<Order>) {
    let sessions = Arc::new(Semaphore::new(MAX_SESSIONS));
    loop {
        // Wait for a session to end instead of refusing the next one.
        let Ok(permit) = Arc::clone(&sessions).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (view, orders) = (view.clone(), orders.clone());
                tokio::spawn(async move {
                    serve(stream, view, orders).await;
                    drop(permit);
                });
            }
            Err(error) => return tracing::error!("cannot accept connections from commands any more: {error}"),
        }
    }
}

async fn serve(stream: UnixStream, view: PodView, orders: mpsc::Sender<Order>) {
    if let Err(error) = session::serve(stream, view, orders).await {
        tracing::debug!("a session ended early: {error:#}");
    }
}
