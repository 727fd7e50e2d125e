//! The namespace argument.

use super::completion;

/// The namespace of the Pods.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct NamespaceArg {
    /// Namespace of the Pods [default: default]
    #[arg(short, long, value_name = "NAMESPACE", add = completion::namespaces())]
    pub(super) namespace: Option<String>,
}

impl NamespaceArg {
    /// The given namespace, or the default.
    pub(super) fn or_default(&self) -> String {
        self.namespace.clone().unwrap_or_else(|| "default".to_owned())
    }
}
