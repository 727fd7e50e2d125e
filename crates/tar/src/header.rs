//! The 512-byte header of an entry (POSIX.1-1988 ustar, GNU, and the older form without magic).

use super::error::Malformation;

/// Size of a tar record; everything in the stream is padded to it.
pub const RECORD: usize = 512;
/// The fields of a header before extension records are applied.
#[derive(Debug)]
pub(super) struct Raw {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub type_flag: u8,
    pub mode: u16,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime: i64,
    pub device_major: u32,
    pub device_minor: u32,
}

/// Parses a header; the error says what is wrong.
pub(super) fn parse(record: &[u8; RECORD]) -> Result<Raw, Malformation> {
    verify_checksum(record)?;
    let posix = field(record, 257, 8) == b"ustar\x0000";
    let gnu = field(record, 257, 8) == b"ustar  \0";
    let name = text(record, 0, 100);
    let prefix = if posix { text(record, 345, 155) } else { &[] };
    let path = if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, b"/", name].concat()
    };
    let unsigned = |start, length, what| {
        let number = number(field(record, start, length)).ok_or(Malformation::NotANumber { what })?;
        u64::try_from(number).map_err(|_| Malformation::Negative { what })
    };
    let device = |start, what| -> Result<u32, Malformation> {
        // The old form has no device numbers: those bytes may have any value.
        if !(posix || gnu) {
            return Ok(0);
        }
        u32::try_from(unsigned(start, 8, what)?).map_err(|_| Malformation::TooLarge { what })
    };
    Ok(Raw {
        path,
        link: text(record, 157, 100).to_vec(),
        type_flag: record[156],
        mode: (unsigned(100, 8, "the mode")? & 0o7777) as u16,
        uid: unsigned(108, 8, "the user id")?,
        gid: unsigned(116, 8, "the group id")?,
        size: unsigned(124, 12, "the size")?,
        mtime: number(field(record, 136, 12)).ok_or(Malformation::NotANumber {
            what: "the modification time",
        })?,
        device_major: device(329, "the device's major number")?,
        device_minor: device(337, "the device's minor number")?,
    })
}

fn verify_checksum(record: &[u8; RECORD]) -> Result<(), Malformation> {
    let stored = number(field(record, 148, 8)).ok_or(Malformation::NoChecksum)?;
    // The checksum counts its own field as spaces.
    let own = field(record, 148, 8);
    let sum = |value: fn(u8) -> i64| {
        let of = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum + value(*byte));
        of(record) - of(own) + 8 * i64::from(b' ')
    };
    // Some old programs summed signed bytes.
    let valid = stored == sum(i64::from) || stored == sum(|byte| i64::from(byte as i8));
    if valid {
        Ok(())
    } else {
        Err(Malformation::WrongChecksum)
    }
}

pub(super) fn field(record: &[u8; RECORD], start: usize, length: usize) -> &[u8] {
    record.get(start..start + length).unwrap_or_default()
}

fn text(record: &[u8; RECORD], start: usize, length: usize) -> &[u8] {
    let bytes = field(record, start, length);
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in a header: octal digits, or base 256 if the first bit is set. An empty field is zero.
pub(super) fn number(bytes: &[u8]) -> Option<i64> {
    let (&first, rest) = bytes.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement, big endian, in the field without its first bit.
        let mut value: i128 = if first & 0x40 != 0 {
            i128::from(first as i8)
        } else {
            i128::from(first & 0x7f)
        };
        for byte in rest {
            value = value.checked_mul(256)?.checked_add(i128::from(*byte))?;
        }
        return i64::try_from(value).ok();
    }
    let mut value: i64 = 0;
    let digits = bytes.split(|byte| *byte == 0).next()?;
    for byte in digits.trim_ascii() {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value = value.checked_mul(8)?.checked_add(i64::from(digit))?;
    }
    Some(value)
}

/// A number in decimal digits, as in PAX records.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
