//! Seccomp profiles of the node: JSON in OCI's format (`LinuxSeccomp` of the runtime specification, with the conditions
//! of Docker's and containers-common's profiles), compiled to a BPF program that the kernel installs.
//!
//! It neither reads files nor installs programs.

mod profile;
mod program;
mod system_calls;

pub use profile::{MAX_PROFILE_BYTES, ProfileError};
pub use program::Instruction;

/// Compiles a profile for a process with these capabilities (such as `CAP_CHOWN`), on which rules in some profiles
/// depend. Names of system calls that x86-64 does not have are ignored, as in other runtimes. Calls of another
/// architecture kill the process.
///
/// # Errors
/// See [`ProfileError`].
pub fn compile(profile: &[u8], capabilities: &[&str]) -> Result<Vec<Instruction>, ProfileError> {
    let (rules, default) = profile::read(profile, capabilities)?;
    let program = program::assemble(&rules, default);
    match program.len() > program::MAX_INSTRUCTIONS {
        true => Err(ProfileError::TooManyRules(program.len())),
        false => Ok(program),
    }
}

#[cfg(test)]
mod tests;
