//! The common part of the generators: printing and creating a generated object.

use std::process::ExitCode;

use anyhow::anyhow;
use k8s_openapi::api::core::v1::{Namespace, NamespaceSpec, NamespaceStatus, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use microkube_manifest::kinds;
use serde_json::Value;

use super::super::failure::Failure;
use super::super::field_manager::FieldManagerArg;
use super::super::namespace::NamespaceArg;
use super::super::object_failure::as_kubectl_error;
use super::super::objects::dry_run::DryRun;
use super::super::objects::table::type_in_names;
use super::super::pods::format::{Format, Objects as Printed};
use super::super::pods::output::FormatArgs;
use super::super::pods_host::{self, Place, Purpose};
use super::super::print::emit;
use super::super::save_config::SaveConfigArg;
use super::super::validate::ValidateArg;
use crate::objects::{ObjectError, Objects};

/// Where the object is created, and the output.
#[derive(Debug, clap::Args)]
pub(super) struct GeneratedArgs {
    #[command(flatten)]
    namespace: NamespaceArg,
    /// Print the object without creating it: client (as generated) or server (with all defaults)
    #[arg(long, value_enum, default_value_t = DryRun::None, num_args = 0..=1, require_equals = true, default_missing_value = "client", value_name = "WHERE")]
    dry_run: DryRun,
    #[command(flatten)]
    save_config: SaveConfigArg,
    // Without effect: a generated object has no unknown fields.
    #[command(flatten)]
    _validate: ValidateArg,
    #[command(flatten)]
    _field_manager: FieldManagerArg,
    #[command(flatten)]
    format: FormatArgs,
}

/// The metadata of an object with this name.
pub(super) fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

pub(super) fn service_account(name: &str) -> kinds::Object {
    let account = ServiceAccount {
        metadata: named(name),
        ..ServiceAccount::default()
    };
    account.into()
}

/// Adds the empty fields that kubectl prints.
pub(super) fn namespace(name: &str) -> kinds::Object {
    let namespace = Namespace {
        metadata: named(name),
        spec: Some(NamespaceSpec::default()),
        status: Some(NamespaceStatus::default()),
    };
    namespace.into()
}

/// Creates the object, or only prints it. `failed` precedes the messages of most kinds. `consumed_stdin` is the content
/// of standard input, if it was read.
pub(super) fn create(
    mut object: kinds::Object,
    args: &GeneratedArgs,
    failed: Option<&'static str>,
    consumed_stdin: Option<&[u8]>,
) -> Result<ExitCode, Failure> {
    let format = args.format.format()?;
    let format = format.as_ref();
    let kind = object.kind();
    if kind.namespaced {
        object.metadata_mut().namespace.clone_from(&args.namespace.namespace);
    }
    if args.dry_run == DryRun::Client {
        let object = args.save_config.object(object.to_value());
        return print(object.map_err(|error| worded(error, None))?, args, format);
    }
    if kind.namespaced {
        object.metadata_mut().namespace = Some(args.namespace.or_default());
    }
    let paths = match pods_host::go_to_pods(Purpose::Start, consumed_stdin)? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let objects = Objects::open(&paths).map_err(|error| worded(error, None))?;
    let objects = match args.dry_run {
        DryRun::Server => objects.dry_run(),
        DryRun::None | DryRun::Client => objects,
    };
    let value = args.save_config.object(object.to_value());
    match value.and_then(|value| objects.create(kind, &value)) {
        Ok(created) => print(created.into_value(), args, format),
        Err(error) if !error.problems().is_empty() => Err(Failure::from(worded(error, failed))),
        Err(error) => Err(worded(error, failed).into()),
    }
}

/// Words an error as kubectl does.
fn worded(error: ObjectError, failed: Option<&str>) -> anyhow::Error {
    match (failed, error.reason()) {
        (Some(failed), Some(_)) => anyhow!("{failed} {error}"),
        _ => as_kubectl_error(error, None),
    }
}

fn print(object: Value, args: &GeneratedArgs, format: Option<&Format>) -> Result<ExitCode, Failure> {
    emit(&text(object, args, format)?)?;
    Ok(ExitCode::SUCCESS)
}

fn text(object: Value, args: &GeneratedArgs, format: Option<&Format>) -> anyhow::Result<String> {
    if let Some(format) = format {
        return format.print(&Printed::One(args.format.shown(object, format)), true);
    }
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = kinds::find(text("/apiVersion"), text("/kind"));
    Ok(format!(
        "{}/{} created{}\n",
        kind.map(type_in_names).unwrap_or_default(),
        text("/metadata/name"),
        args.dry_run.note()
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The output of `--dry-run=client` for an object.
    pub(in crate::cli::create) fn printed(object: &kinds::Object, words: &[&str]) -> String {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: GeneratedArgs,
        }
        let words = ["create"].iter().chain(words);
        let args = <Cli as clap::Parser>::try_parse_from(words).unwrap().args;
        let object = args.save_config.object(object.to_value()).unwrap();
        let format = args.format.format().unwrap();
        text(object, &args, format.as_ref()).unwrap()
    }

    #[test]
    fn generated_objects_are_printed_as_by_kubectl() {
        let yaml = ["--dry-run=client", "-o", "yaml"];
        assert_eq!(
            printed(&namespace("shop"), &yaml),
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\nspec: {}\nstatus: {}\n"
        );
        assert_eq!(
            printed(&service_account("builder"), &yaml),
            "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: builder\n"
        );
        let saved = printed(
            &service_account("a"),
            &[
                "--save-config",
                "--dry-run=client",
                "-o",
                "jsonpath={.metadata.annotations}",
            ],
        );
        assert_eq!(
            saved,
            r#"{"kubectl.kubernetes.io/last-applied-configuration":"{\"apiVersion\":\"v1\",\"kind\":\"ServiceAccount\",\"metadata\":{\"annotations\":{},\"name\":\"a\"}}\n"}"#
        );
        for (words, expected) in [
            (&[][..], "serviceaccount/a created\n"),
            (&["--dry-run"], "serviceaccount/a created (dry run)\n"),
            (&["--dry-run=server"], "serviceaccount/a created (server dry run)\n"),
            (&["-o", "name"], "serviceaccount/a\n"),
            (&["--template={{.kind}}"], "ServiceAccount"),
        ] {
            assert_eq!(printed(&service_account("a"), words), expected);
        }
    }
}
