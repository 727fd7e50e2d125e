//! `microkube image save`.

use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use microkube_image::{ImageStore, SaveTo};

/// Save images, with exactly the manifests and layers that their registries have
#[derive(Debug, Args)]
#[command(
    after_help = "The archive is an OCI layout, and what `docker load` and `podman load` take.\n\nExample:\n  microkube image save -o web.tar nginx:1.27"
)]
pub struct SaveArgs {
    /// Names, IDs, or unique starts of IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// File, or directory for oci-dir; standard output if it is missing
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::OciArchive)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A tar archive of an OCI layout
    OciArchive,
    /// An OCI layout in a directory
    OciDir,
}

pub(super) fn run(store: &ImageStore, args: &SaveArgs) -> anyhow::Result<()> {
    match (args.format, args.output.as_deref()) {
        (Format::OciDir, None) => bail!("a directory needs a name: give it with --output"),
        (Format::OciDir, Some(path)) => drop(store.save(&args.images, SaveTo::Directory(path), path)?),
        (Format::OciArchive, Some(path)) => archive(store, &args.images, path)?,
        (Format::OciArchive, None) => {
            let out = std::io::stdout();
            if out.is_terminal() {
                bail!("an archive is nothing for a terminal: redirect standard output, or use --output");
            }
            let mut out = BufWriter::with_capacity(1 << 20, out.lock());
            store.save(&args.images, SaveTo::Archive(&mut out), Path::new("standard output"))?;
        }
    }
    Ok(())
}

/// The file appears when it is complete.
fn archive(store: &ImageStore, images: &[String], path: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    // Not a regular file: a pipe, a device.
    if path.exists() && !path.is_file() {
        let file = std::fs::File::options().write(true).open(path).with_context(failed)?;
        store.save(
            images,
            SaveTo::Archive(&mut BufWriter::with_capacity(1 << 20, file)),
            path,
        )?;
        return Ok(());
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let file = tempfile::Builder::new()
        .prefix(".microkube-save-")
        .tempfile_in(directory);
    let mut file = file.with_context(failed)?;
    store.save(
        images,
        SaveTo::Archive(&mut BufWriter::with_capacity(1 << 20, file.as_file_mut())),
        path,
    )?;
    file.flush().with_context(failed)?;
    use std::os::unix::fs::PermissionsExt;
    // Temporary files are their owner's; an archive is as other files that the user makes, but not for everyone to write.
    let permissions = std::fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(permissions).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}
