//! `microkube apply view-last-applied`.

use std::process::ExitCode;

use anyhow::anyhow;
use microkube_patch::last_applied;
use serde_json::Value;

use super::super::failure::{Failure, complain};
use super::super::objects::arguments::{ObjectArgs, Requested};
use super::super::objects::dry_run::DryRun;
use super::super::pods::arguments::{ScopeArgs, SelectorArg};
use super::super::pods_host::{self, Place, Purpose};
use super::super::print::{emit, escaped};
use super::super::targets::{NodeObjects, check_names};
use super::super::yaml;

/// Display the last applied configurations of objects
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube apply view-last-applied configmap app\n  microkube apply view-last-applied -f shop/ -o json"
)]
pub struct ViewLastAppliedArgs {
    #[command(flatten)]
    objects: ObjectArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    selector: SelectorArg,
    /// Show all objects of the types in the namespace
    #[arg(long)]
    all: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Yaml, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Yaml,
}

pub(super) fn run(args: &ViewLastAppliedArgs) -> Result<ExitCode, Failure> {
    let requested = Requested::new(&args.objects, &args.scope, &args.selector, None)?;
    if !args.all && args.selector.selector.is_none() {
        check_names(&requested)?;
    }
    let paths = match pods_host::go_to_pods(Purpose::Objects, requested.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let node = NodeObjects::open(paths, DryRun::None)?;
    let (found, mut errors) = node.requested(&requested)?;
    for (target, object) in &found {
        match text(object, &target.key.name, args.output) {
            Ok(text) => emit(&text)?,
            Err(error) => errors.push(error),
        }
    }
    errors.iter().for_each(complain);
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

/// The last applied configuration of an object.
fn text(object: &Value, name: &str, format: Format) -> anyhow::Result<String> {
    let configuration = last_applied::read(object)?
        .ok_or_else(|| anyhow!("no last-applied-configuration annotation found on resource: {name}"))?;
    Ok(match format {
        Format::Json => escaped(&format!("{configuration:#}\n")),
        Format::Yaml => yaml::document(&configuration),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_annotation_is_shown_in_each_format() {
        let plain = json!({ "kind": "ConfigMap", "metadata": { "name": "a" } });
        let object = last_applied::record(plain.clone()).unwrap();
        assert_eq!(
            text(&object, "a", Format::Yaml).unwrap(),
            "kind: ConfigMap\nmetadata:\n  annotations: {}\n  name: a\n"
        );
        let shown: Value = serde_json::from_str(&text(&object, "a", Format::Json).unwrap()).unwrap();
        assert_eq!(shown["metadata"], json!({ "annotations": {}, "name": "a" }));
        assert_eq!(
            text(&plain, "a", Format::Yaml).unwrap_err().to_string(),
            "no last-applied-configuration annotation found on resource: a"
        );
    }
}
