//! The files that the emulated host reads while it boots: the program to run as PID 1, the secret, and the port on
//! which it reports that it is ready.

use super::location::Location;
use super::protocol::TOKEN_LEN;
use super::{EmulatedHostError, Result};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Host name of every emulated host.
const HOSTNAME: &str = "emulated-host\n";

/// Creates a new secret and the directory that the emulated host reads. The directory contains a copy of this program,
/// because the program's own file may be replaced at any time.
pub fn create(location: &Location, ready_port: u16) -> Result<[u8; TOKEN_LEN]> {
    discard(location);
    let dir = location.control();
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .map_err(file_error("create", &dir))?;
    let mut token = [0; TOKEN_LEN];
    let random = Path::new("/dev/urandom");
    std::fs::File::open(random)
        .and_then(|mut file| file.read_exact(&mut token))
        .map_err(file_error("read", random))?;
    write(&location.token(), &token)?;
    write(&dir.join("token"), &token)?;
    write(&dir.join("ready-port"), ready_port.to_string().as_bytes())?;
    write(&dir.join("hostname"), HOSTNAME.as_bytes())?;
    let program = dir.join("microkube");
    std::fs::copy("/proc/self/exe", &program).map_err(file_error("copy this program to", &program))?;
    Ok(token)
}

/// Removes files that the emulated host only needs while it boots.
pub fn discard(location: &Location) {
    // A missing directory is fine; any other error shows when it is created again.
    let _ = std::fs::remove_dir_all(location.control());
}

/// The secret of the running emulated host.
pub fn token(location: &Location) -> Result<[u8; TOKEN_LEN]> {
    let path = location.token();
    let mut token = [0; TOKEN_LEN];
    std::fs::File::open(&path)
        .and_then(|mut file| file.read_exact(&mut token))
        .map_err(file_error("read", &path))?;
    Ok(token)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    // Delete the old file first: if it is still open in another process, that must not see the new secret.
    let _ = std::fs::remove_file(path);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(file_error("write", path))
}

fn file_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> EmulatedHostError + 'a {
    move |source| EmulatedHostError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
