//! `microkube annotate`.

use std::process::ExitCode;

use super::failure::Failure;
use super::metadata_pairs::{PairArgs, Pairs};

/// Set, remove or list annotations of objects
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube annotate configmap app note='for the shop'\n  microkube annotate secret/login note=new \
                  --overwrite\n  microkube annotate configmaps -l tier=front note-"
)]
pub struct AnnotateArgs {
    #[command(flatten)]
    pairs: PairArgs,
}

pub(super) fn run(args: &AnnotateArgs) -> Result<ExitCode, Failure> {
    Pairs::Annotations.run(&args.pairs)
}
