//! What sessions of command lines see of a Pod while its supervisor drives it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use microkube_base::lock::lock;

use super::supervised_pod::{SupervisedPod, container_id};
use crate::pod::container_order::containers;
use crate::pod::guest_process::GuestProcesses;
use crate::pod::guest_streams::GuestStreams;
use crate::pod::lifecycle::Event;
use crate::pod::sandbox::AgentClientHandle;
use crate::state::PodRecords;

/// What sessions see of a Pod.
#[derive(Debug, Clone)]
pub struct PodView {
    names: Arc<Vec<String>>,
    /// The Pod's streams.
    pub guest_streams: Arc<GuestStreams>,
    records: PodRecords,
    uid: Arc<str>,
    state: Arc<Mutex<State>>,
}

/// A container is not available, in kubectl's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// The Pod has none of this name.
    #[error("container not found ({name:?})")]
    NotFound {
        /// As given.
        name: String,
    },
    /// It has not started, or has ended.
    #[error("container {name:?} is not running")]
    NotRunning {
        /// As given.
        name: String,
    },
}

#[derive(Debug, Default)]
struct State {
    machine: Option<(AgentClientHandle, GuestProcesses)>,
    /// By name, the ids of containers that run.
    containers: HashMap<String, String>,
}

impl PodView {
    /// Nothing runs yet.
    pub fn new(pod: &SupervisedPod) -> Self {
        let names = containers(&pod.record.pod).map(|container| container.name.clone());
        Self {
            names: Arc::new(names.collect()),
            guest_streams: Arc::clone(&pod.guest_streams),
            records: PodRecords::new(pod.paths.clone()),
            uid: pod.record.uid.as_str().into(),
            state: Arc::default(),
        }
    }

    /// Hides the Pod from all but this supervisor.
    ///
    /// # Errors
    /// If that cannot be recorded.
    pub async fn hide(&self) -> anyhow::Result<()> {
        let (records, uid) = (self.records.clone(), Arc::clone(&self.uid));
        Ok(tokio::task::spawn_blocking(move || records.hide(&uid)).await??)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The machine has changed, and no container runs in the new one yet.
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
                attempt, container_id, ..
            } => self.found(attempt.container, container_id),
            Event::ContainerExited { attempt, .. } => {
                let Some(name) = self.names.get(attempt.container) else {
                    return;
                };
                let ended = container_id(name, attempt.number);
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
    /// [`ContainerError`].
    pub fn container(&self, name: &str) -> Result<(String, GuestProcesses), ContainerError> {
        let state = self.state();
        if !self.names.iter().any(|known| known == name) {
            return Err(ContainerError::NotFound { name: name.to_owned() });
        }
        let (Some((_, processes)), Some(id)) = (&state.machine, state.containers.get(name)) else {
            return Err(ContainerError::NotRunning { name: name.to_owned() });
        };
        Ok((id.clone(), processes.clone()))
    }
}
