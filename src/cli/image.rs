//! `microkube image`: what is in the image store, and what gets in and out of it.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::image::{Image, ImageStore, Progress, PullPolicy, Quiet};

/// Manage the images on this host
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  microkube image ls")]
pub struct ImageArgs {
    /// Directory of the state that survives a reboot
    #[arg(
        long,
        env = "MICROKUBE_STATE_DIR",
        default_value = "/var/lib/microkube",
        global = true,
        hide = true
    )]
    state_dir: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Fetch images from their registries
    #[command(after_help = "Example:\n  microkube image pull nginx:1.27")]
    Pull {
        /// Names of images
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Print only the images' IDs
        #[arg(short, long)]
        quiet: bool,
    },
    /// List the images that are here
    #[command(after_help = "Example:\n  microkube image ls -q")]
    Ls {
        /// Print only the images' IDs
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove images by name or ID
    #[command(after_help = "Example:\n  microkube image rm nginx:1.27")]
    Rm {
        /// Names, IDs, or unique starts of IDs
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Add images from an OCI layout (directory or tar archive) or from an archive by `docker save`
    #[command(after_help = "Example:\n  microkube image load ./app.oci.tar --name registry.example.org/app:v1")]
    Load {
        /// Directory or archive
        path: PathBuf,
        /// Name of the image, if it has none of its own or is to be called differently
        #[arg(long)]
        name: Option<String>,
    },
}

/// Runs a verb of `microkube image`.
pub async fn run(args: ImageArgs) -> anyhow::Result<()> {
    let store = ImageStore::open(args.state_dir.join("images"))?;
    let mut out = std::io::stdout();
    match args.verb {
        Verb::Pull { images, quiet } => {
            for name in images {
                let bars = (!quiet && std::io::stderr().is_terminal()).then(Bars::new);
                let progress: &dyn Progress = bars.as_ref().map_or(&Quiet, |bars| bars);
                let image = store.ensure(&name, PullPolicy::Always, progress).await?;
                drop(bars);
                let line = if quiet { &image.id } else { &image.reference };
                print(&mut out, format_args!("{line}\n"))?;
            }
        }
        Verb::Ls { quiet } => {
            let images = store.list()?;
            let text = if quiet {
                ids(&images)
            } else {
                table(&images, jiff::Timestamp::now())
            };
            print(&mut out, format_args!("{text}"))?;
        }
        Verb::Rm { images } => {
            for name in images {
                for reference in store.remove(&name)?.references {
                    print(&mut out, format_args!("removed {reference}\n"))?;
                }
            }
        }
        Verb::Load { path, name } => {
            let bars = std::io::stderr().is_terminal().then(Bars::new);
            let load = move || {
                let progress: &dyn Progress = bars.as_ref().map_or(&Quiet, |bars| bars);
                store.load(&path, name.as_deref(), progress)
            };
            for image in tokio::task::spawn_blocking(load).await.context("loading stopped")?? {
                print(&mut out, format_args!("loaded {}\n", image.reference))?;
            }
        }
    }
    Ok(())
}

fn print(out: &mut impl Write, text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    match out.write_fmt(text).and_then(|()| out.flush()) {
        // Whoever reads has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

fn ids(images: &[Image]) -> String {
    let mut ids: Vec<_> = images.iter().map(|image| format!("{}\n", image.id)).collect();
    ids.sort();
    ids.dedup();
    ids.concat()
}

fn table(images: &[Image], now: jiff::Timestamp) -> String {
    let mut rows = vec![["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned)];
    for image in images {
        let (repository, tag) = split_reference(&image.reference);
        let id = image
            .id
            .strip_prefix("sha256:")
            .unwrap_or(&image.id)
            .chars()
            .take(12)
            .collect();
        let created = image.created().and_then(|text| text.parse().ok());
        let created = created.map_or_else(|| "-".to_owned(), |time| age(time, now));
        rows.push([
            repository.to_owned(),
            tag.to_owned(),
            id,
            created,
            size(image.size_bytes),
        ]);
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.len())
                .max()
                .unwrap_or(0);
            line += &format!("{cell:width$}   ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Repository and tag; of an image known by digest only, `<none>` as Docker shows it.
fn split_reference(reference: &str) -> (&str, &str) {
    let name = reference.split('@').next().unwrap_or(reference);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "<none>"),
    }
}

fn age(then: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        172_800..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 {
        format!("{value:.0}{unit}")
    } else {
        format!("{value:.1}{unit}")
    }
}

/// A bar a layer on the terminal.
#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    layers: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            layers: Mutex::default(),
        }
    }

    fn layer(&self, digest: &str, total_bytes: u64) -> ProgressBar {
        let mut layers = self.layers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let bar = layers.entry(digest.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {bytes:>10}/{total_bytes:<10} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let short: String = digest.chars().skip("sha256:".len()).take(12).collect();
            self.all
                .add(ProgressBar::new(total_bytes))
                .with_style(style)
                .with_prefix(short)
        });
        bar.clone()
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // Finished bars stay, and the cursor at the end of the last one.
        let layers = self.layers.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if layers.values().any(ProgressBar::is_finished) {
            eprintln!();
        }
    }
}

impl Progress for Bars {
    fn layer_bytes(&self, digest: &str, received_bytes: u64, total_bytes: u64) {
        self.layer(digest, total_bytes).set_position(received_bytes);
    }

    fn layer_done(&self, digest: &str, present: bool) {
        let bar = self.layer(digest, 0);
        bar.finish_with_message(if present { "already here" } else { "done" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("localhost:5000/a", "b")
        );
    }

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!(size(999), "999B");
        assert_eq!(size(4_096), "4.1kB");
        assert_eq!(size(115_074_560), "115MB");
        let then: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(age(then, "2026-01-01T00:00:01Z".parse().unwrap()), "1 second ago");
        assert_eq!(age(then, "2026-01-04T00:00:00Z".parse().unwrap()), "3 days ago");
        assert_eq!(age(then, "2025-12-31T00:00:00Z".parse().unwrap()), "0 seconds ago");
    }
}
