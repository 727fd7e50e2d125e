//! Converts a layer from a compressed stream to an EROFS file. One thread decompresses, another hashes and writes, with
//! a few hundred kilobytes between them. The original stream can be kept as well.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use microkube_erofs::{ErofsError, LowerLayers, OutputError, Volume, VolumeError};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::decompress::Decompress;
use super::error::{LayerError, PullError, StoreError};
use super::manifest::LayerBlob;
use super::options::Options;
use super::reference::Digest;

const CHUNK: usize = 256 * 1024;
const CHUNKS_AHEAD: usize = 4;

/// A converted layer that is not in the store yet. It is deleted when dropped.
#[derive(Debug)]
pub(super) struct Converted {
    pub file: LayerFiles,
    /// Digest of the uncompressed stream.
    pub diff_id: Digest,
}

/// The files of a layer.
#[derive(Debug)]
pub(super) struct LayerFiles {
    pub erofs: NamedTempFile,
    /// The original stream and its digest.
    pub blob: Option<(NamedTempFile, Digest)>,
}

/// Converts the layer that `compressed` streams into new files in `directory`. `compressed` is read to its end. If its
/// digest is already known, it is not computed.
pub(super) fn convert(
    compressed: impl Read + Send,
    directory: &Path,
    options: &Options,
    known: Option<Digest>,
) -> Result<Converted, ErofsError> {
    let blob = tempfile::Builder::new().prefix("blob-").tempfile_in(directory);
    let mut tee = Tee {
        inner: compressed,
        copy: blob.map_err(OutputError)?,
        hash: known.is_none().then(Sha256::new),
    };
    let (erofs, diff_id) = write(&mut tee, directory, options, None)?;
    let blob = known
        .or(tee.hash.map(Digest::from_hash))
        .map(|digest| (tee.copy, digest));
    Ok(Converted {
        file: LayerFiles { erofs, blob },
        diff_id,
    })
}

/// Converts a layer that is already present; with `lower`, for its place above these layers.
pub(super) fn convert_blob(
    blob: File,
    directory: &Path,
    options: &Options,
    lower: Option<&LowerLayers>,
) -> Result<Converted, ErofsError> {
    let (erofs, diff_id) = write(blob, directory, options, lower)?;
    Ok(Converted {
        file: LayerFiles { erofs, blob: None },
        diff_id,
    })
}

/// Merges several layers, lowest first, into one file.
pub(super) fn merge(layers: &LowerLayers, directory: &Path, options: &Options) -> Result<NamedTempFile, ErofsError> {
    let (file, scratch) = new_files(directory)?;
    microkube_erofs::merge(layers, file.as_file(), scratch, &options.limits, options.compression)?;
    Ok(file)
}

/// Checks the result of a conversion against the image's documents.
pub(super) fn accept(
    converted: Result<Converted, ErofsError>,
    layer: &LayerBlob,
    directory: &Path,
) -> Result<Converted, PullError> {
    let converted = converted.map_err(|error| match error {
        ErofsError::Output(error) => StoreError::of("write a layer in", directory)(error.0).into(),
        source => PullError::Layer {
            digest: layer.blob.digest.to_string(),
            source: source.into(),
        },
    })?;
    if converted.diff_id != layer.diff_id {
        return Err(PullError::Digest {
            what: format!("the content of layer {}", layer.blob.digest),
            expected: layer.diff_id.to_string(),
            actual: converted.diff_id.to_string(),
        });
    }
    Ok(converted)
}

/// Opens a layer's file; `None` if it is missing, visibly damaged or of another version.
pub(super) fn open_volume(path: &Path) -> Result<Option<Volume>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::of("open", path)(error)),
    };
    match Volume::open(file) {
        Ok(volume) => Ok(Some(volume)),
        Err(VolumeError::Io(error)) => Err(StoreError::of("read", path)(error)),
        Err(error) => {
            tracing::debug!(%error, path = %path.display(), "not using the layer's file");
            Ok(None)
        }
    }
}

/// A file for an image, and the scratch files that its writer needs.
fn new_files(directory: &Path) -> Result<(NamedTempFile, [File; 2]), OutputError> {
    let file = tempfile::Builder::new().prefix("layer-").tempfile_in(directory);
    let scratch = || tempfile::tempfile_in(directory).map_err(OutputError);
    Ok((file.map_err(OutputError)?, [scratch()?, scratch()?]))
}

fn write(
    compressed: impl Read + Send,
    directory: &Path,
    options: &Options,
    lower: Option<&LowerLayers>,
) -> Result<(NamedTempFile, Digest), ErofsError> {
    let (file, scratch) = new_files(directory)?;
    let diff_id = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
        let decompressing = std::thread::Builder::new().spawn_scoped(scope, move || decompress(compressed, &sender));
        decompressing.map_err(|error| OutputError(io::Error::other(format!("cannot start a thread: {error}"))))?;
        let mut stream = Hashing {
            receiver,
            hash: Sha256::new(),
            chunk: Vec::new(),
            position: 0,
            ended: false,
            left_bytes: stream_max_bytes(options),
            max_bytes: options.limits.bytes,
        };
        let (limits, compression) = (&options.limits, options.compression);
        microkube_erofs::write_layer(&mut stream, file.as_file(), scratch, limits, compression, lower)?;
        // The digest also covers the data after the end of the archive.
        io::copy(&mut stream, &mut io::sink()).map_err(|error| ErofsError::Tar(error.into()))?;
        Ok::<_, ErofsError>(Digest::from_hash(stream.hash))
    })?;
    Ok((file, diff_id))
}

/// Maximum size of the uncompressed stream, in bytes: the content, and a few headers per file.
fn stream_max_bytes(options: &Options) -> u64 {
    options
        .limits
        .bytes
        .saturating_add(u64::from(options.limits.files).saturating_mul(2048))
}

/// Copies and hashes data as it is read.
struct Tee<R> {
    inner: R,
    copy: NamedTempFile,
    hash: Option<Sha256>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.copy.write_all(bytes)?;
        Ok(count)
    }
}

/// Sends chunks of the decompressed stream, then an empty one. Stops early if the receiver is gone.
fn decompress(compressed: impl Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    let mut plain = match Decompress::new(compressed) {
        Ok(plain) => plain,
        Err(error) => {
            let _ = sender.send(Err(error));
            return;
        }
    };
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let result = match plain.by_ref().take(CHUNK as u64).read_to_end(&mut chunk) {
            // Only the end of the source proves that it was complete and had the right digest.
            Ok(0) => plain.drain().map(|_| chunk),
            Ok(_) => Ok(chunk),
            Err(error) => Err(error),
        };
        let last = !matches!(&result, Ok(chunk) if !chunk.is_empty());
        if sender.send(result).is_err() || last {
            return;
        }
    }
}

/// Receives the chunks and hashes them.
struct Hashing {
    receiver: Receiver<io::Result<Vec<u8>>>,
    hash: Sha256,
    chunk: Vec<u8>,
    position: usize,
    ended: bool,
    left_bytes: u64,
    max_bytes: u64,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.chunk.len() && !self.ended {
            let received = self
                .receiver
                .recv()
                .map_err(|_| io::Error::other("the decompression ended unexpectedly"))?;
            self.chunk = received?;
            let left = self.left_bytes.checked_sub(self.chunk.len() as u64);
            let limit = self.max_bytes;
            self.left_bytes =
                left.ok_or_else(|| io::Error::other(LayerError::from(ErofsError::TooManyBytes { limit })))?;
            self.hash.update(&self.chunk);
            self.position = 0;
            self.ended = self.chunk.is_empty();
        }
        let count = self.chunk.get(self.position..).unwrap_or_default().read(buffer)?;
        self.position += count;
        Ok(count)
    }
}
