//! `microkube image inspect`.

use clap::Args;
use microkube_image::{Image, ImageStore};
use serde_json::{Value, json};

use super::users::Users;
use super::{json_text, print};

/// Show details of images as JSON
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  microkube image inspect nginx:1.27")]
pub struct InspectArgs {
    /// Image names, IDs or unique ID prefixes
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(super) fn run(store: &ImageStore, args: &InspectArgs, users: &Users) -> anyhow::Result<()> {
    let all = store.list()?;
    let mut shown: Vec<Value> = Vec::new();
    for name in &args.images {
        if let Some(image) = store.find(name)?.first() {
            shown.push(describe(image, &all, users));
        }
    }
    print(&json_text(&shown.into()))
}

/// The image with the keys of `docker image inspect` and `podman image inspect`.
fn describe(image: &Image, all: &[Image], users: &Users) -> Value {
    let names: Vec<_> = all
        .iter()
        .filter(|other| other.manifest_digest == image.manifest_digest)
        .collect();
    let tags: Vec<_> = names
        .iter()
        .map(|image| &image.reference)
        .filter(|name| !name.contains('@'))
        .collect();
    let mut digests: Vec<_> = names.iter().filter_map(|image| image.repo_digest.as_ref()).collect();
    digests.sort();
    digests.dedup();
    let config = &image.config;
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| json!({ "DiffID": layer.diff_id, "Path": layer.path, "SizeBytes": layer.length_bytes }))
        .collect();
    json!({
        "Id": image.id,
        "Digest": image.manifest_digest,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": config.created(),
        "Author": config.author(),
        "Architecture": config.architecture(),
        "Os": config.os(),
        "Config": config.config(),
        "RootFS": { "Type": "layers", "Layers": config.rootfs().diff_ids() },
        "History": config.history(),
        "Size": image.size_bytes,
        "Layers": layers,
        "UsedBy": users.of_image(image, all),
    })
}
