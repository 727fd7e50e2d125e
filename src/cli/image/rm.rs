//! `microkube image rm`.

use clap::Args;

use super::print;
use crate::image::ImageStore;

/// Remove images by name or ID
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  microkube image rm nginx:1.27")]
pub struct RmArgs {
    /// Names, IDs, or unique starts of IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(super) fn run(store: &ImageStore, args: &RmArgs) -> anyhow::Result<()> {
    for name in &args.images {
        for reference in store.remove(name)?.references {
            print(&format!("removed {reference}\n"))?;
        }
    }
    Ok(())
}
