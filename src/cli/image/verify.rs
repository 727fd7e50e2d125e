//! `microkube image verify`.

use anyhow::bail;
use clap::Args;
use microkube_image::{ImageStore, Verification};

use super::print;

/// Check images against their digests
#[derive(Debug, Args)]
#[command(
    after_help = "With MICROKUBE_VERIFY_LAYERS=yes, microkube verifies and repairs a Pod's layers whenever the Pod starts.\n\nExample:\n  microkube image verify --repair"
)]
pub struct VerifyArgs {
    /// Image names, IDs or unique ID prefixes [default: all images]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Rebuild damaged content, or remove it so that it is pulled again
    #[arg(long)]
    repair: bool,
}

pub(super) fn run(store: &ImageStore, args: &VerifyArgs) -> anyhow::Result<()> {
    let how = Verification {
        blobs: true,
        repair: args.repair,
    };
    let names: Vec<Option<&str>> = if args.images.is_empty() {
        vec![None]
    } else {
        args.images.iter().map(|name| Some(name.as_str())).collect()
    };
    let mut damaged = 0;
    for name in names {
        for image in store.verify_named(name, how)? {
            if image.is_intact() {
                print(&format!("{}: intact\n", image.reference))?;
                continue;
            }
            let mut whole = true;
            for problem in &image.problems {
                let outcome = match (args.repair, problem.repaired) {
                    (_, true) => "; rebuilt",
                    (true, false) => "; removed; pull the image again",
                    (false, false) => "",
                };
                whole &= problem.repaired;
                print(&format!(
                    "{}: {}: {}{outcome}\n",
                    image.reference, problem.what, problem.why
                ))?;
            }
            damaged += usize::from(!whole);
        }
    }
    if damaged > 0 {
        let advice = if args.repair {
            "pull them again"
        } else {
            "use --repair to rebuild or remove damaged content"
        };
        bail!("{damaged} images are damaged: {advice}");
    }
    Ok(())
}
