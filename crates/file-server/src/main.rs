//! The command `microkube-file-server`: descriptor 3 is the socket of the virtual machine, 4 that of the supervisor.

use std::error::Error;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::Arc;

use microkube_file_server::confinement;
use microkube_file_server::control::{self, with_causes};
use microkube_file_server::file_system::{FileSystem, Limits};
use microkube_file_server::server::Server;
use microkube_file_server::share::Shares;

const VIRTUAL_MACHINE: RawFd = 3;
const SUPERVISOR: RawFd = 4;

const USAGE: &str = "usage: microkube-file-server [--map-users | --version]; microkube starts it with its sockets as descriptors 3 and 4";

fn main() -> ExitCode {
    end_process_on_panic();
    let mut arguments = std::env::args_os().skip(1);
    let maps_users = match (arguments.next(), arguments.next()) {
        (None, _) => false,
        (Some(argument), None) if argument == "--map-users" => true,
        (Some(argument), None) if argument == "--version" => {
            let version = concat!("microkube-file-server ", env!("CARGO_PKG_VERSION"), "\n");
            return match std::io::stdout().write_all(version.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        _ => {
            report(USAGE);
            return ExitCode::from(2);
        }
    };
    match run(maps_users) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(maps_users: bool) -> Result<(), Box<dyn Error>> {
    // One heap for all threads: they allocate little, and every additional heap costs memory. SAFETY: called before
    // there is another thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
    confinement::check_sockets(VIRTUAL_MACHINE, SUPERVISOR)?;
    // SAFETY: both are open, as was just checked, and nothing else in this process uses them.
    let (virtual_machine, supervisor) =
        unsafe { (OwnedFd::from_raw_fd(VIRTUAL_MACHINE), OwnedFd::from_raw_fd(SUPERVISOR)) };
    let confined = confinement::enter(SUPERVISOR)?;
    let limits = Limits::of_descriptors(confined.descriptors);
    let mut file_system = FileSystem::new(confined.paths, Shares::new(true), limits);
    if maps_users {
        file_system = file_system.with_mapped_users();
    }
    let file_system = Arc::new(file_system);
    let (ended, end) = std::io::pipe()?;
    let server = Server::start(file_system.clone(), virtual_machine, end)?;
    control::serve(&file_system.shares, supervisor, &ended)?;
    // Threads may be within a request or wait for a lock; they end with the process.
    match server.error() {
        Some(error) => Err(with_causes(error).into()),
        None => Ok(()),
    }
}

/// Writes a line to standard error, which may be closed.
fn report(message: &str) {
    let line = format!("microkube-file-server: {message}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Makes a panic in any thread end the process: requests would be left without replies.
fn end_process_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        report(&info.to_string());
        std::process::abort();
    }));
}
