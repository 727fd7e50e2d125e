//! `microkube replace`.

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::kinds::Object as Typed;
use microkube_store::Written;
use serde_json::Value;

use super::apply::{FileArgs, as_kubectl_pod_error};
use super::delete::ReplacedArgs;
use super::failure::{Failure, complain};
use super::manifests::{self, Configuration};
use super::object_failure::as_kubectl_error;
use super::objects::dry_run::DryRun;
use super::pods_host::{self, Place, Purpose};
use super::print::{emit, is_output_closed};
use super::results::Results;
use super::save_config::SaveConfigArg;
use super::targets::{NodeObjects, Target};
use crate::objects::Part;
use crate::pod::operations::apply::create;
use crate::pod::operations::claims;
use crate::pod::operations::update::Mode;

/// Replace objects with complete new ones from files or stdin
///
/// An object must exist. If the file has a resourceVersion, the object must still have that version. With --force, the
/// object is deleted and created again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube replace -f config.yaml\n  microkube get configmap app -o yaml | sed s/slow/fast/ | microkube replace -f -\n  \
                  microkube replace --force -f pod.yaml"
)]
pub struct ReplaceArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Delete the objects and create them again
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    replaced: ReplacedArgs,
    #[command(flatten)]
    save_config: SaveConfigArg,
}

pub(super) fn run(args: ReplaceArgs) -> Result<ExitCode, Failure> {
    let output = &args.files.output;
    if args.force && output.dry_run != DryRun::None {
        return Err(Failure::from(anyhow!("--dry-run can not be used when --force is set")));
    }
    if !args.force {
        args.replaced.check_without_force().map_err(Failure::from)?;
    }
    let loaded = manifests::load_validated(&args.files.files, &args.files.namespace, args.files.validate)?;
    let purpose = match loaded.manifests.pods.is_empty() || !args.force {
        true => Purpose::Objects,
        false => Purpose::Start,
    };
    let paths = match pods_host::go_to_pods(purpose, loaded.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    loaded.validate.warn(&loaded.manifests.dropped_fields);
    let node = NodeObjects::open(paths, output.dry_run)?;
    let mut errors = Vec::new();
    let mut tell = emit;
    let mut results = Results::new(output, &mut tell)?;
    for configuration in &loaded.configurations {
        let replaced = replace(&node, configuration, &args);
        match replaced {
            Ok(object) => results.add(configuration.kind(), object, "replaced")?,
            Err(error) if is_output_closed(&error) => return Err(error.into()),
            Err(error) => errors.push(error),
        }
    }
    let changed = loaded.configurations.iter().map(Configuration::kind);
    claims::follow_changes(node.paths(), &node.objects, changed);
    for (pod, written) in loaded.manifests.pods.iter().zip(&loaded.manifests.written) {
        let kind = Typed::from(pod.clone()).kind();
        let pod = args
            .save_config
            .pod(pod, written)
            .map_err(|error| as_kubectl_error(error, None));
        let doing = format!("error when replacing {:?}", written.source);
        match pod.and_then(|pod| replace_pod(&node, &pod, &args, &doing)) {
            Ok(new) => results.add(kind, new, "replaced")?,
            Err(error) if is_output_closed(&error) => return Err(error.into()),
            Err(error) => errors.push(error),
        }
    }
    results.print(&mut errors)?;
    errors.iter().for_each(complain);
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

fn replace(node: &NodeObjects, configuration: &Configuration, args: &ReplaceArgs) -> anyhow::Result<Value> {
    let kind = configuration.kind();
    let doing = format!("error when replacing {:?}", configuration.source());
    let worded = |error| as_kubectl_error(error, Some(&doing));
    let value = args.save_config.object(configuration.value()).map_err(worded)?;
    let target = Target::of(kind, &value)?;
    if args.force && kind.kind == "Namespace" {
        bail!(
            "namespace {:?} cannot be replaced by force, because everything in it would be deleted",
            target.key.name
        );
    }
    let replaced = if args.force {
        args.replaced.delete(node.paths(), kind, &target.key, &emit)?;
        node.objects.create_again(kind, &value)
    } else {
        node.objects.replace(kind, &value).map(Written::into_object)
    };
    Ok(replaced.map_err(worded)?.into_value())
}

/// The specification of a Pod cannot change, so a new Pod is needed.
fn replace_pod(node: &NodeObjects, pod: &Pod, args: &ReplaceArgs, doing: &str) -> anyhow::Result<Value> {
    let object = Typed::from(pod.clone());
    let target = Target::of(object.kind(), &object.to_value())?;
    if !args.force {
        let new = object.to_value();
        let changed = node.try_change(&target, Part::Main, &mut |_| Ok(Some(new.clone())));
        return Ok(changed.map_err(|error| error.while_doing(Some(doing)))?.object);
    }
    args.replaced.delete(node.paths(), target.kind, &target.key, &emit)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let created = runtime.block_on(create(node.paths(), pod, Mode::Write));
    let created = created.map_err(|error| as_kubectl_pod_error(target.kind, error, Some(doing)))?;
    Ok(Typed::from(created).to_value())
}
