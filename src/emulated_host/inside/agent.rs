//! Receives commands from outside: a connection a command, a thread a connection.

use super::command;
use crate::emulated_host::INSIDE_DIR;
use crate::emulated_host::protocol::{CommandFrame, CommandRequest, Exit, Preface, TOKEN_LEN};
use crate::emulated_host::qemu::AGENT_PORT;
use crate::stderr::say;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// The outer machine, seen from inside (QEMU's user network).
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Nobody needs longer to send 40 bytes.
const PREFACE_LIMIT: Duration = Duration::from_secs(10);

/// Runs until it is asked to shut down; PID 1 switches the machine off when this returns.
pub fn agent() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("microkube machine: the agent failed: {error}");
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
                    // The other side is gone or breaks the protocol: only the console is left for a message.
                    say!("microkube machine: connection: {error}");
                }
            });
        if let Err(error) = spawned {
            say!("microkube machine: no thread for a connection: {error}");
        }
    }
    Ok(())
}

fn serve_connection(mut stream: TcpStream, token: &[u8; TOKEN_LEN]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PREFACE_LIMIT))?;
    let version = match Preface::read(&mut stream)? {
        Some(preface) if preface.matches(token) => preface.version,
        // Hanging up is the answer to strangers and to other versions.
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
