//! `microkube image save`.

use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use microkube_image::{ImageStore, SaveTo};

/// Save images to an archive, with the same manifests and layers as in their registries
#[derive(Debug, Args)]
#[command(
    after_help = "The archive is an OCI layout; `docker load` and `podman load` accept it.\n\nExample:\n  microkube image save -o web.tar nginx:1.27"
)]
pub struct SaveArgs {
    /// Image names, IDs or unique ID prefixes
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Output file, or directory for oci-dir [default: stdout]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Output format
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
        (Format::OciDir, None) => bail!("--format=oci-dir needs a directory; set it with --output"),
        (Format::OciDir, Some(path)) => drop(store.save(&args.images, SaveTo::Directory(path), path)?),
        (Format::OciArchive, Some(path)) => archive(store, &args.images, path)?,
        (Format::OciArchive, None) => {
            let out = std::io::stdout();
            if out.is_terminal() {
                bail!("refusing to write an archive to a terminal: redirect standard output, or use --output");
            }
            let mut out = BufWriter::with_capacity(1 << 20, out.lock());
            store.save(&args.images, SaveTo::Archive(&mut out), Path::new("standard output"))?;
        }
    }
    Ok(())
}

/// Writes an archive. The file appears only when it is complete.
fn archive(store: &ImageStore, images: &[String], path: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    // Not a regular file: a pipe or device.
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
    // Temporary files are private to their owner. An archive gets the usual permissions of a file, but is never
    // world-writable.
    let permissions = std::fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(permissions).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}
