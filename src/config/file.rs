//! Finds and reads the configuration file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::effective::Config;
use super::error::ConfigError;
use super::reader::read;
use super::settings::FILE_VARIABLE;

/// The file, unless [`FILE_VARIABLE`] names another.
const DEFAULT_PATH: &str = "/etc/microkube/config.yaml";

/// The example with all settings and their comments is smaller than 3 KiB.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Reads the configuration file and the environment of this process.
///
/// # Errors
/// See [`ConfigError`]. The values of variables are not checked here: each is checked where it is used.
pub fn load() -> Result<Config, ConfigError> {
    let named = std::env::var_os(FILE_VARIABLE).map(PathBuf::from);
    load_from(named.as_deref(), Path::new(DEFAULT_PATH))
}

/// `named` is the value of the variable: a file that must exist, or empty for no file.
pub(super) fn load_from(named: Option<&Path>, default: &Path) -> Result<Config, ConfigError> {
    let path = match named {
        Some(named) if named.as_os_str().is_empty() => return Config::without_file(),
        Some(named) => named,
        None => default,
    };
    let bytes = match bytes(path) {
        Err(ConfigError::Missing { .. }) if named.is_none() => return Config::without_file(),
        result => result?,
    };
    let settings = read(&path.display().to_string(), &bytes).map_err(ConfigError::Wrong)?;
    Config::of_file(path.to_owned(), settings)
}

fn bytes(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => ConfigError::Dangling { path: path.to_owned() },
        io::ErrorKind::NotFound => ConfigError::Missing { path: path.to_owned() },
        _ => ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    // Without O_NONBLOCK, opening a named pipe waits for a writer.
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(ConfigError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
            max_kib: MAX_FILE_BYTES >> 10,
        });
    }
    Ok(bytes)
}
