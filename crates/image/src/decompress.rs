//! Decompresses layers: gzip, zstd, or no compression, recognised by their first bytes.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const INPUT_BUFFER: usize = 64 * 1024;

/// How a stream is compressed, judged by its first bytes and not by a name or media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstd,
    /// A known compression that is not supported.
    Unsupported(&'static str),
}

impl Packing {
    /// How many bytes of a stream are needed to recognise it.
    pub const HEAD_BYTES: u64 = 10;

    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame, which zstd:chunked layers may start with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Unsupported("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..] => Self::Unsupported("bzip2"),
            _ => Self::None,
        }
    }
}

/// A stream with its compression removed.
pub(super) enum Decompress<R: Read> {
    Plain(Source<R>),
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Zstd(Box<Zstd<Source<R>>>),
}

type Source<R> = BufReader<io::Chain<Cursor<Vec<u8>>, R>>;

impl<R: Read> Decompress<R> {
    /// Reads the first bytes of `source` to recognise its compression.
    pub fn new(mut source: R) -> io::Result<Self> {
        let mut head = Vec::new();
        source.by_ref().take(Packing::HEAD_BYTES).read_to_end(&mut head)?;
        let packing = Packing::of(&head);
        let source = BufReader::with_capacity(INPUT_BUFFER, Cursor::new(head).chain(source));
        Ok(match packing {
            Packing::None => Self::Plain(source),
            Packing::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            Packing::Zstd => Self::Zstd(Box::new(Zstd::new(source))),
            Packing::Unsupported(format) => {
                let why = format!("compression with {format} is not supported, only gzip and zstd");
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
        })
    }

    /// Reads what follows the compressed stream, so that the source reaches its end.
    pub fn drain(&mut self) -> io::Result<u64> {
        match self {
            Self::Plain(source) => io::copy(source, &mut io::sink()),
            Self::Gzip(decoder) => io::copy(decoder.get_mut(), &mut io::sink()),
            Self::Zstd(decoder) => io::copy(&mut decoder.source, &mut io::sink()),
        }
    }
}

impl<R: Read> Read for Decompress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Consecutive zstd frames.
pub(super) struct Zstd<R> {
    decoder: FrameDecoder,
    in_frame: bool,
    source: R,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        Self {
            decoder: FrameDecoder::new(),
            in_frame: false,
            source,
        }
    }

    /// Advances to the next frame; `false` at the end of the source.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "the zstd stream is truncated",
                        ));
                    }
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.in_frame = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read_all(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decompress::new(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn every_compression_is_decompressed_correctly() {
        let content: Vec<u8> = (0..300_000u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        for bytes in [content.clone(), gzip(&content), zstd(&content)] {
            assert!(read_all(&bytes).unwrap() == content);
        }
        assert_eq!(read_all(b"").unwrap(), b"");
    }

    #[test]
    fn unsupported_compressions_are_refused_by_name() {
        for (bytes, format) in [
            (b"\xfd7zXZ\0\0\x04\xe6\xd6".as_slice(), "xz"),
            (b"BZh91AY&SY\xae", "bzip2"),
        ] {
            let error = read_all(bytes).unwrap_err().to_string();
            assert!(error.contains(format), "{error}");
        }
        // A tar archive may begin with any file name.
        assert_eq!(read_all(b"BZh9 is a name").unwrap(), b"BZh9 is a name");
    }

    #[test]
    fn several_members_and_skippable_frames_are_one_stream() {
        assert_eq!(read_all(&[gzip(b"one "), gzip(b"two")].concat()).unwrap(), b"one two");
        let skip = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0], b"xyz".as_slice()].concat();
        assert_eq!(
            read_all(&[skip.clone(), zstd(b"one "), skip, zstd(b"two")].concat()).unwrap(),
            b"one two"
        );
    }

    #[test]
    fn a_stream_truncated_anywhere_is_an_error() {
        let content: Vec<u8> = (0..20_000u32).flat_map(u32::to_le_bytes).collect();
        for whole in [gzip(&content), zstd(&content)] {
            for length in (5..whole.len()).step_by(997) {
                assert!(read_all(&whole[..length]).is_err(), "{length} of {}", whole.len());
            }
        }
    }
}
