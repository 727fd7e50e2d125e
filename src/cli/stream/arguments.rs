//! Common arguments of `exec` and `attach`: a container of a Pod, and how to connect to it.

use anyhow::bail;

use super::target;
use crate::cli::completion;
use crate::pod::recorded_pod::RecordedPod;
use crate::state::Paths;

/// A container, and how this process's standard streams are connected to a process in it.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SessionArgs {
    /// Pod name: NAME or pod/NAME
    #[arg(value_name = "POD", add = completion::pod_names())]
    pod: String,
    /// Container name [default: the kubectl.kubernetes.io/default-container annotation, or the first container]
    #[arg(short, long, value_name = "NAME", add = completion::containers())]
    pub(in crate::cli) container: Option<String>,
    /// Pass stdin to the container
    #[arg(short = 'i', long)]
    pub(in crate::cli) stdin: bool,
    /// Use this terminal as the container's TTY; requires -i
    #[arg(short = 't', long)]
    pub(in crate::cli) tty: bool,
    /// Only print output from the container
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
    /// Namespace of the Pod
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
}

impl SessionArgs {
    /// The Pod, if any of its containers may still run. Otherwise the error says that `what` is impossible.
    pub(in crate::cli) fn target(&self, paths: &Paths, what: &str) -> anyhow::Result<RecordedPod> {
        let target = target::find(paths, &self.namespace, &self.pod)?;
        if target.is_completed() {
            bail!(
                "cannot {what} a container in a completed pod; current phase is {}",
                target.phase()
            );
        }
        Ok(target)
    }
}
