//! Entry points for the fuzz targets (`tests/fuzz`), which cannot reach private items.

use std::fs::File;
use std::io::{Seek, Write};

use super::archive::Files;
use super::load;
use super::manifest::{self, Blob, Manifest};
use super::reference::Digest;

pub use super::registry::fuzzing::registry_response;

thread_local! {
    static ARCHIVE: File = tempfile::tempfile().expect("a scratch file");
}

/// Reads an image archive as loading does, up to the layers.
pub fn image_archive(data: &[u8]) {
    let mut file = ARCHIVE.with(File::try_clone).expect("a descriptor");
    file.set_len(0).expect("a file that can be truncated");
    file.rewind().expect("a file that can be rewound");
    file.write_all(data).expect("a file that can be written");
    let Ok(files) = Files::archive(file) else { return };
    load::read_all(&files);
}

/// Parses a configuration as pulling and loading do.
pub fn image_config(data: &[u8]) {
    let blob = |digest| Blob { digest, size_bytes: 1 };
    // The manifest determines how many layers there must be.
    let layers = data.windows(7).filter(|part| part == b"sha256:").count();
    let manifest = Manifest {
        config: blob(Digest::of(data)),
        layers: (0..layers).map(|_| blob(Digest::of(b""))).collect(),
    };
    match manifest::join(&manifest, data) {
        Ok((config, layers)) => {
            assert_eq!(config.rootfs().diff_ids().len(), layers.len());
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.chars().any(super::is_unprintable), "{text:?}");
        }
    }
}
