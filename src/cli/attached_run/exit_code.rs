//! What the command returns when the connection to its container is over.

use anyhow::bail;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, PodStatus};

use super::super::print::for_terminal;
use super::super::stream::running::{Waited, described, is_terminal, last_end, why_not_running};
use super::{Following, is_attempt_running};
use crate::stderr::PREFIX;

impl Following<'_, '_> {
    /// Waits for the Pod's end; returns the container's exit code.
    pub(super) async fn exit_code(&mut self) -> anyhow::Result<u8> {
        let (namespace, name) = (&self.record.namespace, &self.record.name);
        let status = match self.wait(is_terminal).await? {
            Waited::Until(status) => status,
            Waited::TimedOut(status) => {
                let phase = status.phase.as_deref().unwrap_or("Pending");
                bail!("timed out waiting for the condition: pod {namespace}/{name} left in phase {phase}");
            }
            Waited::Signal(number) => return Ok(self.interrupted(number)),
        };
        let end = last_end(&status, &self.container.name);
        match (status.phase.as_deref(), end) {
            (Some("Succeeded"), _) => Ok(0),
            (_, Some(end)) if end.exit_code != 0 => {
                let reason = end.reason.as_deref().unwrap_or("Unknown");
                let message = end.message.as_deref().map(str::trim_end).unwrap_or_default();
                let text = format!("pod {namespace}/{name} terminated ({reason})\n{message}");
                self.console.tell(for_terminal(&text).trim_end());
                Ok(u8::try_from(end.exit_code).unwrap_or(1))
            }
            _ => {
                let reason = why_not_running(&status, &self.container.name);
                let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                bail!("pod {namespace}/{name} failed with unknown exit code{reason}");
            }
        }
    }

    /// Waits until the attempt with this container ID ends and returns how it ended; `Err` if a signal arrives first.
    async fn end_of(&mut self, id: Option<&str>) -> anyhow::Result<Result<Option<ContainerStateTerminated>, u8>> {
        let container = self.container;
        let is_over = |status: &PodStatus| is_terminal(status) || !is_attempt_running(status, container, id);
        Ok(match self.wait(is_over).await? {
            Waited::Until(status) => Ok(last_end(&status, &container.name).cloned()),
            Waited::TimedOut(_) => Ok(None),
            Waited::Signal(number) => Err(number),
        })
    }

    /// Waits until the Pod has succeeded; a container that fails is restarted.
    pub(super) async fn success(&mut self, id: Option<&str>) -> anyhow::Result<u8> {
        let (pod, container) = (&self.record.name, &self.container.name);
        let timeout = self.options.pod_running_timeout;
        match self.end_of(id).await? {
            Err(number) => return Ok(self.interrupted(number)),
            Ok(Some(end)) if end.exit_code != 0 => self.console.tell(&format!(
                "{PREFIX}pod {pod:?}: container {container:?} {}; --restart=OnFailure restarts it; waiting up to {timeout:?} for the \
                 Pod to succeed (use --restart=Never to return the container's exit code)",
                described(&end),
            )),
            Ok(_) => {}
        }
        match self.wait(is_terminal).await? {
            Waited::Until(status) if status.phase.as_deref() == Some("Succeeded") => Ok(0),
            Waited::Until(status) => {
                let reason = why_not_running(&status, container);
                bail!(
                    "pod {pod:?} failed: {}",
                    reason.as_deref().unwrap_or("its status gives no reason")
                )
            }
            Waited::TimedOut(status) => {
                let end =
                    last_end(&status, container).map(|end| format!(": container {container:?} {}", described(end)));
                bail!(
                    "timed out waiting for the condition: pod {pod:?} has not succeeded{}",
                    end.unwrap_or_default()
                )
            }
            Waited::Signal(number) => Ok(self.interrupted(number)),
        }
    }

    /// The exit code is always 0; a message reports the container's if that differs.
    pub(super) async fn ignored(&mut self, id: Option<&str>, leave_stdin_open: bool) -> anyhow::Result<u8> {
        let end = match self.end_of(id).await? {
            Ok(end) => end,
            Err(number) => return Ok(self.interrupted(number)),
        };
        if let Some(end) = end.filter(|end| end.exit_code != 0) {
            let why = match leave_stdin_open {
                true => "with --leave-stdin-open it does not wait for the Pod to end",
                false => "--restart=Always restarts the container (use --restart=Never to return its exit code)",
            };
            self.console.tell(&format!(
                "{PREFIX}pod {:?}: container {:?} {}; this command's exit code is 0: {why}",
                self.record.name,
                self.container.name,
                described(&end),
            ));
        }
        Ok(0)
    }
}
