//! The common part of `label` and `annotate`: pairs on the command line, and changes of a map in `metadata`. The
//! messages of the two verbs differ as in kubectl.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use microkube_manifest::kinds::Kind;
use microkube_manifest::names;
use serde_json::{Map, Value, json};

use super::completion;
use super::failure::Failure;
use super::field_manager::FieldManagerArg;
use super::local;
use super::manifests::FilenameArgs;
use super::objects::arguments::{FieldSelectorArg, ObjectArgs, Requested};
use super::objects::dry_run::DryRun;
use super::pods::arguments::{ScopeArgs, SelectorArg};
use super::print::emit;
use super::results::{OutputArgs, Results};
use super::targets::{self, Changed};
use crate::objects::{Part, Patch};
use crate::stderr::say;

/// The map that a verb changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairs {
    Labels,
    Annotations,
}

/// The arguments of both verbs.
#[derive(Debug, clap::Args)]
pub(super) struct PairArgs {
    /// The objects (TYPE NAME or TYPE/NAME), then the changes: KEY=VALUE sets, KEY- removes
    #[arg(value_name = "TYPE NAME|TYPE/NAME|KEY=VALUE|KEY-", allow_hyphen_values = false, add = completion::objects())]
    words: Vec<String>,
    #[command(flatten)]
    files: FilenameArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    selector: SelectorArg,
    #[command(flatten)]
    field_selector: FieldSelectorArg,
    /// Change all objects of the types in the namespace
    #[arg(long)]
    all: bool,
    /// Replace values of existing keys
    #[arg(long)]
    overwrite: bool,
    /// Change and print the objects of the files (-f), not those of the node
    #[arg(long)]
    local: bool,
    /// Print the pairs of each object
    #[arg(long)]
    list: bool,
    /// Change the object only if it has this version; only for a single object
    #[arg(long, value_name = "VERSION")]
    resource_version: Option<String>,
    #[command(flatten)]
    _field_manager: FieldManagerArg,
    #[command(flatten)]
    output: OutputArgs,
}

/// Applies a patch to an object.
type Apply<'a> = &'a mut dyn FnMut(&Patch) -> anyhow::Result<Changed>;

/// Changes on a command line.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    set: BTreeMap<String, String>,
    remove: Vec<String>,
}

impl Pairs {
    fn field(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }

    fn one(self) -> &'static str {
        match self {
            Self::Labels => "label",
            Self::Annotations => "annotation",
        }
    }

    pub(super) fn run(self, args: &PairArgs) -> Result<ExitCode, Failure> {
        let (resources, words) = self.split(&args.words).map_err(Failure::from)?;
        let changes = self.changes(words).map_err(Failure::from)?;
        self.check(args, resources, &changes).map_err(Failure::from)?;
        if args.local {
            return local::for_each(&args.files, &args.output, &mut |kind, old, results| {
                let mut apply = |patch: &Patch| local::patched(kind, old, patch);
                let changed = self.changed(old, &changes, args, &mut apply)?;
                self.tell(kind, changed, args.list.then_some(""), results)
            });
        }
        let objects = ObjectArgs {
            resources: resources.to_vec(),
            files: args.files.clone(),
        };
        let field_selector = args.field_selector.field_selector.as_ref();
        let requested = Requested::new(&objects, &args.scope, &args.selector, field_selector)?;
        if args.all && requested.has_names() {
            let problem = "name cannot be provided when --all is specified";
            return Err(Failure::from(anyhow!(problem)));
        }
        if !args.all && args.selector.selector.is_none() && field_selector.is_none() {
            targets::check_names(&requested)?;
        }
        let is_alone = requested.is_single() && !requested.is_from_files;
        if args.resource_version.is_some() && !is_alone {
            let problem = "--resource-version may only be used with a single resource";
            return Err(Failure::from(anyhow!(problem)));
        }
        targets::for_each(&requested, &args.output, &mut |node, target, old, results| {
            let mut apply = |patch: &Patch| {
                node.change(target, Part::Main, &mut |current| {
                    Ok(Some(patch.apply(target.kind, current)?))
                })
            };
            let changed = self.changed(&old, &changes, args, &mut apply)?;
            if args.list && !is_alone {
                let (kind, group) = (target.kind.kind, target.kind.group);
                say!("Listing {} for {kind}.{group}/{}:", self.field(), target.key.name);
            }
            let indent = if is_alone { "" } else { " " };
            self.tell(target.kind, changed, args.list.then_some(indent), results)
        })
    }

    /// The object after the changes, and the word for what was done, if there are changes.
    fn changed(
        self,
        old: &Value,
        changes: &Changes,
        args: &PairArgs,
        apply: Apply<'_>,
    ) -> anyhow::Result<(Value, Option<&'static str>)> {
        if *changes == Changes::default() {
            return Ok((old.clone(), None));
        }
        let (object, done) = self.write(old, changes, args, apply)?;
        Ok((object, Some(done)))
    }

    /// Prints what was done, or the pairs with this indentation.
    fn tell(
        self,
        kind: &Kind,
        (object, done): (Value, Option<&'static str>),
        list: Option<&str>,
        results: &mut Results<'_>,
    ) -> anyhow::Result<()> {
        match (list, done) {
            (Some(indent), _) => emit(&self.list(&object, indent)),
            (None, Some(done)) => results.add(kind, object, done),
            (None, None) => Ok(()),
        }
    }

    /// The words that name objects, and those that are changes (`GetResourcesAndPairs`).
    fn split(self, words: &[String]) -> anyhow::Result<(&[String], &[String])> {
        let is_change = |word: &String| {
            (word.contains('=') && !word.starts_with('=')) || (word.ends_with('-') && word.as_str() != "-")
        };
        let first = words.iter().position(is_change).unwrap_or(words.len());
        let (resources, changes) = words.split_at_checked(first).unwrap_or((words, &[]));
        if let Some(word) = changes.iter().find(|word| !is_change(word)) {
            bail!("all resources must be specified before {} changes: {word}", self.one());
        }
        Ok((resources, changes))
    }

    fn changes(self, words: &[String]) -> anyhow::Result<Changes> {
        let mut changes = Changes::default();
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => {
                    if self == Self::Labels {
                        check_label(word, value)?;
                    }
                    changes.set.insert(key.to_owned(), value.to_owned());
                }
                None => changes.remove.extend(word.strip_suffix('-').map(str::to_owned)),
            }
        }
        let both: Vec<&str> = changes
            .remove
            .iter()
            .filter(|key| changes.set.contains_key(*key))
            .map(String::as_str)
            .collect();
        match (self, both.as_slice()) {
            (_, []) => Ok(changes),
            (Self::Labels, _) => bail!("can not both modify and remove a label in the same command"),
            (Self::Annotations, keys) => bail!(
                "can not both modify and remove the following annotation(s) in the same command: {}",
                keys.join(", ")
            ),
        }
    }

    fn check(self, args: &PairArgs, resources: &[String], changes: &Changes) -> anyhow::Result<()> {
        if args.local && (!resources.is_empty() || args.files.filename.is_empty()) {
            let file = match self {
                Self::Labels => "pod",
                Self::Annotations => "rsrc",
            };
            bail!("can only use local files by -f {file}.yaml or --filename={file}.json when --local=true is set");
        }
        if args.all && args.field_selector.field_selector.is_some() {
            bail!("cannot set --all and --field-selector at the same time");
        }
        if args.all && args.selector.selector.is_some() {
            bail!("cannot set --all and --selector at the same time");
        }
        if resources.is_empty() && args.files.filename.is_empty() {
            bail!("one or more resources must be specified as <resource> <name> or <resource>/<name>");
        }
        if *changes == Changes::default() && !args.list {
            bail!("at least one {} update is required", self.one());
        }
        Ok(())
    }

    /// Changes an object. Returns the object, and the word for the change.
    fn write(
        self,
        old: &Value,
        changes: &Changes,
        args: &PairArgs,
        apply: Apply<'_>,
    ) -> anyhow::Result<(Value, &'static str)> {
        let known = self.of(old);
        if !args.overwrite {
            self.refuse_overwrites(known, changes)?;
        }
        if self == Self::Labels && args.output.dry_run != DryRun::Client && !args.local && !args.list {
            let is_missing = |key: &&String| known.is_none_or(|map| !map.contains_key(*key));
            for key in changes.remove.iter().filter(is_missing) {
                emit(&format!("label {key:?} not found.\n"))?;
            }
        }
        let set = changes.set.iter().map(|(key, value)| (key.clone(), json!(value)));
        let removed = changes.remove.iter().map(|key| (key.clone(), Value::Null));
        let map: Map<String, Value> = set.chain(removed).collect();
        let mut metadata = json!({ self.field(): map });
        if let Some(version) = &args.resource_version {
            metadata["resourceVersion"] = json!(version);
        }
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let changed = apply(&patch)?;
        let done = match self {
            Self::Annotations => "annotated",
            Self::Labels if !changed.is_changed => "not labeled",
            // kubectl compares lengths.
            Self::Labels if !args.overwrite && self.length(&changed.object) < self.length(old) => "unlabeled",
            Self::Labels => "labeled",
        };
        Ok((changed.object, done))
    }

    fn refuse_overwrites(self, known: Option<&Map<String, Value>>, changes: &Changes) -> anyhow::Result<()> {
        let conflicts: Vec<String> = changes
            .set
            .iter()
            .filter_map(|(key, new)| {
                let old = known?.get(key)?.as_str()?;
                (old != new).then(|| format!("'{key}' already has a value ({old})"))
            })
            .collect();
        match (self, conflicts.as_slice()) {
            (_, []) => Ok(()),
            (Self::Labels, several) => {
                let several = several.iter().map(|one| format!("{one}, and --overwrite is false"));
                bail!("{}", several.collect::<Vec<_>>().join("\n"))
            }
            (Self::Annotations, several) => bail!(
                "--overwrite is false but found the following declared annotation(s): {}",
                several.join("; ")
            ),
        }
    }

    fn of(self, object: &Value) -> Option<&Map<String, Value>> {
        object.get("metadata")?.get(self.field())?.as_object()
    }

    /// The length of the map as JSON.
    fn length(self, object: &Value) -> usize {
        self.of(object).map_or(0, |map| json!(map).to_string().len())
    }

    fn list(self, object: &Value, indent: &str) -> String {
        let mut text = String::new();
        for (key, value) in self.of(object).into_iter().flatten() {
            let _ = writeln!(text, "{indent}{key}={}", value.as_str().unwrap_or_default());
        }
        text
    }
}

fn check_label(word: &str, value: &str) -> anyhow::Result<()> {
    if value.contains('=') {
        bail!("invalid label spec: {word}");
    }
    let errors = names::label_value(value);
    if !errors.is_empty() {
        bail!("invalid label value: {word:?}: {}", errors.join(";"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn changes(pairs: Pairs, text: &str) -> Result<(usize, Changes), String> {
        let words = words(text);
        let (resources, changes) = pairs.split(&words).map_err(|error| error.to_string())?;
        let changes = pairs.changes(changes).map_err(|error| error.to_string())?;
        Ok((resources.len(), changes))
    }

    #[test]
    fn objects_come_before_changes() {
        let expected = Changes {
            set: BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]),
            remove: vec!["old".to_owned()],
        };
        assert_eq!(changes(Pairs::Labels, "cm web a=b old- c="), Ok((2, expected)));
        let (_, annotated) = changes(Pairs::Annotations, "cm/web note=a=b").unwrap();
        assert_eq!(annotated.set["note"], "a=b");
    }

    #[test]
    fn faulty_changes_are_refused_in_the_words_of_kubectl() {
        let (labels, annotations) = (Pairs::Labels, Pairs::Annotations);
        for (pairs, text, message) in [
            (
                labels,
                "cm a=b web",
                "all resources must be specified before label changes: web",
            ),
            (
                annotations,
                "cm a=b web",
                "all resources must be specified before annotation changes: web",
            ),
            (labels, "cm web a=b=c", "invalid label spec: a=b=c"),
            (
                labels,
                "cm web a=b a-",
                "can not both modify and remove a label in the same command",
            ),
            (
                annotations,
                "cm web a=b c=d c- a-",
                "can not both modify and remove the following annotation(s) in the same command: c, a",
            ),
        ] {
            assert_eq!(changes(pairs, text), Err(message.to_owned()), "{text}");
        }
        let error = changes(labels, "cm web a=b/c").unwrap_err();
        assert!(
            error.starts_with("invalid label value: \"a=b/c\": a valid label must be"),
            "{error}"
        );
    }

    #[test]
    fn objects_of_files_are_changed_without_the_node() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: PairArgs,
        }
        let kind = microkube_manifest::kinds::named("cm").unwrap();
        let object = json!({ "metadata": { "name": "web", "labels": { "a": "1" } } });
        let labelled = |text: &str| -> Result<(Value, Option<&'static str>), String> {
            let words = std::iter::once("label".to_owned()).chain(words(text));
            let args = <Cli as clap::Parser>::try_parse_from(words).unwrap().args;
            let pairs = Pairs::Labels;
            let (resources, words) = pairs.split(&args.words).unwrap();
            let changes = pairs.changes(words).unwrap();
            pairs
                .check(&args, resources, &changes)
                .map_err(|error| error.to_string())?;
            let mut apply = |patch: &Patch| local::patched(kind, &object, patch);
            let changed = pairs.changed(&object, &changes, &args, &mut apply);
            let changed = changed.map_err(|error| error.to_string())?;
            Ok((changed.0["metadata"]["labels"].clone(), changed.1))
        };
        let labels = json!({ "a": "1", "b": "2" });
        assert_eq!(labelled("--local -f x.yaml b=2"), Ok((labels, Some("labeled"))));
        let same = json!({ "a": "1" });
        assert_eq!(
            labelled("--local -f x.yaml a=1"),
            Ok((same.clone(), Some("not labeled")))
        );
        assert_eq!(labelled("--local -f x.yaml --list"), Ok((same, None)));
        let message = "can only use local files by -f pod.yaml or --filename=pod.json when --local=true is set";
        for text in ["--local a=b", "--local -f x.yaml cm web a=b"] {
            assert_eq!(labelled(text), Err(message.to_owned()), "{text}");
        }
        assert_eq!(
            labelled("cm --all --field-selector=metadata.name=a a=b"),
            Err("cannot set --all and --field-selector at the same time".to_owned())
        );
    }

    #[test]
    fn other_values_of_existing_keys_are_refused_without_overwrite() {
        let known = json!({ "a": "1", "b": "2", "c": "3" });
        let known = known.as_object();
        let refused = |pairs: Pairs, text: &str| {
            let (_, changes) = changes(pairs, text).unwrap();
            let refused = pairs.refuse_overwrites(known, &changes);
            refused.map_err(|error| error.to_string()).err()
        };
        assert_eq!(refused(Pairs::Labels, "cm web a=1 d=4 b-"), None);
        assert_eq!(
            refused(Pairs::Labels, "cm web a=2").as_deref(),
            Some("'a' already has a value (1), and --overwrite is false")
        );
        assert_eq!(
            refused(Pairs::Labels, "cm web a=2 b=3").as_deref(),
            Some(
                "'a' already has a value (1), and --overwrite is false\n'b' already has a value (2), and --overwrite is false"
            )
        );
        assert_eq!(
            refused(Pairs::Annotations, "cm web a=2 b=3").as_deref(),
            Some(
                "--overwrite is false but found the following declared annotation(s): 'a' already has a value (1); 'b' already has a value (2)"
            )
        );
    }
}
