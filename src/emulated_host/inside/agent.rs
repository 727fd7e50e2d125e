//! Receives commands from outside: one connection per command, one thread per connection.

use super::command;
use crate::emulated_host::INSIDE_DIR;
use crate::emulated_host::protocol::{CommandFrame, CommandRequest, Exit, Preface, TOKEN_LEN};
use crate::emulated_host::qemu::AGENT_PORT;
use crate::stderr::say;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// The outer host as seen from inside (QEMU's user network).
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Time for the 40 bytes of the preface.
const PREFACE_LIMIT: Duration = Duration::from_secs(10);

/// Runs until a shutdown is requested; when this returns, PID 1 powers the emulated host off.
pub fn agent() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("microkube machine: agent failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let mut token = [0; TOKEN_LEN];
    std::fs::File::open(format!("{INSIDE_DIR}/token"))?.read_exact(&mut token)?;
    let ready_port = std::fs::read_to_string(format!("{INSIDE_DIR}/ready-port"))?;
    let ready_port: u16 = ready_port.trim().parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, AGENT_PORT))?;
    TcpStream::connect((OUTSIDE, ready_port))?.write_all(&token)?;
    for connection in listener.incoming() {
        let Ok(stream) = connection else { continue };
        let spawned = std::thread::Builder::new()
            .name("connection".to_owned())
            .spawn(move || {
                if let Err(error) = serve_connection(stream, &token) {
                    // The peer is gone or violates the protocol, so the message can only go to the console.
                    say!("microkube machine: connection: {error}");
                }
            });
        if let Err(error) = spawned {
            say!("microkube machine: cannot start a thread for a connection: {error}");
        }
    }
    Ok(())
}

fn serve_connection(mut stream: TcpStream, token: &[u8; TOKEN_LEN]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PREFACE_LIMIT))?;
    let version = match Preface::read(&mut stream)? {
        Some(preface) if preface.matches(token) => preface.version,
        // Hang up on strangers and on unknown versions.
        _ => return Ok(()),
    };
    CommandFrame::Ready.write(&mut stream, version)?;
    match CommandFrame::read(&mut stream, version)? {
        Some(CommandFrame::Request(CommandRequest::Ping)) => {
            CommandFrame::Exited(Exit::Code(0)).write(&mut stream, version)
        }
        Some(CommandFrame::Request(CommandRequest::Shutdown)) => {
            CommandFrame::Exited(Exit::Code(0)).write(&mut stream, version)?;
            std::process::exit(0)
        }
        Some(CommandFrame::Request(CommandRequest::Exec(request))) => {
            stream.set_read_timeout(None)?;
            command::run(stream, version, request)
        }
        Some(other) => Err(io::Error::other(format!(
            "a {} frame instead of a request",
            other.name()
        ))),
        None => Ok(()),
    }
}
