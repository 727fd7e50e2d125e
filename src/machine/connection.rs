//! A connection to the machine, on which both sides have shown who they are.

use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::protocol::{Frame, Preface, ProtocolError, TOKEN_LEN, Version};
use super::{MachineError, Result};

/// The machine answers in milliseconds; a loaded one may need longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An authenticated connection to the machine.
#[derive(Debug)]
pub struct Connection {
    pub(super) stream: TcpStream,
    pub(super) version: Version,
}

impl Connection {
    /// Connects to a machine that speaks this version, and shows the secret.
    pub fn open(port: u16, token: &[u8; TOKEN_LEN], version: Version) -> Result<Self> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(MachineError::NoAnswer)?;
        stream.set_nodelay(true).map_err(MachineError::NoAnswer)?;
        stream
            .set_read_timeout(Some(ANSWER_LIMIT))
            .map_err(MachineError::NoAnswer)?;
        let preface = Preface { version, token: *token };
        preface.write(&mut stream).map_err(MachineError::NoAnswer)?;
        match Frame::read(&mut stream, version).map_err(MachineError::NoAnswer)? {
            Some(Frame::Ready) => {}
            Some(other) => return Err(ProtocolError::Unexpected(other.name()).into()),
            // The machine hangs up on what it does not understand.
            None => return Err(MachineError::OtherVersion),
        }
        stream.set_read_timeout(None).map_err(MachineError::NoAnswer)?;
        Ok(Self { stream, version })
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Frame) -> std::io::Result<()> {
        frame.write(&mut self.stream, self.version)
    }

    /// Waits for a frame.
    pub fn receive(&mut self) -> Result<Frame> {
        let gone = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        Frame::read(&mut self.stream, self.version)
            .map_err(MachineError::WentAway)?
            .ok_or_else(|| MachineError::WentAway(gone()))
    }
}
