//! What the command line that stays attached is told of its Pod's life: once that all containers were started, and how each ended.

use std::sync::Arc;
use std::time::Instant;

use super::supervised_pod::SupervisedPod;
use crate::pod::attach::{Frame, Notice};
use crate::pod::lifecycle::Event;
use crate::pod::prepare;
use crate::pod::timings::Stage;

/// What was told, and what is to be.
#[derive(Debug)]
pub struct ClientReport {
    pod: Arc<SupervisedPod>,
    stages: Vec<Stage>,
    /// By the container's number.
    started: Vec<bool>,
    start: Instant,
    /// Since the machine was there.
    container_start: Option<Instant>,
    announced: bool,
}

impl ClientReport {
    /// The Pod begins.
    pub fn new(pod: Arc<SupervisedPod>) -> Self {
        let count = prepare::containers(&pod.record.pod).count();
        Self {
            pod,
            stages: Vec::new(),
            started: vec![false; count],
            start: Instant::now(),
            container_start: None,
            announced: false,
        }
    }

    /// Adds stages of the start.
    pub fn add_stages(&mut self, stages: impl IntoIterator<Item = Stage>) {
        // Nobody is told of those of a later machine.
        if self.pod.client.is_some() && !self.announced {
            self.stages.extend(stages);
        }
    }

    /// Takes in what happened, and tells of containers that ended.
    pub async fn note(&mut self, event: &Event) {
        let (container, exit_code, reason, message) = match event {
            Event::SandboxReady { .. } => {
                self.container_start.get_or_insert_with(Instant::now);
                return;
            }
            Event::ContainerStarted { container, .. } => {
                if let Some(started) = self.started.get_mut(*container) {
                    *started = true;
                }
                return;
            }
            Event::ContainerExited { container, exit, .. } => {
                (*container, exit.code, exit.reason.clone(), exit.message.clone())
            }
            Event::ContainerStartFailed {
                container,
                reason,
                message,
                ..
            } => (*container, 128, reason.clone(), Some(message.clone())),
            _ => return,
        };
        self.tell(Notice::ContainerEnded {
            container: u16::try_from(container).unwrap_or(u16::MAX),
            exit_code,
            reason,
            message,
        })
        .await;
    }

    /// Tells what the user should know while the Pod goes on.
    pub async fn warn(&self, text: String) {
        self.tell(Notice::Warning(text)).await;
    }

    /// Says once that all containers were started, in the machine with this address.
    pub async fn announce(&mut self, pod_ip: Option<&str>) {
        if self.pod.client.is_none() || self.announced {
            return;
        }
        let Some(pod_ip) = pod_ip else { return };
        if !self.started.iter().all(|started| *started) {
            return;
        }
        self.announced = true;
        if let Some(start) = self.container_start {
            self.stages.push(Stage::since("container", start));
        }
        self.stages.push(Stage::since("total", self.start));
        let notice = Notice::Running {
            pod_ip: pod_ip.to_owned(),
            stages: std::mem::take(&mut self.stages),
        };
        self.tell(notice).await;
    }

    async fn tell(&self, notice: Notice) {
        if let Some(client) = &self.pod.client {
            let _ = client.send(Frame::Notice(notice)).await;
        }
    }
}
