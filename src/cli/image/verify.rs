//! `microkube image verify`.

use anyhow::bail;
use clap::Args;
use microkube_image::{ImageStore, Verification};

use super::print;

/// Read images and compare them with their digests
#[derive(Debug, Args)]
#[command(
    after_help = "MICROKUBE_VERIFY_LAYERS=yes does so (with --repair) whenever a Pod starts.\n\nExample:\n  microkube image verify --repair"
)]
pub struct VerifyArgs {
    /// Names, IDs, or unique starts of IDs; all images if there is none
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Make again what is damaged, or remove it so that it is pulled again
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
                    (_, true) => "; made again",
                    (true, false) => "; removed, to be pulled again",
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
            "--repair puts them right or removes what is damaged"
        };
        bail!("{damaged} of the images are damaged: {advice}");
    }
    Ok(())
}
