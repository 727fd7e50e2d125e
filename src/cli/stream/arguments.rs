//! What `exec` and `attach` are told in the same words: a container of a Pod, and how to connect to it.

use anyhow::bail;

use super::target;
use crate::cli::completion;
use crate::pod::recorded_pod::RecordedPod;
use crate::state::Paths;

/// A container, and how this process's standard streams are connected to a process in it.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SessionArgs {
    /// The Pod: NAME or pod/NAME
    #[arg(value_name = "POD", add = completion::pod_names())]
    pod: String,
    /// The container [default: the Pod's default or first container]
    #[arg(short, long, value_name = "NAME", add = completion::containers())]
    pub(in crate::cli) container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub(in crate::cli) stdin: bool,
    /// Connect this terminal: with -i and on a terminal
    #[arg(short = 't', long)]
    pub(in crate::cli) tty: bool,
    /// Print nothing but what the container prints
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
    /// The Pod's namespace
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
}

impl SessionArgs {
    /// The Pod, if something of it may still run. `what` cannot be done otherwise.
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
