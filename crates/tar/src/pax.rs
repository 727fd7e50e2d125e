//! PAX extended headers (POSIX.1-2001), including the keys added by star and GNU tar.

use super::error::Malformation;
use super::header::decimal;
use super::sparse::{SEGMENTS_MAX, Segment};

/// The relevant keys of one extended header.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: PaxSparse,
}

/// GNU tar's keys for sparse files (formats 0.0, 0.1 and 1.0).
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub major: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    pub segments: Vec<Segment>,
    offset: Option<u64>,
}

impl Pax {
    /// Parses the records `LENGTH KEY=VALUE\n` of a header; the error says what is wrong.
    pub fn parse(mut body: &[u8]) -> Result<Self, Malformation> {
        let mut pax = Self::default();
        while !body.is_empty() {
            let (key, value, rest) = record(body).ok_or(Malformation::BrokenPaxRecord)?;
            pax.apply(key, value)?;
            body = rest;
        }
        Ok(pax)
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformation> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        // An empty value deletes the key (POSIX, Go's archive/tar); the header's own value then applies.
        let text = || (!value.is_empty()).then(|| value.to_vec());
        let parsed = || {
            let key = || key.escape_ascii().to_string();
            decimal(value).ok_or_else(|| Malformation::PaxNotANumber { key: key() })
        };
        let number = || (!value.is_empty()).then(parsed).transpose();
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value).ok_or(Malformation::PaxNotATime)?),
            b"GNU.sparse.major" => self.sparse.major = number()?,
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = number()?,
            b"GNU.sparse.offset" => self.sparse.offset = number()?,
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take().ok_or(Malformation::PaxLengthWithoutOffset)?;
                self.sparse.push(offset, parsed()?)?;
            }
            b"GNU.sparse.map" if value.is_empty() => self.sparse.segments.clear(),
            b"GNU.sparse.map" => {
                let mut numbers = value.split(|byte| *byte == b',').map(decimal);
                while let Some(offset) = numbers.next() {
                    let pair = offset.zip(numbers.next().flatten()).ok_or(Malformation::BrokenPaxMap)?;
                    self.sparse.push(pair.0, pair.1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl PaxSparse {
    fn push(&mut self, offset: u64, length: u64) -> Result<(), Malformation> {
        if self.segments.len() >= SEGMENTS_MAX {
            return Err(Malformation::TooManyParts);
        }
        self.segments.push(Segment { offset, length });
        Ok(())
    }
}

/// Splits off the first record: key, value, rest.
fn record(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = body.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(body.get(..space)?)?).ok()?;
    let text = body.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((text.get(..equals)?, text.get(equals + 1..)?, body.get(length..)?))
}

/// `[-]SECONDS[.FRACTION]`, rounded down to nanoseconds.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    let mut nanoseconds = 0u32;
    for place in 0..9 {
        let digit = fraction
            .get(place)
            .map_or(Some(0), |byte| byte.checked_sub(b'0').filter(|digit| *digit < 10))?;
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => ((-seconds).checked_sub(1)?, 1_000_000_000 - nanoseconds),
    })
}
