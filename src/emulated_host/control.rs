//! What the emulated host reads while it boots: the program to run as PID 1, the secret, and the port on which it reports that it is ready.

use super::location::Location;
use super::protocol::TOKEN_LEN;
use super::{EmulatedHostError, Result};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Host name of every emulated host.
const HOSTNAME: &str = "emulated-host\n";

/// Makes a new secret and the directory that the emulated host reads. It holds a copy of this program, because the program's own file may be
/// replaced at any time.
pub fn create(location: &Location, ready_port: u16) -> Result<[u8; TOKEN_LEN]> {
    discard(location);
    let dir = location.control();
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .map_err(file_error("creating", &dir))?;
    let mut token = [0; TOKEN_LEN];
    let random = Path::new("/dev/urandom");
    std::fs::File::open(random)
        .and_then(|mut file| file.read_exact(&mut token))
        .map_err(file_error("reading", random))?;
    write(&location.token(), &token)?;
    write(&dir.join("token"), &token)?;
    write(&dir.join("ready-port"), ready_port.to_string().as_bytes())?;
    write(&dir.join("hostname"), HOSTNAME.as_bytes())?;
    let program = dir.join("microkube");
    std::fs::copy("/proc/self/exe", &program).map_err(file_error("copying this program to", &program))?;
    Ok(token)
}

/// Removes what the machine needs only while it boots.
pub fn discard(location: &Location) {
    // Missing is as good as removed; anything else shows when the directory is made again.
    let _ = std::fs::remove_dir_all(location.control());
}

/// The secret of the running machine.
pub fn token(location: &Location) -> Result<[u8; TOKEN_LEN]> {
    let path = location.token();
    let mut token = [0; TOKEN_LEN];
    std::fs::File::open(&path)
        .and_then(|mut file| file.read_exact(&mut token))
        .map_err(file_error("reading", &path))?;
    Ok(token)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    // A file of an earlier machine may be open somewhere: it keeps its old secret.
    let _ = std::fs::remove_file(path);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(file_error("writing", path))
}

fn file_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> EmulatedHostError + 'a {
    move |source| EmulatedHostError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
