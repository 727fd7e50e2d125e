//! Reads the fields of a message one after the other.

use std::ffi::CStr;

/// The message is not one that the guest's kernel sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The rest of a message's body.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.bytes.split_first_chunk().ok_or(Malformed)?;
        self.bytes = rest;
        Ok(*array)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Skips padding and fields that have no meaning for a server.
    pub fn skip(&mut self, count: usize) -> Result<(), Malformed> {
        self.bytes(count).map(|_| ())
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.bytes.split_at_checked(count).ok_or(Malformed)?;
        self.bytes = rest;
        Ok(bytes)
    }

    /// Text up to its zero byte.
    pub fn text(&mut self) -> Result<&'a CStr, Malformed> {
        let text = CStr::from_bytes_until_nul(self.bytes).map_err(|_| Malformed)?;
        self.skip(text.count_bytes() + 1)?;
        Ok(text)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// Checks that nothing is left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_little_endian_and_in_order() {
        let mut fields = Fields::new(&[1, 0, 2, 0, 0, 0, b'a', 0, 9]);
        assert_eq!(fields.u16(), Ok(1));
        assert_eq!(fields.u32(), Ok(2));
        assert_eq!(fields.text(), Ok(c"a"));
        assert_eq!(fields.end(), Err(Malformed));
        assert_eq!(fields.bytes(1), Ok([9].as_slice()));
        assert_eq!(fields.end(), Ok(()));
    }

    #[test]
    fn what_is_missing_is_malformed() {
        assert_eq!(Fields::new(&[0; 7]).u64(), Err(Malformed));
        assert_eq!(Fields::new(b"no end").text(), Err(Malformed));
        assert_eq!(Fields::new(&[0; 3]).skip(4), Err(Malformed));
    }
}
