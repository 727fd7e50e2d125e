//! `microkube image load`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use microkube_image::{ImageStore, Progress};

use super::print;
use super::progress::{Bars, Notes};

/// Load images from an OCI layout (directory or tar archive) or a `docker save` archive
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  microkube image load ./app.oci.tar --name registry.example.org/app:v1\n  docker save app | microkube image load"
)]
pub struct LoadArgs {
    /// Directory or archive; `-` reads an archive from stdin
    #[arg(default_value = "-")]
    path: PathBuf,
    /// Name for the image, instead of the archive's; required if the archive has none
    #[arg(long)]
    name: Option<String>,
}

pub(super) fn run(store: &ImageStore, args: &LoadArgs) -> anyhow::Result<()> {
    if args.path.as_os_str() == "-" && std::io::stdin().is_terminal() {
        anyhow::bail!(
            "standard input is a terminal; give a file or directory, or redirect an archive to standard input"
        );
    }
    let bars = std::io::stderr().is_terminal().then(Bars::new);
    let progress: &dyn Progress = bars.as_ref().map_or(&Notes, |bars| bars);
    let images = store.load(&args.path, args.name.as_deref(), progress)?;
    drop(bars);
    for image in images {
        print(&format!("loaded {}\n", image.reference))?;
    }
    Ok(())
}
