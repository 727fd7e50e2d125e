//! `microkube image pull`.

use std::io::IsTerminal;

use clap::Args;

use super::print;
use super::progress::Bars;
use crate::image::{ImageStore, Progress, PullPolicy, Quiet};

/// Fetch images from their registries
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  microkube image pull nginx:1.27")]
pub struct PullArgs {
    /// Names of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Print only the images' IDs
    #[arg(short, long)]
    quiet: bool,
}

pub(super) async fn run(store: &ImageStore, args: &PullArgs) -> anyhow::Result<()> {
    for name in &args.images {
        let bars = (!args.quiet && std::io::stderr().is_terminal()).then(Bars::new);
        let progress: &dyn Progress = bars.as_ref().map_or(&Quiet, |bars| bars);
        let image = store.ensure(name, PullPolicy::Always, progress).await?;
        drop(bars);
        let line = if args.quiet { &image.id } else { &image.reference };
        print(&format!("{line}\n"))?;
    }
    Ok(())
}
