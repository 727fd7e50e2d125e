//! The Pod's socket, where command lines reach its supervisor.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::Order;
use super::container::container_id;
use super::session;
use crate::pod::attach;
use crate::pod::guest_process::GuestProcesses;
use crate::pod::lifecycle::Event;
use crate::pod::output::Output;
use crate::pod::prepare;
use crate::pod::sandbox::AgentClientHandle;
use crate::state::{Paths, PodRecord, PodRecords};

/// Command lines that are served at once.
const MAX_SESSIONS: usize = 256;

/// What sessions see of a Pod.
#[derive(Debug, Clone)]
pub struct Running {
    names: Arc<Vec<String>>,
    /// The Pod's streams.
    pub output: Arc<Output>,
    records: PodRecords,
    uid: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    machine: Option<(AgentClientHandle, GuestProcesses)>,
    /// By name, the ids of containers that run.
    containers: HashMap<String, String>,
}

impl Running {
    /// Nothing runs yet.
    pub fn new(records: PodRecords, record: &PodRecord, output: Arc<Output>) -> Self {
        let names = prepare::containers(&record.pod).map(|container| container.name.clone());
        Self {
            names: Arc::new(names.collect()),
            output,
            records,
            uid: record.uid.as_str().into(),
            state: Arc::default(),
        }
    }

    /// Makes the Pod one that there is not any more, to all but this supervisor.
    ///
    /// # Errors
    /// Why that cannot be written down.
    pub async fn hide(&self) -> anyhow::Result<()> {
        let (records, uid) = (self.records.clone(), Arc::clone(&self.uid));
        Ok(tokio::task::spawn_blocking(move || records.hide(&uid)).await??)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine has changed; with it go its containers.
    pub fn machine_is(&self, machine: Option<(AgentClientHandle, GuestProcesses)>) {
        *self.state() = State {
            machine,
            containers: HashMap::new(),
        };
    }

    /// A container was found running.
    pub fn found(&self, container: usize, id: &str) {
        if let Some(name) = self.names.get(container) {
            self.state().containers.insert(name.clone(), id.to_owned());
        }
    }

    /// Notes what an event says of containers.
    pub fn note(&self, event: &Event) {
        match event {
            Event::ContainerStarted {
                container,
                container_id,
                ..
            } => self.found(*container, container_id),
            Event::ContainerExited { container, attempt, .. } => {
                let Some(name) = self.names.get(*container) else { return };
                let ended = container_id(name, *attempt);
                self.state().containers.retain(|_, id| *id != ended);
            }
            _ => {}
        }
    }

    /// The agent.
    pub fn agent(&self) -> Option<AgentClientHandle> {
        self.state().machine.as_ref().map(|(agent, _)| agent.clone())
    }

    /// The containers that run, with their ids.
    pub fn containers(&self) -> Vec<(String, String)> {
        let state = self.state();
        let entries = state.containers.iter();
        entries.map(|(name, id)| (name.clone(), id.clone())).collect()
    }

    /// Where a container runs.
    ///
    /// # Errors
    /// Why it is not to be had, in kubectl's words.
    pub fn container(&self, name: &str) -> Result<(String, GuestProcesses), String> {
        let state = self.state();
        if !self.names.iter().any(|known| known == name) {
            return Err(format!("container not found ({name:?})"));
        }
        let (Some((_, processes)), Some(id)) = (&state.machine, state.containers.get(name)) else {
            return Err(format!("container {name:?} is not running"));
        };
        Ok((id.clone(), processes.clone()))
    }
}

/// Accepts command lines as long as it lives.
#[derive(Debug)]
pub struct Server {
    task: AbortHandle,
}

impl Server {
    /// Listens on the Pod's socket.
    pub fn listen(paths: &Paths, uid: &str, running: Running, orders: mpsc::Sender<Order>) -> anyhow::Result<Self> {
        let directory = paths.pod_run(uid);
        let listen = || {
            let listener = attach::listen(&directory)?;
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        };
        let listener =
            listen().with_context(|| format!("cannot listen on {}", paths.supervisor_socket(uid).display()))?;
        let task = tokio::spawn(accept(listener, running, orders));
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

async fn accept(listener: UnixListener, running: Running, orders: mpsc::Sender<Order>) {
    let sessions = Arc::new(Semaphore::new(MAX_SESSIONS));
    loop {
        // Waits for a session to end rather than refusing the next one.
        let Ok(permit) = Arc::clone(&sessions).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (running, orders) = (running.clone(), orders.clone());
                tokio::spawn(async move {
                    serve(stream, running, orders).await;
                    drop(permit);
                });
            }
            Err(error) => return tracing::error!("command lines cannot reach this Pod any more: {error}"),
        }
    }
}

async fn serve(stream: UnixStream, running: Running, orders: mpsc::Sender<Order>) {
    if let Err(error) = session::serve(stream, running, orders).await {
        tracing::debug!("a session ended early: {error:#}");
    }
}
