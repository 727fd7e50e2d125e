//! Which Pods a command line refers to, in kubectl's notations.

use k8s_openapi::api::core::v1::Pod;

use super::super::namespace::NamespaceArg;
use super::super::selector::Selector;

/// Which Pods of one namespace or of all.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct ScopeArgs {
    #[command(flatten)]
    pub(in crate::cli) namespace: NamespaceArg,
    /// Use Pods of all namespaces
    #[arg(short = 'A', long)]
    pub(in crate::cli) all_namespaces: bool,
}

impl ScopeArgs {
    /// The namespace; `None` means all.
    pub(in crate::cli) fn namespace(&self) -> Option<String> {
        (!self.all_namespaces).then(|| self.namespace.or_default())
    }
}

/// Pods by their labels.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct SelectorArg {
    /// Label selector to filter Pods: a=b, a!=b, a in (b,c), a notin (b), a, !a
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = str::parse::<Selector>)]
    pub(in crate::cli) selector: Option<Selector>,
}

/// A Pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct PodName {
    /// `None` means any.
    pub(in crate::cli) namespace: Option<String>,
    pub(in crate::cli) name: String,
}

impl PodName {
    /// The name of a Pod.
    pub(in crate::cli) fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone().unwrap_or_default(),
        }
    }

    /// Whether it refers to a Pod with this namespace and name.
    pub(in crate::cli) fn is(&self, namespace: &str, name: &str) -> bool {
        self.name == name && self.namespace.as_ref().is_none_or(|own| own == namespace)
    }
}

/// The selected Pods.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Scope {
    /// `None` means all namespaces, or those of the names.
    pub(in crate::cli) namespace: Option<String>,
    /// If empty, all Pods of the namespace that match the selector.
    pub(in crate::cli) names: Vec<PodName>,
    pub(in crate::cli) selector: Selector,
}

impl Scope {
    /// Pods with these names, in one namespace or in any.
    pub(in crate::cli) fn of_names<'n>(namespace: Option<&str>, names: impl IntoIterator<Item = &'n str>) -> Self {
        let name = |name: &str| PodName {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        };
        Self {
            namespace: namespace.map(str::to_owned),
            names: names.into_iter().map(name).collect(),
            selector: Selector::default(),
        }
    }
}

/// The error for a Pod that does not exist.
pub(in crate::cli) fn not_found(name: &str) -> anyhow::Error {
    anyhow::anyhow!("Error (NotFound): pods {name:?} not found")
}
