//! Names of directory entries. A name is any bytes but a zero and a slash, not necessarily UTF-8.

use std::ffi::CStr;

/// Maximum length of a name in bytes (`NAME_MAX`).
pub const MAX_NAME_BYTES: usize = 255;

/// Why a text is not the name of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// Empty, `.`, `..`, or with a slash: it would lead somewhere else than to an entry of the directory.
    NotAnEntry,
    TooLong,
}

/// The name of an entry in a directory: one component that is neither `.` nor `..`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a>(&'a CStr);

impl<'a> Name<'a> {
    pub fn new(text: &'a CStr) -> Result<Self, NameError> {
        let bytes = text.to_bytes();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(NameError::NotAnEntry);
        }
        if bytes.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong);
        }
        Ok(Self(text))
    }

    pub fn as_c_str(self) -> &'a CStr {
        self.0
    }

    pub fn to_bytes(self) -> &'a [u8] {
        self.0.to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn a_name_is_one_component_below_its_directory() {
        for text in [c"", c".", c"..", c"/", c"a/b", c"../a", c"/etc/passwd", c"a/"] {
            assert_eq!(Name::new(text), Err(NameError::NotAnEntry), "{text:?}");
        }
        for text in [c"a", c"...", c"..a", c" ", c"\xff\xfe", c"a\nb"] {
            assert_eq!(Name::new(text).unwrap().as_c_str(), text);
        }
    }

    #[test]
    fn a_name_has_up_to_255_bytes() {
        let longest = CString::new([b'x'; MAX_NAME_BYTES]).unwrap();
        assert_eq!(Name::new(&longest).unwrap().to_bytes().len(), MAX_NAME_BYTES);
        let longer = CString::new([b'x'; MAX_NAME_BYTES + 1]).unwrap();
        assert_eq!(Name::new(&longer), Err(NameError::TooLong));
    }
}
