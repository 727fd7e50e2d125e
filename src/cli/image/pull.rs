//! `microkube image pull`.

use clap::Args;
use microkube_image::{ImageStore, PullPolicy};

use super::print;
use super::progress;

/// Pull images from their registries
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  microkube image pull nginx:1.27\n\n\
    Credentials come from the files of `podman login` and `docker login`, mirrors and insecure registries from\n\
    /etc/containers/registries.conf, certificates from /etc/containers/certs.d and /etc/docker/certs.d.")]
pub struct PullArgs {
    /// Image names
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Only print image IDs
    #[arg(short, long)]
    quiet: bool,
}

pub(super) async fn run(store: &ImageStore, args: &PullArgs) -> anyhow::Result<()> {
    for name in &args.images {
        let progress = progress::for_stderr(args.quiet);
        let image = store.ensure(name, PullPolicy::Always, &[], &*progress).await;
        // Finishes the bars before an error is printed.
        drop(progress);
        let image = image?;
        let line = if args.quiet { &image.id } else { &image.reference };
        print(&format!("{line}\n"))?;
    }
    Ok(())
}
