//! `microkube create`: creates the objects of manifests, or a generated one.

mod config_map;
mod docker_config;
mod generated;
mod key_pair;
mod name_hash;
mod secret;
mod sources;

use std::process::ExitCode;

use self::generated::GeneratedArgs;
use super::apply::{self, FileArgs, Writing};
use super::failure::Failure;
use super::save_config::SaveConfigArg;

/// Create objects from files or stdin, or an object from arguments; fail if one already exists
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  microkube create -f pod.yaml\n  microkube create -f pod.yaml --dry-run=client -o yaml\n  microkube create configmap \
                  settings --from-literal=colour=blue\n  microkube create secret generic login --from-file=password"
)]
pub struct CreateArgs {
    #[command(subcommand)]
    object: Option<Generator>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    save_config: SaveConfigArg,
}

/// The objects that can be generated.
#[derive(Debug, clap::Subcommand)]
enum Generator {
    #[command(visible_alias = "cm")]
    Configmap(config_map::ConfigMapArgs),
    Secret(secret::SecretArgs),
    #[command(visible_alias = "sa")]
    Serviceaccount(ServiceAccountArgs),
    #[command(visible_alias = "ns")]
    Namespace(NamespaceArgs),
}

/// Create a service account
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  microkube create serviceaccount builder")]
struct ServiceAccountArgs {
    /// Name of the service account
    name: String,
    #[command(flatten)]
    generated: GeneratedArgs,
}

/// Create a namespace
///
/// A namespace is also created with the first object in it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  microkube create namespace shop")]
struct NamespaceArgs {
    /// Name of the namespace
    name: String,
    #[command(flatten)]
    generated: GeneratedArgs,
}

pub(super) fn run(args: CreateArgs) -> Result<ExitCode, Failure> {
    match args.object {
        None => apply::from_files(&args.files, None, Writing::Create(args.save_config)),
        Some(Generator::Configmap(args)) => config_map::run(&args),
        Some(Generator::Secret(args)) => secret::run(args),
        Some(Generator::Serviceaccount(args)) => {
            let account = generated::service_account(&args.name);
            generated::create(account, &args.generated, Some("failed to create serviceaccount:"), None)
        }
        Some(Generator::Namespace(args)) => {
            let namespace = generated::namespace(&args.name);
            generated::create(namespace, &args.generated, None, None)
        }
    }
}
