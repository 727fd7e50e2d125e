//! The view of a Pod for command-line sessions, while its supervisor drives it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::api::core::v1::Pod;
use microkube_base::lock::lock;
use tokio::sync::{Semaphore, watch};

use super::supervised_pod::{SupervisedPod, container_id};
use crate::pod::container_order;
use crate::pod::guest_process::GuestProcesses;
use crate::pod::guest_streams::GuestStreams;
use crate::pod::lifecycle::Event;
use crate::pod::pod_update;
use crate::pod::pod_version::PodVersions;
use crate::pod::sandbox::AgentClientHandle;

/// Maximum number of connections to ports of a Pod at a time. Each is also a session of the server, of which some must
/// remain for other commands.
pub const MAX_FORWARDED_CONNECTIONS: usize = 100;

/// The parts of a Pod that sessions can access.
#[derive(Debug, Clone)]
pub struct PodView {
    /// By container number.
    names: Arc<Mutex<Vec<String>>>,
    pub guest_streams: Arc<GuestStreams>,
    /// The connections to ports that may still be made.
    pub forwarded: Arc<Semaphore>,
    versions: PodVersions,
    uid: Arc<str>,
    state: Arc<Mutex<State>>,
    /// Changes whenever a container runs that did not, or the other way round.
    running_changes: watch::Sender<()>,
    current: watch::Receiver<Arc<Pod>>,
}

/// A container is not available. The messages are kubectl's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// The Pod has no container with this name.
    #[error("container not found ({name:?})")]
    NotFound {
        /// The requested name.
        name: String,
    },
    /// The container has not started, or has ended.
    #[error("container {name:?} is not running")]
    NotRunning {
        /// The requested name.
        name: String,
    },
}

#[derive(Debug, Default)]
struct State {
    machine: Option<(AgentClientHandle, GuestProcesses)>,
    /// Ids of the running containers, by name.
    containers: HashMap<String, String>,
}

impl PodView {
    /// The view of a Pod without a VM.
    pub fn new(pod: &SupervisedPod) -> Self {
        let names = container_order::names(&pod.current()).map(str::to_owned).collect();
        Self {
            names: Arc::new(Mutex::new(names)),
            guest_streams: Arc::clone(&pod.guest_streams),
            forwarded: Arc::new(Semaphore::new(MAX_FORWARDED_CONNECTIONS)),
            versions: PodVersions::new(&pod.paths),
            uid: pod.record.uid.as_str().into(),
            state: Arc::default(),
            running_changes: watch::Sender::new(()),
            current: pod.current.subscribe(),
        }
    }

    /// Whether finalizers keep the Pod after its end, so it cannot disappear at once.
    pub fn has_finalizers(&self) -> bool {
        pod_update::has_finalizers(&self.current.borrow())
    }

    /// Hides the Pod from all processes but this supervisor.
    ///
    /// # Errors
    /// If that cannot be recorded.
    pub async fn hide(&self) -> anyhow::Result<()> {
        let (versions, uid) = (self.versions.clone(), Arc::clone(&self.uid));
        Ok(tokio::task::spawn_blocking(move || versions.hide(&uid)).await??)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Sets a new VM, in which no container runs yet, or none.
    pub fn set_machine(&self, machine: Option<(AgentClientHandle, GuestProcesses)>) {
        *self.state() = State {
            machine,
            containers: HashMap::new(),
        };
        self.running_changes.send_replace(());
    }

    /// Adds a container that was added to the Pod.
    pub fn add_container(&self, name: &str) {
        lock(&self.names).push(name.to_owned());
    }

    fn name(&self, container: usize) -> Option<String> {
        lock(&self.names).get(container).cloned()
    }

    /// Adds a container that was found running.
    pub fn found(&self, container: usize, id: &str) {
        if let Some(name) = self.name(container) {
            self.state().containers.insert(name, id.to_owned());
            self.running_changes.send_replace(());
        }
    }

    /// Updates the running containers from an event.
    pub fn note(&self, event: &Event) {
        match event {
            Event::ContainerStarted {
                attempt, container_id, ..
            } => self.found(attempt.container, container_id),
            Event::ContainerExited { attempt, .. } => {
                let Some(name) = self.name(attempt.container) else {
                    return;
                };
                let ended = container_id(&name, attempt.number);
                self.state().containers.retain(|_, id| *id != ended);
                self.running_changes.send_replace(());
            }
            _ => {}
        }
    }

    pub fn agent(&self) -> Option<AgentClientHandle> {
        self.state().machine.as_ref().map(|(agent, _)| agent.clone())
    }

    /// Names and ids of the running containers.
    pub fn containers(&self) -> Vec<(String, String)> {
        let state = self.state();
        let entries = state.containers.iter();
        entries.map(|(name, id)| (name.clone(), id.clone())).collect()
    }

    /// Changes of [`Self::containers`] from now on.
    pub fn running_changes(&self) -> watch::Receiver<()> {
        self.running_changes.subscribe()
    }

    /// Id of a running container, and the means to start processes in it.
    ///
    /// # Errors
    /// [`ContainerError`].
    pub fn container(&self, name: &str) -> Result<(String, GuestProcesses), ContainerError> {
        let is_known = lock(&self.names).iter().any(|known| known == name);
        let state = self.state();
        if !is_known {
            return Err(ContainerError::NotFound { name: name.to_owned() });
        }
        let (Some((_, processes)), Some(id)) = (&state.machine, state.containers.get(name)) else {
            return Err(ContainerError::NotRunning { name: name.to_owned() });
        };
        Ok((id.clone(), processes.clone()))
    }
}
