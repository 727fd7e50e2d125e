//! `microkube patch`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use microkube_manifest::kinds::Kind;
use microkube_manifest::{MAX_TEXT_BYTES, Problem};
use microkube_patch::PatchError;
use serde_json::Value;

use super::failure::Failure;
use super::field_manager::FieldManagerArg;
use super::local;
use super::objects::arguments::Subresource;
use super::results::OutputArgs;
use super::targets::{self, NamedArgs};
use super::validate::warn;
use crate::objects::{Part, Patch};

/// Update fields of objects with a patch
///
/// A strategic merge patch has the form of the object: it sets and adds what it contains, and `null` removes a field. A
/// merge patch replaces lists as a whole. A JSON patch is a list of operations.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube patch configmap app -p '{\"data\": {\"mode\": \"fast\"}}'\n  microkube patch secret/login --type=json -p \
                  '[{\"op\": \"remove\", \"path\": \"/data/old\"}]'\n  microkube patch pvc/data --subresource=status --patch-file=bound.yaml"
)]
pub struct PatchArgs {
    #[command(flatten)]
    objects: NamedArgs,
    /// The patch, in JSON or YAML
    #[arg(short, long)]
    patch: Option<String>,
    /// A file with the patch
    #[arg(long, value_name = "PATH")]
    patch_file: Option<PathBuf>,
    /// The type of patch
    #[arg(long = "type", value_enum, default_value_t = PatchType::Strategic, value_name = "TYPE")]
    patch_type: PatchType,
    /// Change only this subresource
    #[arg(long, value_enum, value_name = "SUBRESOURCE")]
    subresource: Option<Subresource>,
    /// Patch and print the objects of the files (-f), not those of the node
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    _field_manager: FieldManagerArg,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PatchType {
    Json,
    Merge,
    Strategic,
}

pub(super) fn run(args: PatchArgs) -> Result<ExitCode, Failure> {
    let patch = args.patch().map_err(Failure::from)?;
    if args.local {
        let files = args.objects.local_files()?;
        return local::for_each(files, &args.output, &mut |kind, object, results| {
            let changed = local::patched(kind, object, &patch)?;
            results.add(kind, changed.object, done(changed.is_changed))
        });
    }
    let requested = args.objects.requested()?;
    let part = match args.subresource {
        None => Part::Main,
        Some(Subresource::Status) => Part::Status,
    };
    targets::for_each(&requested, &args.output, &mut |node, target, _, results| {
        let mut dropped = Vec::new();
        let changed = node.change(target, part, &mut |current| {
            let (patched, unknown) = patched(&patch, target.kind, current)?;
            dropped = unknown;
            Ok(Some(patched))
        });
        warn(&dropped);
        let changed = changed?;
        results.add(target.kind, changed.object, done(changed.is_changed))
    })
}

fn done(is_changed: bool) -> &'static str {
    if is_changed { "patched" } else { "patched (no change)" }
}

/// The patched object without unknown fields, and these: kubectl does not ask for strict validation of patches.
fn patched(patch: &Patch, kind: &Kind, current: &Value) -> Result<(Value, Vec<Problem>), PatchError> {
    let mut object = patch.apply(kind, current)?;
    let unknown = kind.drop_unknown_fields(&mut object);
    Ok((object, unknown))
}

impl PatchArgs {
    fn patch(&self) -> anyhow::Result<Patch> {
        let text = match (&self.patch, &self.patch_file) {
            (Some(_), Some(_)) => bail!("cannot specify --patch and --patch-file together"),
            (Some(text), None) if !text.is_empty() => text.clone(),
            (None, Some(path)) => read(path)?,
            _ => bail!("must specify --patch or --patch-file containing the contents of the patch"),
        };
        let value = parse(&text)?;
        Ok(match self.patch_type {
            PatchType::Json => Patch::Json(value),
            PatchType::Merge => Patch::Merge(value),
            PatchType::Strategic => Patch::Strategic(value),
        })
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let context = || format!("unable to read patch file {}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(context)?;
    file.take(MAX_TEXT_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .with_context(context)?;
    if text.len() > MAX_TEXT_BYTES {
        bail!(
            "the patch {} is larger than {} MiB",
            path.display(),
            MAX_TEXT_BYTES >> 20
        );
    }
    Ok(text)
}

/// The message does not contain the patch, which may be secret.
fn parse(text: &str) -> anyhow::Result<Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    serde_yaml::from_str(text).context("unable to parse the patch as JSON or YAML")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patch(words: &[&str]) -> Result<Patch, String> {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: PatchArgs,
        }
        let words = ["patch", "cm", "a"].iter().chain(words);
        let cli = <Cli as clap::Parser>::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.args.patch().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_patch_is_json_or_yaml_of_each_type() {
        let value = json!({ "data": { "a": "b" } });
        assert_eq!(
            patch(&["-p", "{\"data\": {\"a\": \"b\"}}"]),
            Ok(Patch::Strategic(value.clone()))
        );
        assert_eq!(patch(&["-p", "data: {a: b}", "--type=merge"]), Ok(Patch::Merge(value)));
        assert_eq!(patch(&["-p", "[]", "--type", "json"]), Ok(Patch::Json(json!([]))));
    }

    #[test]
    fn unknown_fields_are_dropped() {
        let kind = microkube_manifest::kinds::named("cm").unwrap();
        let current = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" } });
        let foo = json!({ "foo": { "a": "b" }, "metadata": { "labels": { "a": "b" } } });
        let add = json!([{ "op": "add", "path": "/foo", "value": 1 }]);
        for (patch, labels) in [
            (Patch::Strategic(foo.clone()), json!({ "a": "b" })),
            (Patch::Merge(foo), json!({ "a": "b" })),
            (Patch::Json(add), Value::Null),
        ] {
            let (object, unknown) = patched(&patch, kind, &current).unwrap();
            assert_eq!(object.get("foo"), None, "{patch:?}");
            assert_eq!(object["metadata"]["labels"], labels, "{patch:?}");
            let messages: Vec<_> = unknown.iter().map(|problem| problem.message.as_str()).collect();
            assert_eq!(messages, ["unknown field \"foo\""], "{patch:?}");
        }
    }

    #[test]
    fn one_readable_patch_is_required() {
        for (words, part) in [
            (&[][..], "must specify --patch or --patch-file"),
            (&["-p", ""], "must specify --patch or --patch-file"),
            (
                &["-p", "{}", "--patch-file=x"],
                "cannot specify --patch and --patch-file together",
            ),
            (&["-p", "{a: ["], "unable to parse the patch"),
            (
                &["--patch-file=/no/such"],
                "unable to read patch file /no/such: No such file",
            ),
            (&["--patch-file=/dev/zero"], "larger than 4 MiB"),
            (&["-p", "{}", "--type=apply"], "apply"),
            (&["-p", "{}", "--subresource=scale"], "scale"),
        ] {
            let error = patch(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
