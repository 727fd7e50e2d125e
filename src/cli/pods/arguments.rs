//! Which Pods a command line means, in kubectl's notations.

use anyhow::bail;

use super::super::completion;
use super::super::selector::Selector;

/// The namespace of the Pods.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct NamespaceArg {
    /// The Pods' namespace [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(in crate::cli) namespace: Option<String>,
}

impl NamespaceArg {
    /// The namespace, named or not.
    pub(in crate::cli) fn or_default(&self) -> String {
        self.namespace.clone().unwrap_or_else(|| "default".to_owned())
    }
}

/// Which Pods of one namespace or of all.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct ScopeArgs {
    #[command(flatten)]
    pub(in crate::cli) namespace: NamespaceArg,
    /// Pods of all namespaces
    #[arg(short = 'A', long)]
    pub(in crate::cli) all_namespaces: bool,
}

/// Pods by name.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct ResourceArgs {
    /// `pods`, alone or with names (`pods a b`), or `pod/NAME`
    #[arg(value_name = "pods [NAME]|pod/NAME", add = completion::pods())]
    pub(in crate::cli) resources: Vec<String>,
}

/// Pods by their labels.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct SelectorArg {
    /// Only Pods whose labels fit: a=b, a!=b, a in (b,c), a notin (b), a, !a
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = str::parse::<Selector>)]
    pub(in crate::cli) selector: Option<Selector>,
}

/// Which Pods are meant.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Scope {
    /// `None`: all.
    pub(in crate::cli) namespace: Option<String>,
    /// Empty: all that the selector selects.
    pub(in crate::cli) names: Vec<String>,
    pub(in crate::cli) selector: Selector,
}

impl Scope {
    /// Of these arguments.
    ///
    /// # Errors
    /// When the arguments contradict each other.
    pub(in crate::cli) fn new(
        resources: &ResourceArgs,
        scope: &ScopeArgs,
        selector: &SelectorArg,
    ) -> anyhow::Result<Self> {
        let names = pod_names(&resources.resources)?;
        if !names.is_empty() && selector.selector.is_some() {
            bail!("name cannot be provided when a selector is specified");
        }
        if !names.is_empty() && scope.all_namespaces {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        Ok(Self {
            namespace: (!scope.all_namespaces).then(|| scope.namespace.or_default()),
            names,
            selector: selector.selector.clone().unwrap_or_default(),
        })
    }

    /// What to say when there are no Pods.
    pub(in crate::cli) fn nothing_found(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("No resources found in {namespace} namespace."),
            None => "No resources found".to_owned(),
        }
    }
}

/// The error about a Pod that does not exist.
pub(in crate::cli) fn not_found(name: &str) -> anyhow::Error {
    anyhow::anyhow!("Error from server (NotFound): pods {name:?} not found")
}

/// The names in `pods`, `pods a b`, or `pod/a pod/b`.
///
/// # Errors
/// Kubernetes has other resources; microkube has Pods.
pub(in crate::cli) fn pod_names(resources: &[String]) -> anyhow::Result<Vec<String>> {
    let Some(first) = resources.first() else {
        bail!("You must specify the type of resource: pods");
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
    bail!("the server doesn't have a resource type {kind:?}: microkube has pods")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(resources: &[&str]) -> Result<Vec<String>, String> {
        let resources: Vec<_> = resources.iter().map(|text| (*text).to_owned()).collect();
        pod_names(&resources).map_err(|error| error.to_string())
    }

    #[test]
    fn pods_are_named_in_every_way_of_kubectl() {
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
