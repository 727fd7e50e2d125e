//! `microkube image ls`.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, ValueEnum};
use microkube_image::{Image, ImageStore};
use serde_json::json;

use super::table::{age, size, table};
use super::users::Users;
use super::{json_text, print};

/// List images
#[derive(Debug, Args)]
#[command(
    after_help = "SHARED SIZE is the size of the layers that other images also use. Removing the image frees the other layers.\n\nExample:\n  microkube image ls --digests"
)]
pub struct LsArgs {
    /// Only print image IDs
    #[arg(short, long, conflicts_with_all = ["digests", "format"])]
    quiet: bool,
    /// Show manifest digests
    #[arg(long)]
    digests: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

pub(super) fn run(store: &ImageStore, args: &LsArgs, users: &Users) -> anyhow::Result<()> {
    let images = store.list()?;
    let text = if args.quiet {
        ids(&images)
    } else if args.format == Format::Json {
        json_text(&json_list(&images, users))
    } else {
        rows(&images, users, args.digests, jiff::Timestamp::now())
    };
    print(&text)
}

fn ids(images: &[Image]) -> String {
    let ids: BTreeSet<_> = images.iter().map(|image| format!("{}\n", image.id)).collect();
    ids.into_iter().collect()
}

/// The size of the image's layers that images with another manifest also have.
fn shared_bytes(image: &Image, all: &[Image]) -> u64 {
    let others: BTreeSet<_> = all
        .iter()
        .filter(|other| other.manifest_digest != image.manifest_digest)
        .flat_map(|other| &other.layers)
        .map(|layer| &layer.path)
        .collect();
    let own: BTreeMap<_, _> = image
        .layers
        .iter()
        .map(|layer| (&layer.path, layer.length_bytes))
        .collect();
    own.iter()
        .filter(|(path, _)| others.contains(*path))
        .map(|(_, bytes)| bytes)
        .sum()
}

fn json_list(images: &[Image], users: &Users) -> serde_json::Value {
    let entry = |image: &Image| {
        let (repository, tag) = split_reference(&image.reference);
        json!({
            "id": image.id,
            "name": image.reference,
            "repository": repository,
            "tag": tag,
            "digest": image.manifest_digest,
            "created": image.created().and_then(|text| text.parse::<jiff::Timestamp>().ok()),
            "sizeBytes": image.size_bytes,
            "sharedSizeBytes": shared_bytes(image, images),
            "usedBy": users.of_image(image, images),
        })
    };
    images.iter().map(entry).collect()
}

fn rows(images: &[Image], users: &Users, digests: bool, now: jiff::Timestamp) -> String {
    let mut header = vec![
        "REPOSITORY",
        "TAG",
        "IMAGE ID",
        "CREATED",
        "SIZE",
        "SHARED SIZE",
        "USED BY",
    ];
    if digests {
        header.insert(2, "DIGEST");
    }
    let mut rows = vec![header.into_iter().map(str::to_owned).collect()];
    for image in images {
        let (repository, tag) = split_reference(&image.reference);
        let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        let created = image.created().and_then(|text| text.parse().ok());
        let pods = users.of_image(image, images);
        let mut row = vec![
            repository.to_owned(),
            tag.to_owned(),
            id.chars().take(12).collect(),
            created.map_or_else(|| "-".to_owned(), |time| age(time, now)),
            size(image.size_bytes),
            size(shared_bytes(image, images)),
            if pods.is_empty() {
                "-".to_owned()
            } else {
                pods.join(",")
            },
        ];
        if digests {
            row.insert(2, image.manifest_digest.clone());
        }
        rows.push(row);
    }
    table(&rows)
}

/// Repository and tag. For an image known by its digest the tag is `<none>`, as in Docker, even if it was pulled with a
/// tag as well: the tag alone does not refer to it.
fn split_reference(reference: &str) -> (&str, &str) {
    let (name, has_digest) = match reference.split_once('@') {
        Some((name, _)) => (name, true),
        None => (reference, false),
    };
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, if has_digest { "<none>" } else { tag }),
        _ => (name, "<none>"),
    }
}

#[cfg(test)]
mod tests {
    use microkube_image::{ImageConfiguration, Layer};

    use super::*;

    fn image(reference: &str, digest: &str, layers: &[(&str, u64)]) -> Image {
        let layer = |(name, length_bytes): &(&str, u64)| Layer {
            diff_id: format!("sha256:{name}"),
            path: name.into(),
            length_bytes: *length_bytes,
        };
        let mut config = ImageConfiguration::default();
        config.set_created(Some("2026-01-01T00:00:00Z".to_owned()));
        Image {
            reference: reference.to_owned(),
            id: format!("sha256:{digest}00000000000000"),
            manifest_digest: format!("sha256:{digest}"),
            repo_digest: None,
            config,
            size_bytes: layers.iter().map(|(_, bytes)| bytes).sum(),
            layers: layers.iter().map(layer).collect(),
        }
    }

    #[test]
    fn shared_size_counts_layers_of_other_images() {
        let images = [
            image("docker.io/library/a:1", "aa", &[("base", 1000), ("a", 10)]),
            image("docker.io/library/a:2", "aa", &[("base", 1000), ("a", 10)]),
            image("docker.io/library/b:1", "bb", &[("base", 1000), ("b", 20)]),
        ];
        let users = Users::with("docker.io/library/a:2", "default/web");
        let text = rows(&images, &users, false, "2026-01-03T00:00:00Z".parse().unwrap());
        let expected = "\
REPOSITORY            TAG   IMAGE ID       CREATED      SIZE    SHARED SIZE   USED BY
docker.io/library/a   1     aa0000000000   2 days ago   1.0kB   1.0kB         default/web
docker.io/library/a   2     aa0000000000   2 days ago   1.0kB   1.0kB         default/web
docker.io/library/b   1     bb0000000000   2 days ago   1.0kB   1.0kB         -
";
        assert_eq!(text, expected);
        assert!(rows(&images, &users, true, jiff::Timestamp::now()).contains("sha256:bb"));
        assert_eq!(json_list(&images, &users)[2]["sharedSizeBytes"], 1000);
    }

    #[test]
    fn an_invalid_created_time_is_not_printed() {
        let mut evil = image("docker.io/library/a:1", "aa", &[]);
        evil.config.set_created(Some("\u{1b}[2J".to_owned()));
        let images = [evil];
        let text = rows(&images, &Users::default(), true, jiff::Timestamp::now());
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(
            json_list(&images, &Users::default())[0]["created"],
            serde_json::Value::Null
        );
    }

    #[test]
    fn references_split_into_repository_and_tag() {
        assert_eq!(
            split_reference("docker.io/library/nginx:1"),
            ("docker.io/library/nginx", "1")
        );
        assert_eq!(
            split_reference("localhost:5000/a@sha256:00"),
            ("localhost:5000/a", "<none>")
        );
        assert_eq!(
            split_reference("localhost:5000/a:b@sha256:00"),
            ("localhost:5000/a", "<none>")
        );
    }
}
