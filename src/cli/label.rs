//! `microkube label`.

use std::process::ExitCode;

use super::failure::Failure;
use super::metadata_pairs::{PairArgs, Pairs};

/// Set, remove or list labels of objects
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube label configmap app tier=front\n  microkube label secret/login tier=back --overwrite\n  microkube label \
                  configmaps --all tier-\n  microkube label configmap app --list"
)]
pub struct LabelArgs {
    #[command(flatten)]
    pairs: PairArgs,
}

pub(super) fn run(args: &LabelArgs) -> Result<ExitCode, Failure> {
    Pairs::Labels.run(&args.pairs)
}
