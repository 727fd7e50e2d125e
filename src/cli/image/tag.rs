//! `microkube image tag`.

use clap::Args;
use microkube_image::ImageStore;

/// Give an image another name
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  microkube image tag nginx:1.27 registry.example.org/web:stable")]
pub struct TagArgs {
    /// Image name, ID or unique ID prefix
    image: String,
    /// Additional names for the image
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub(super) fn run(store: &ImageStore, args: &TagArgs) -> anyhow::Result<()> {
    for name in &args.names {
        store.tag(&args.image, name)?;
    }
    Ok(())
}
