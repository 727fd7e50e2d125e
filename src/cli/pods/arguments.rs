//! Which Pods a command line refers to, in kubectl's notations.

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::Pod;

use super::super::completion;
use super::super::failure::Failure;
use super::super::manifests::{self, FilenameArgs};
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

/// Pods by name, on the command line or in manifests.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct ResourceArgs {
    /// All Pods (`pods`), or Pods by name (`pod a b` or `pod/a pod/b`)
    #[arg(value_name = "pods [NAME]|pod/NAME", add = completion::pods())]
    pub(in crate::cli) resources: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) files: FilenameArgs,
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
    /// The Pods selected by these arguments; standard input may already have been read.
    ///
    /// # Errors
    /// If the arguments contradict each other, or a manifest cannot be read or is invalid.
    pub(in crate::cli) fn new(
        resources: &ResourceArgs,
        scope: &ScopeArgs,
        selector: &SelectorArg,
    ) -> Result<(Self, Option<Vec<u8>>), Failure> {
        let ResourceArgs { resources, files } = resources;
        if files.filename.is_empty() {
            let scope = Self::of_resources(resources, scope, selector).map_err(Failure::usage)?;
            return Ok((scope, None));
        }
        let contradiction = match (resources.as_slice(), &selector.selector) {
            ([], None) => None,
            ([], Some(_)) => Some("-f and a selector (-l) cannot be combined: use one of them"),
            _ => {
                Some("when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well")
            }
        };
        if let Some(contradiction) = contradiction {
            return Err(Failure::usage(anyhow!(contradiction)));
        }
        let loaded = manifests::load_into(files, &scope.namespace)?;
        let names: Vec<PodName> = loaded.manifests.pods.iter().map(PodName::of).collect();
        let first = names.first().and_then(|first| first.namespace.clone());
        let is_one_namespace = names.iter().all(|name| name.namespace == first);
        let scope = Self {
            namespace: first.filter(|_| is_one_namespace && !scope.all_namespaces),
            names,
            selector: Selector::default(),
        };
        Ok((scope, loaded.consumed_stdin))
    }

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

    fn of_resources(resources: &[String], scope: &ScopeArgs, selector: &SelectorArg) -> anyhow::Result<Self> {
        let names = pod_names(resources)?;
        if !names.is_empty() && selector.selector.is_some() {
            bail!("name cannot be provided when a selector is specified");
        }
        if !names.is_empty() && scope.all_namespaces {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        Ok(Self {
            selector: selector.selector.clone().unwrap_or_default(),
            ..Self::of_names(scope.namespace().as_deref(), names.iter().map(String::as_str))
        })
    }
}

/// The error for a Pod that does not exist.
pub(in crate::cli) fn not_found(name: &str) -> anyhow::Error {
    anyhow::anyhow!("Error (NotFound): pods {name:?} not found")
}

/// The names in `pods`, `pods a b`, or `pod/a pod/b`.
///
/// # Errors
/// If a resource is not a Pod: microkube has no others.
pub(in crate::cli) fn pod_names(resources: &[String]) -> anyhow::Result<Vec<String>> {
    let Some(first) = resources.first() else {
        bail!("You must specify the type of resource to get: pods, pods NAME or pod/NAME, or manifests with -f");
    };
    if first.contains('/') {
        return resources.iter().map(|resource| pod_name(resource)).collect();
    }
    check_type(first)?;
    let names: Vec<String> = resources.iter().skip(1).cloned().collect();
    if names.iter().any(|name| name.contains('/')) {
        bail!(
            "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. \
             'get pod/<name>' instead of 'get pods pod/<name>')"
        );
    }
    Ok(names)
}

/// The name in `pod/NAME`.
///
/// # Errors
/// As [`pod_names`].
pub(in crate::cli) fn pod_name(resource: &str) -> anyhow::Result<String> {
    match resource.split_once('/') {
        Some((kind, name)) if !name.is_empty() && !name.contains('/') => {
            check_type(kind)?;
            Ok(name.to_owned())
        }
        _ => bail!("arguments in resource/name form must have a single resource and name: {resource:?}"),
    }
}

fn check_type(kind: &str) -> anyhow::Result<()> {
    if ["pod", "pods", "po", "pods.v1", "pod.v1"].contains(&kind.to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    bail!("microkube doesn't have a resource type {kind:?}, only pods")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(resources: &[&str]) -> Result<Vec<String>, String> {
        let resources: Vec<_> = resources.iter().map(|text| (*text).to_owned()).collect();
        pod_names(&resources).map_err(|error| error.to_string())
    }

    #[test]
    fn pods_can_be_named_in_every_kubectl_notation() {
        assert_eq!(names(&["pods"]).unwrap(), Vec::<String>::new());
        assert_eq!(names(&["po", "a", "b"]).unwrap(), ["a", "b"]);
        assert_eq!(names(&["pod/a", "Pods/b"]).unwrap(), ["a", "b"]);
        for (resources, part) in [
            (&["nodes"][..], "doesn't have a resource type \"nodes\""),
            (&["pods", "pod/a"], "no need to specify a resource type"),
            (&["pod/a", "b"], "resource/name form"),
            (&["pod/"], "resource/name form"),
            (&["pod/a/b"], "resource/name form"),
            (&["job/a"], "resource type \"job\""),
            (&[], "You must specify the type"),
        ] {
            let error = names(resources).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
