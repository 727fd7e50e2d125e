//! An authenticated connection to the emulated host.

use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::protocol::{CommandFrame, Preface, ProtocolError, TOKEN_LEN, Version};
use super::{EmulatedHostError, Result};

/// The emulated host answers in milliseconds; under load it may take longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Connection {
    pub(super) stream: TcpStream,
    pub(super) version: Version,
}

impl Connection {
    /// Connects to an emulated host that supports this version, and authenticates with the secret.
    pub fn open(port: u16, token: &[u8; TOKEN_LEN], version: Version) -> Result<Self> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(EmulatedHostError::NoAnswer)?;
        stream.set_nodelay(true).map_err(EmulatedHostError::NoAnswer)?;
        stream
            .set_read_timeout(Some(ANSWER_LIMIT))
            .map_err(EmulatedHostError::NoAnswer)?;
        let preface = Preface { version, token: *token };
        preface.write(&mut stream).map_err(EmulatedHostError::NoAnswer)?;
        match CommandFrame::read(&mut stream, version).map_err(EmulatedHostError::NoAnswer)? {
            Some(CommandFrame::Ready) => {}
            Some(other) => return Err(ProtocolError::Unexpected(other.name()).into()),
            // The emulated host hangs up if it does not support the version.
            None => return Err(EmulatedHostError::OtherVersion),
        }
        stream.set_read_timeout(None).map_err(EmulatedHostError::NoAnswer)?;
        Ok(Self { stream, version })
    }

    pub fn send(&mut self, frame: &CommandFrame) -> std::io::Result<()> {
        frame.write(&mut self.stream, self.version)
    }

    pub fn receive(&mut self) -> Result<CommandFrame> {
        let gone = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        CommandFrame::read(&mut self.stream, self.version)
            .map_err(EmulatedHostError::WentAway)?
            .ok_or_else(|| EmulatedHostError::WentAway(gone()))
    }
}
