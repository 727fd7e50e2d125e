//! Parses the objects that a command line names, in kubectl's notations.

use anyhow::{anyhow, bail};
use microkube_manifest::kinds::{self, Kind};
use microkube_store::Object;

use super::super::completion;
use super::super::failure::Failure;
use super::super::manifests::FilenameArgs;
use super::super::object_failure::as_kubectl_error;
use super::super::pods::arguments::{PodName, Scope, ScopeArgs, SelectorArg};
use super::super::selector::Selector;
use super::field_selector::FieldSelector;
use super::manifests;
use super::name::ObjectName;
use crate::objects::ObjectError;

/// Objects by type and name, on the command line or in manifests.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct ObjectArgs {
    /// All objects of types (`pods`, `cm,secrets`, `all`), or objects by name (`cm a b` or `cm/a secret/b`)
    #[arg(value_name = "TYPE[,TYPE] [NAME]|TYPE/NAME", add = completion::objects())]
    pub(in crate::cli) resources: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) files: FilenameArgs,
}

/// Objects by the values of their fields.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct FieldSelectorArg {
    /// Select objects by fields: FIELD=VALUE or FIELD!=VALUE, with metadata.name, metadata.namespace, type (Secrets) or
    /// status.phase (Namespaces, Pods)
    #[arg(long, value_name = "SELECTOR", value_parser = str::parse::<FieldSelector>)]
    pub(in crate::cli) field_selector: Option<FieldSelector>,
}

/// A part of objects that verbs can read and change alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Subresource {
    Status,
}

/// Objects of one kind.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Group {
    pub(in crate::cli) kind: &'static Kind,
    /// If this is empty, the group has all selected objects of the kind.
    pub(in crate::cli) names: Vec<ObjectName>,
}

impl Group {
    /// Whether the group's names include this object.
    pub(in crate::cli) fn names(&self, object: &Object) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name.is(object))
    }
}

/// The objects that a command line names.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Requested {
    /// In the order of the command line; neighbours have different kinds.
    pub(in crate::cli) groups: Vec<Group>,
    /// `None` means all namespaces, or the namespaces of the names.
    pub(in crate::cli) namespace: Option<String>,
    pub(in crate::cli) selector: Selector,
    pub(in crate::cli) field_selector: FieldSelector,
    /// Whether the names are from manifests.
    pub(in crate::cli) is_from_files: bool,
    /// The content of standard input, if manifests were read from it.
    pub(in crate::cli) consumed_stdin: Option<Vec<u8>>,
}

impl Requested {
    /// The objects named by these arguments; reads manifests.
    ///
    /// # Errors
    /// If the arguments contradict each other, a type is unknown, or a manifest cannot be read or is invalid.
    pub(in crate::cli) fn new(
        objects: &ObjectArgs,
        scope: &ScopeArgs,
        selector: &SelectorArg,
        field_selector: Option<&FieldSelector>,
    ) -> Result<Self, Failure> {
        let has_selector = selector.selector.is_some() || field_selector.is_some();
        let mut requested = if objects.files.filename.is_empty() {
            Self::of_words(&objects.resources, scope, has_selector).map_err(Failure::from)?
        } else if !objects.resources.is_empty() {
            let contradiction =
                "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well";
            return Err(Failure::from(anyhow!(contradiction)));
        } else if has_selector {
            let contradiction = "-f and a selector (-l, --field-selector) cannot be combined: use one of them";
            return Err(Failure::from(anyhow!(contradiction)));
        } else {
            Self::of_files(&objects.files, scope)?
        };
        requested.selector = selector.selector.clone().unwrap_or_default();
        requested.field_selector = field_selector.cloned().unwrap_or_default();
        for group in &requested.groups {
            requested.field_selector.check(group.kind).map_err(Failure::from)?;
        }
        Ok(requested)
    }

    fn of_words(words: &[String], scope: &ScopeArgs, has_selector: bool) -> anyhow::Result<Self> {
        let mut requested = Self {
            namespace: scope.namespace(),
            ..Self::default()
        };
        let namespace = scope.namespace.or_default();
        let name_of = |kind: &Kind, name: &str| ObjectName {
            namespace: kind.namespaced.then(|| namespace.clone()),
            name: name.to_owned(),
        };
        let Some((first, names)) = words.split_first() else {
            bail!(
                "You must specify the type of resource to get: TYPE, TYPE NAME or TYPE/NAME, or manifests with -f; \
                 `microkube api-resources` lists the types"
            );
        };
        if words.iter().any(|word| word.contains('/')) {
            for word in words {
                let (kind, name) = kind_and_name(word)?;
                requested.push(kind, name_of(kind, name));
            }
            if has_selector {
                bail!("name cannot be provided when a selector is specified");
            }
        } else {
            for kind in kinds_of(first)? {
                let names = names.iter().map(|name| name_of(kind, name)).collect();
                requested.groups.push(Group { kind, names });
            }
            if !names.is_empty() && has_selector {
                bail!("name cannot be provided when a selector is specified");
            }
        }
        if scope.all_namespaces && requested.has_names() {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        Ok(requested)
    }

    fn of_files(files: &FilenameArgs, scope: &ScopeArgs) -> Result<Self, Failure> {
        let read = manifests::read(files)?;
        let mut requested = Self {
            is_from_files: true,
            consumed_stdin: read.consumed_stdin,
            ..Self::default()
        };
        for document in &read.documents {
            let name = manifests::name_of(document, &scope.namespace).map_err(Failure::from)?;
            requested.push(document.kind(), name);
        }
        let names = requested.groups.iter().flat_map(|group| &group.names);
        let mut namespaces: Vec<&String> = names.filter_map(|name| name.namespace.as_ref()).collect();
        namespaces.dedup();
        requested.namespace = match namespaces.as_slice() {
            _ if scope.all_namespaces => None,
            [] => Some(scope.namespace.or_default()),
            [only] => Some((*only).clone()),
            _ => None,
        };
        Ok(requested)
    }

    /// Adds a name to the last group if the kinds are the same, otherwise to a new group.
    fn push(&mut self, kind: &'static Kind, name: ObjectName) {
        match self.groups.last_mut() {
            Some(last) if last.kind.kind == kind.kind => last.names.push(name),
            _ => self.groups.push(Group {
                kind,
                names: vec![name],
            }),
        }
    }

    /// The groups, with those of the same kind merged.
    pub(in crate::cli) fn by_kind(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for group in &self.groups {
            match groups.iter_mut().find(|known| known.kind.kind == group.kind.kind) {
                // Without names, a group has all objects of its kind.
                Some(known) if known.names.is_empty() || group.names.is_empty() => known.names.clear(),
                Some(known) => known.names.extend(group.names.iter().cloned()),
                None => groups.push(group.clone()),
            }
        }
        groups
    }

    /// Whether the request has names, and not only types.
    pub(in crate::cli) fn has_names(&self) -> bool {
        self.groups.iter().any(|group| !group.names.is_empty())
    }

    /// Whether the request is for a single object, by its name.
    pub(in crate::cli) fn is_single(&self) -> bool {
        matches!(self.groups.as_slice(), [group] if group.names.len() == 1)
    }

    /// Checks that the subresource `status` of these objects can be read.
    ///
    /// # Errors
    /// If no objects are named, or a kind has no status.
    pub(in crate::cli) fn check_status(&self) -> Result<(), Failure> {
        if !self.has_names() {
            let problem = "subresource cannot be used when bulk resources are specified";
            return Err(Failure::from(anyhow!(problem)));
        }
        match self
            .groups
            .iter()
            .find(|group| !group.kind.subresources.contains(&"status"))
        {
            None => Ok(()),
            Some(group) => {
                let error = ObjectError::NoSubresource {
                    resource: group.kind.qualified_plural(),
                    subresource: "status",
                };
                Err(as_kubectl_error(error, None).into())
            }
        }
    }

    /// Whether only Pods are named.
    pub(in crate::cli) fn is_only_pods(&self) -> bool {
        self.groups.iter().all(|group| group.kind.kind == "Pod")
    }

    /// The Pods of a group.
    pub(in crate::cli) fn pods(&self, group: &Group) -> Scope {
        let name = |name: &ObjectName| PodName {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
        };
        Scope {
            namespace: self.namespace.clone(),
            names: group.names.iter().map(name).collect(),
            selector: self.selector.clone(),
        }
    }

    /// The message if there are no objects.
    pub(in crate::cli) fn nothing_found(&self) -> String {
        match &self.namespace {
            Some(namespace) if self.groups.iter().all(|group| group.kind.namespaced) => {
                format!("No resources found in {namespace} namespace.")
            }
            _ => "No resources found".to_owned(),
        }
    }
}

/// The kinds in `TYPE[,TYPE]`, each once. A category stands for its kinds.
fn kinds_of(types: &str) -> anyhow::Result<Vec<&'static Kind>> {
    let mut found: Vec<&'static Kind> = Vec::new();
    for name in types.split(',').filter(|name| !name.is_empty()) {
        let in_category = kinds::all().iter().filter(|kind| kind.categories.contains(&name));
        let mut named: Vec<&'static Kind> = in_category.collect();
        if named.is_empty() {
            named.push(kind_named(name)?);
        }
        for kind in named {
            if !found.iter().any(|known| known.kind == kind.kind) {
                found.push(kind);
            }
        }
    }
    if found.is_empty() {
        bail!("You must specify the type of resource: {types:?} has none");
    }
    Ok(found)
}

/// The kind and the name in `TYPE/NAME`.
///
/// # Errors
/// If the text has another form, or there is no such kind.
pub(in crate::cli) fn kind_and_name(word: &str) -> anyhow::Result<(&'static Kind, &str)> {
    match word.split_once('/') {
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((kind_named(kind)?, name))
        }
        Some(_) => bail!("arguments in resource/name form must have a single resource and name: {word:?}"),
        None => bail!(
            "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. \
             'get pod/<name>' instead of 'get pods pod/<name>')"
        ),
    }
}

/// The kind that a user names.
///
/// # Errors
/// If no kind has this name.
pub(in crate::cli) fn kind_named(name: &str) -> anyhow::Result<&'static Kind> {
    kinds::named(name).ok_or_else(|| {
        // kubectl's words, so that scripts find them.
        anyhow!("the server doesn't have a resource type {name:?}")
    })
}

/// The error for an object that does not exist.
pub(in crate::cli) fn not_found(kind: &Kind, name: &str) -> anyhow::Error {
    anyhow!("Error (NotFound): {} {name:?} not found", kind.qualified_plural())
}

#[cfg(test)]
mod tests {
    use super::super::super::namespace::NamespaceArg;
    use super::*;

    fn scope(namespace: Option<&str>, all_namespaces: bool) -> ScopeArgs {
        ScopeArgs {
            namespace: NamespaceArg {
                namespace: namespace.map(str::to_owned),
            },
            all_namespaces,
        }
    }

    /// `kind: namespace/name …` for each group.
    fn groups(requested: &Requested) -> Vec<String> {
        let name = |name: &ObjectName| format!(" {}/{}", name.namespace.as_deref().unwrap_or_default(), name.name);
        let group = |group: &Group| {
            format!(
                "{}:{}",
                group.kind.kind,
                group.names.iter().map(name).collect::<String>()
            )
        };
        requested.groups.iter().map(group).collect()
    }

    fn of_words(words: &[&str], scope: &ScopeArgs) -> Result<Vec<String>, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        match Requested::of_words(&words, scope, false) {
            Ok(requested) => Ok(groups(&requested)),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn objects_can_be_named_in_every_kubectl_notation() {
        let shop = scope(Some("shop"), false);
        for (words, expected) in [
            (&["pods"][..], &["Pod:"][..]),
            (&["all"], &["Pod:"]),
            (&["cm,secret,configmaps"], &["ConfigMap:", "Secret:"]),
            (&["cm", "a", "b"], &["ConfigMap: shop/a shop/b"]),
            (&["ns,po", "a"], &["Namespace: /a", "Pod: shop/a"]),
            (
                &["cm/a", "configmap/b", "ns/c", "ConfigMaps/d"],
                &["ConfigMap: shop/a shop/b", "Namespace: /c", "ConfigMap: shop/d"],
            ),
            (&["storageclasses.storage.k8s.io/fast"], &["StorageClass: /fast"]),
        ] {
            assert_eq!(of_words(words, &shop).unwrap(), expected, "{words:?}");
        }
    }

    #[test]
    fn contradicting_and_unknown_names_are_refused() {
        let default = scope(None, false);
        for (words, part) in [
            (&["nodes"][..], "the server doesn't have a resource type \"nodes\""),
            (&["cm,nodes"], "resource type \"nodes\""),
            (&["job/a"], "resource type \"job\""),
            (&["cm", "cm/a"], "there is no need to specify a resource type"),
            (&["cm/a", "b"], "there is no need to specify a resource type"),
            (&["cm/"], "must have a single resource and name: \"cm/\""),
            (&["/a"], "must have a single resource and name"),
            (&["cm/a/b"], "must have a single resource and name"),
            (&[","], "You must specify the type of resource"),
            (&[], "You must specify the type of resource"),
        ] {
            let error = of_words(words, &default).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
        assert_eq!(
            of_words(&["cm", "a"], &scope(None, true)).unwrap_err(),
            "a resource cannot be retrieved by name across all namespaces"
        );
        let named = ["cm".to_owned(), "a".to_owned()];
        assert_eq!(
            Requested::of_words(&named, &default, true).unwrap_err().to_string(),
            "name cannot be provided when a selector is specified"
        );
    }

    #[test]
    fn objects_in_manifests_are_named_in_order_with_their_namespaces() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("objects.yaml");
        let files = |text: &str, scope: &ScopeArgs| {
            std::fs::write(&path, text).unwrap();
            let objects = ObjectArgs {
                resources: Vec::new(),
                files: FilenameArgs::of(std::slice::from_ref(&path)),
            };
            match Requested::new(&objects, scope, &SelectorArg { selector: None }, None) {
                Ok(requested) => Ok((groups(&requested), requested.namespace)),
                Err(failure) => Err((failure.exit_code, failure.error.to_string())),
            }
        };
        let text = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: \
                    {name: a, namespace: shop}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: shop}}\n";
        let expected = ["Namespace: /shop", "ConfigMap: shop/a shop/b"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(
            files(text, &scope(None, false)).unwrap(),
            (expected, Some("shop".to_owned()))
        );
        let (code, error) = files(text, &scope(Some("other"), false)).unwrap_err();
        assert!(
            code == 1 && error.contains("does not match the namespace \"other\""),
            "{error}"
        );
        let nameless = "{apiVersion: v1, kind: ConfigMap, metadata: {generateName: a-}}";
        let (code, error) = files(nameless, &scope(None, false)).unwrap_err();
        assert!(
            code == 1 && error.ends_with(":1:1: resource name may not be empty"),
            "{error}"
        );
    }
}
