//! Seccomp profiles of type Localhost: files of this node, compiled for a container.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use microkube_seccomp::{Instruction, MAX_PROFILE_BYTES, ProfileError};

/// Why a profile cannot be used, with containerd's messages.
#[derive(Debug, thiserror::Error)]
pub enum SeccompProfileError {
    #[error("cannot load seccomp profile {path:?}: open {path}: {cause}")]
    Load { path: String, cause: String },
    #[error("decoding seccomp profile failed {path:?}: {cause}")]
    Decode { path: String, cause: ProfileError },
}

/// The BPF program of a profile as bytes, for a container with these capabilities. `name` is a path in the directory of
/// profiles.
///
/// # Errors
/// If the file cannot be read or is not a profile.
pub fn program(directory: &Path, name: &str, capabilities: &[&str]) -> Result<Vec<u8>, SeccompProfileError> {
    let path = directory.join(name);
    let shown = path.display().to_string();
    let text = read(&path).map_err(|error| SeccompProfileError::Load {
        path: shown.clone(),
        cause: match error.kind() {
            // Format the error like Go, in lower case and without the number.
            io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        },
    })?;
    let program = microkube_seccomp::compile(&text, capabilities);
    let program = program.map_err(|cause| SeccompProfileError::Decode { path: shown, cause })?;
    Ok(program.into_iter().flat_map(Instruction::to_bytes).collect())
}

/// The content of a file, up to one byte more than a profile may have.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a FIFO would block.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_PROFILE_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_of_the_directory_is_compiled() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("profiles")).unwrap();
        let file = directory.path().join("profiles/audit.json");
        std::fs::write(file, r#"{ "defaultAction": "SCMP_ACT_LOG" }"#).unwrap();
        let program = program(directory.path(), "profiles/audit.json", &[]).unwrap();
        assert_eq!(program.len() % 8, 0);
        assert!(!program.is_empty());
    }

    #[test]
    fn a_file_that_is_no_profile_is_named_in_containerds_words() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("empty.json"), "").unwrap();
        let error = |name| program(directory.path(), name, &[]).unwrap_err().to_string();
        let place = directory.path().display();
        assert_eq!(
            error("no.json"),
            format!("cannot load seccomp profile \"{place}/no.json\": open {place}/no.json: no such file or directory")
        );
        assert_eq!(
            error("."),
            format!("cannot load seccomp profile \"{place}/.\": open {place}/.: not a regular file")
        );
        assert_eq!(
            error("empty.json"),
            format!(
                "decoding seccomp profile failed \"{place}/empty.json\": EOF while parsing a value at line 1 column 0"
            )
        );
    }
}
