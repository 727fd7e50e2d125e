//! `microkube image rm`.

use anyhow::bail;
use clap::Args;
use microkube_image::{Image, ImageStore};

use super::print;
use super::table::size;
use super::users::Users;

/// Remove images by name or ID
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  microkube image rm nginx:1.27")]
pub struct RmArgs {
    /// Image names, IDs or unique ID prefixes
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Also remove images that Pods use (the Pods keep running), and all names of an image given by ID
    #[arg(short, long)]
    force: bool,
}

pub(super) fn run(store: &ImageStore, args: &RmArgs, users: &Users) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    let mut freed_bytes = 0;
    for name in &args.images {
        // A failure does not prevent the removal of the others.
        match remove(store, name, args.force, users) {
            Ok(freed) => freed_bytes += freed,
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    if freed_bytes > 0 {
        print(&format!("freed {}\n", size(freed_bytes)))?;
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

fn remove(store: &ImageStore, name: &str, force: bool, users: &Users) -> anyhow::Result<u64> {
    let images = store.find(name)?;
    if !force {
        refuse(name, &images, users)?;
    }
    let removed = store.remove(name)?;
    for reference in removed.references {
        print(&format!("removed {reference}\n"))?;
    }
    Ok(removed.freed_bytes)
}

fn refuse(name: &str, images: &[Image], users: &Users) -> anyhow::Result<()> {
    for image in images {
        let pods = users.of_name(&image.reference);
        if !pods.is_empty() {
            bail!(
                "image {} is used by Pod {}; use --force to remove it anyway",
                image.reference,
                pods.join(", ")
            );
        }
    }
    if images.len() > 1 {
        let names: Vec<_> = images.iter().map(|image| image.reference.as_str()).collect();
        bail!(
            "{name} has several names ({}); remove one of them, or use --force for all",
            names.join(", ")
        );
    }
    Ok(())
}
