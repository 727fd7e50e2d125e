//! The namespace that a command line names.

/// The namespace of the Pods.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct NamespaceArg {
    /// The Pods' namespace [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
}

impl NamespaceArg {
    /// The namespace, named or not.
    pub(super) fn or_default(&self) -> String {
        self.namespace.clone().unwrap_or_else(|| "default".to_owned())
    }
}
