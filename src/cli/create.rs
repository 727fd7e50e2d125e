//! `microkube create`.

use std::process::ExitCode;

use super::apply::{self, FileArgs};
use super::failure::Failure;
use crate::pod::operations::apply::Existing;

/// Start the Pods of manifests; one that is there already is an error
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube create -f pod.yaml\n  microkube create -f pod.yaml --dry-run=client -o yaml"
)]
pub struct CreateArgs {
    #[command(flatten)]
    files: FileArgs,
}

/// Runs the verb.
pub(super) fn run(args: CreateArgs) -> Result<ExitCode, Failure> {
    apply::from_files(&args.files, Existing::Refuse)
}
