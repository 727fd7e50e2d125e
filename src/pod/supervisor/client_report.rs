//! Reports a Pod's progress to the attached command line: that all containers have started, once, and how each one
//! ended.

use std::sync::Arc;
use std::time::Instant;

use super::supervised_pod::SupervisedPod;
use crate::pod::container_order::containers;
use crate::pod::lifecycle::{Event, is_create_error};
use crate::pod::supervisor_protocol::PodNotice;
use crate::pod::timings::Stage;

/// The reported state, and the collected data for the next report.
#[derive(Debug)]
pub struct ClientReport {
    pod: Arc<SupervisedPod>,
    stages: Vec<Stage>,
    /// By container number.
    started: Vec<bool>,
    /// What each container waits for, as last reported, by container number.
    waits: Vec<Option<String>>,
    start: Instant,
    /// When the VM was ready.
    container_start: Option<Instant>,
    announced: bool,
}

impl ClientReport {
    pub fn new(pod: Arc<SupervisedPod>) -> Self {
        let count = containers(&pod.record.pod).count();
        Self {
            pod,
            stages: Vec::new(),
            started: vec![false; count],
            waits: vec![None; count],
            start: Instant::now(),
            container_start: None,
            announced: false,
        }
    }

    /// Adds stages of the Pod's start.
    pub fn add_stages(&mut self, stages: impl IntoIterator<Item = Stage>) {
        // Stages of later VMs are not reported.
        if self.pod.client.is_some() && !self.announced {
            self.stages.extend(stages);
        }
    }

    /// Processes an event, and reports containers that ended.
    pub async fn note(&mut self, event: &Event) {
        let (container, exit_code, reason, message) = match event {
            Event::SandboxReady { .. } => {
                self.container_start.get_or_insert_with(Instant::now);
                return;
            }
            Event::Evicted { message } => {
                return self.warn(format!("the Pod is evicted: {}", message.trim_end())).await;
            }
            Event::ContainerConfigUnavailable { attempt, message } => {
                return self.note_wait(attempt.container, message).await;
            }
            Event::ContainerStarted { attempt, .. } => {
                if let Some(wait) = self.waits.get_mut(attempt.container) {
                    *wait = None;
                }
                if let Some(started) = self.started.get_mut(attempt.container) {
                    *started = true;
                }
                return;
            }
            Event::ContainerExited { attempt, exit } => {
                (attempt.container, exit.code, exit.reason.clone(), exit.message.clone())
            }
            Event::ContainerStartFailed {
                attempt,
                reason,
                message,
                // A create error ends the Pod, and becomes the error of the whole command.
            } if !is_create_error(reason) => (attempt.container, 128, reason.clone(), Some(message.clone())),
            _ => return,
        };
        // The command line does not know containers that were added later.
        if self.pod.is_ephemeral(container) {
            return;
        }
        self.tell(PodNotice::ContainerEnded {
            container: u16::try_from(container).unwrap_or(u16::MAX),
            exit_code,
            reason,
            message,
        })
        .await;
    }

    /// Tells the user once what a container waits for.
    async fn note_wait(&mut self, container: usize, message: &str) {
        let Some(wait) = self.waits.get_mut(container) else {
            return;
        };
        if wait.as_deref() != Some(message) {
            *wait = Some(message.to_owned());
            let name = self.pod.container_name(container);
            self.warn(format!("container {name:?} is waiting: {message}")).await;
        }
    }

    /// Sends a warning to the user; the Pod continues.
    pub async fn warn(&self, text: String) {
        self.pod.warn(text).await;
    }

    /// Reports once that all containers have started, in the VM with this address.
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
        let notice = PodNotice::Running {
            pod_ip: pod_ip.to_owned(),
            stages: std::mem::take(&mut self.stages),
        };
        self.tell(notice).await;
    }

    async fn tell(&self, notice: PodNotice) {
        if let Some(client) = &self.pod.client {
            let _ = client.send(notice.into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::pod::lifecycle::ContainerAttempt;
    use crate::pod::supervisor::supervised_pod::{test_pod, test_pod_with};
    use crate::pod::supervisor_protocol::{Notice, SupervisorFrame};

    #[tokio::test]
    async fn the_start_of_all_containers_is_reported_once_with_its_stages() {
        let (client, mut frames) = mpsc::channel(8);
        let (pod, _messages) = test_pod_with(false, Some(client));
        let mut report = ClientReport::new(pod);
        report.add_stages([Stage::new("image", std::time::Duration::ZERO)]);
        report.announce(None).await;
        report.announce(Some("10.0.0.2")).await;
        assert!(frames.try_recv().is_err(), "nothing was started");
        report
            .note(&Event::SandboxReady {
                pod_ip: "10.0.0.2".to_owned(),
                host_ip: "10.0.0.1".to_owned(),
            })
            .await;
        let started = Event::ContainerStarted {
            attempt: ContainerAttempt::new(0, 0),
            container_id: "web-0".to_owned(),
            user: None,
        };
        report.note(&started).await;
        report.announce(Some("10.0.0.2")).await;
        report.announce(Some("10.0.0.2")).await;
        let Ok(SupervisorFrame::Notice(Notice::Pod(PodNotice::Running { pod_ip, stages }))) = frames.try_recv() else {
            panic!("it runs");
        };
        let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(
            (pod_ip.as_str(), names),
            ("10.0.0.2", vec!["image", "container", "total"])
        );
        assert!(frames.try_recv().is_err(), "once");
    }

    #[tokio::test]
    async fn the_user_is_told_once_what_a_container_waits_for() {
        let (client, mut frames) = mpsc::channel(8);
        let (pod, _messages) = test_pod_with(false, Some(client));
        let mut report = ClientReport::new(pod);
        let attempt = ContainerAttempt::new(0, 0);
        let waits = |message: &str| Event::ContainerConfigUnavailable {
            attempt,
            message: message.to_owned(),
        };
        let started = Event::ContainerStarted {
            attempt,
            container_id: "web-0".to_owned(),
            user: None,
        };
        for event in [waits("no a"), waits("no a"), waits("no b"), started, waits("no b")] {
            report.note(&event).await;
        }
        let mut told = Vec::new();
        while let Ok(SupervisorFrame::Notice(Notice::Pod(PodNotice::Warning(text)))) = frames.try_recv() {
            told.push(text);
        }
        assert_eq!(
            told,
            [
                "container \"web\" is waiting: no a",
                "container \"web\" is waiting: no b",
                "container \"web\" is waiting: no b"
            ]
        );
    }

    #[tokio::test]
    async fn a_container_that_could_not_start_ended_with_128() {
        let (client, mut frames) = mpsc::channel(8);
        let (pod, _messages) = test_pod_with(false, Some(client));
        let failed = Event::ContainerStartFailed {
            attempt: ContainerAttempt::new(0, 0),
            reason: "StartError".to_owned(),
            message: "no such file".to_owned(),
        };
        ClientReport::new(pod).note(&failed).await;
        assert_eq!(
            frames.try_recv().unwrap(),
            SupervisorFrame::from(PodNotice::ContainerEnded {
                container: 0,
                exit_code: 128,
                reason: "StartError".to_owned(),
                message: Some("no such file".to_owned()),
            })
        );
        // A detached Pod has no client.
        let (pod, _messages) = test_pod(true);
        ClientReport::new(pod).note(&failed).await;
    }
}
