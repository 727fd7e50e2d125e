//! `microkube apply set-last-applied`.

use std::process::ExitCode;

use anyhow::bail;
use microkube_manifest::kinds::Document;
use microkube_patch::last_applied;

use super::super::failure::{Failure, complain};
use super::super::manifests::{FilenameArgs, place};
use super::super::namespace::NamespaceArg;
use super::super::objects::arguments::not_found;
use super::super::objects::manifests;
use super::super::pods_host::{self, Place, Purpose};
use super::super::print::{emit, is_output_closed};
use super::super::results::{OutputArgs, Results};
use super::super::save_config::annotation_patch;
use super::super::targets::{NodeObjects, Target};
use crate::objects::Part;
use crate::stderr::say;

/// Make files the last applied configurations of objects, without changing anything else
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube apply set-last-applied -f config.yaml\n  microkube apply set-last-applied -f config.yaml --create-annotation",
    group(clap::ArgGroup::new("configurations").arg("filename").required(true))
)]
pub struct SetLastAppliedArgs {
    #[command(flatten)]
    files: FilenameArgs,
    #[command(flatten)]
    namespace: NamespaceArg,
    /// Also set the configuration of objects that have none
    #[arg(long)]
    create_annotation: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &SetLastAppliedArgs) -> Result<ExitCode, Failure> {
    let read = manifests::read(&args.files)?;
    let paths = match pods_host::go_to_pods(Purpose::Objects, read.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let node = NodeObjects::open(paths, args.output.dry_run)?;
    let mut tell = emit;
    let mut results = Results::new(&args.output, &mut tell)?;
    let mut errors = Vec::new();
    for document in &read.documents {
        match set(&node, document, &args.namespace, args.create_annotation, &mut results) {
            Err(error) if is_output_closed(&error) => return Err(error.into()),
            Err(error) => errors.push(error),
            Ok(()) => {}
        }
    }
    results.print(&mut errors)?;
    errors.iter().for_each(complain);
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

fn set(
    node: &NodeObjects,
    document: &Document,
    namespace: &NamespaceArg,
    create_annotation: bool,
    results: &mut Results<'_>,
) -> anyhow::Result<()> {
    let name = manifests::name_of(document, namespace)?;
    let mut configuration = document.written();
    place(&mut configuration, name.namespace.as_deref());
    let target = Target::of(document.kind(), &configuration)?;
    let Some(found) = node.find(&target)? else {
        return Err(not_found(target.kind, &name.name));
    };
    let name = &name.name;
    if !last_applied::is_in(&found) && !create_annotation {
        bail!(
            "no last-applied-configuration annotation found on resource: {name}, to create the annotation, run the command with \
             --create-annotation"
        );
    }
    let patch = annotation_patch(configuration)?;
    let changed = node.change(&target, Part::Main, &mut |current| {
        Ok(Some(patch.apply(target.kind, current)?))
    })?;
    if !changed.is_changed {
        say!("set-last-applied {name}: no changes required.");
        return Ok(());
    }
    results.add(target.kind, changed.object, "configured")
}

#[cfg(test)]
mod tests {
    use microkube_manifest::Input;
    use microkube_manifest::kinds::{self, read_documents};
    use microkube_store::Key;
    use serde_json::{Value, json};

    use super::super::super::objects::dry_run::DryRun;
    use super::super::super::pods::test_pods::TestPods;
    use super::*;

    #[test]
    fn only_the_annotation_is_set() {
        let pods = TestPods::new();
        let node = NodeObjects::open(pods.paths.clone(), DryRun::None).unwrap();
        let target = Target {
            kind: kinds::named("cm").unwrap(),
            key: Key::namespaced("default", "c"),
        };
        let live = json!({ "metadata": { "name": "c", "namespace": "default" }, "data": { "a": "1" } });
        node.objects.create(target.kind, &live).unwrap();
        let text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '2'}}";
        let input = Input {
            source: "x.yaml",
            text: text.as_bytes(),
        };
        let documents = read_documents(&[input]).unwrap();
        let set = |create_annotation: bool| {
            let mut told = String::new();
            let mut tell = |text: &str| {
                told.push_str(text);
                Ok(())
            };
            let output = OutputArgs::default();
            let mut results = Results::new(&output, &mut tell).unwrap();
            let namespace = NamespaceArg { namespace: None };
            let result = set(&node, &documents[0], &namespace, create_annotation, &mut results);
            drop(results);
            result.map(|()| told).map_err(|error| error.to_string())
        };
        let refused = set(false).unwrap_err();
        assert!(
            refused.ends_with("run the command with --create-annotation"),
            "{refused}"
        );
        assert_eq!(set(true), Ok("configmap/c configured\n".to_owned()));
        assert_eq!(set(false), Ok(String::new()));
        let found = node.find(&target).unwrap().unwrap();
        assert_eq!(found["data"], live["data"]);
        let kept: Value = last_applied::read(&found).unwrap().unwrap();
        assert_eq!(
            (&kept["data"], &kept["metadata"]["namespace"]),
            (&json!({ "a": "2" }), &json!("default"))
        );
    }
}
