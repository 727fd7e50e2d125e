//! One layer on its way from a compressed stream to an EROFS file: decompression in one thread, hashing and writing in
//! another, with a few hundred kilobytes between them.

use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::decompress::Decompress;
use super::erofs::{self, ErofsError, OutputError};
use super::reference::Digest;

const CHUNK: usize = 256 * 1024;
const CHUNKS_AHEAD: usize = 4;

/// A layer as an EROFS file that is not in the store yet, and is deleted when dropped.
#[derive(Debug)]
pub(super) struct Converted {
    pub file: NamedTempFile,
    /// Digest of the uncompressed stream.
    pub diff_id: Digest,
}

/// Converts the layer that `compressed` streams into a new file in `directory`. `compressed` is read to its end.
pub(super) fn convert(compressed: impl Read + Send, directory: &Path) -> Result<Converted, ErofsError> {
    let file = tempfile::Builder::new()
        .prefix("layer-")
        .tempfile_in(directory)
        .map_err(OutputError)?;
    let scratch = tempfile::tempfile_in(directory).map_err(OutputError)?;
    let diff_id = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
        scope.spawn(move || decompress(compressed, &sender));
        let mut stream = Hashing {
            receiver,
            hash: Sha256::new(),
            chunk: Vec::new(),
            position: 0,
            ended: false,
        };
        erofs::write_layer(&mut stream, file.as_file(), scratch)?;
        // The digest covers what follows the archive's end, too.
        io::copy(&mut stream, &mut io::sink()).map_err(|error| ErofsError::Tar(error.into()))?;
        Ok::<_, ErofsError>(Digest::from_hash(stream.hash))
    })?;
    Ok(Converted { file, diff_id })
}

/// Sends chunks of the plain stream, an empty one at its end. Stops early when nobody listens any more.
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
            // Only the end of the source says that it was complete and that its digest was right.
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
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.chunk.len() && !self.ended {
            let received = self
                .receiver
                .recv()
                .map_err(|_| io::Error::other("the decompression ended unexpectedly"))?;
            self.chunk = received?;
            self.hash.update(&self.chunk);
            self.position = 0;
            self.ended = self.chunk.is_empty();
        }
        let count = self.chunk.get(self.position..).unwrap_or_default().read(buffer)?;
        self.position += count;
        Ok(count)
    }
}
