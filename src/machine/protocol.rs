//! What the emulated host and the outside say to each other over one TCP connection a command.
//!
//! The client opens with a [`Preface`]; the machine answers [`Frame::Ready`]; the client sends one [`Frame::Request`]; then both send
//! frames until [`Frame::Exited`] or [`Frame::Failed`]. Standard input flows under credit, so that signals sent behind it are never
//! stuck; output needs none, TCP holds it back. Both sides treat the other as hostile: every length is bounded before it is used.

use crate::terminal::TerminalSize;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// Longest data a frame of standard input or output carries, in bytes.
pub const MAX_DATA: usize = 64 * 1024;
/// Longest request (arguments and environment), in bytes.
pub const MAX_REQUEST: usize = 4 * 1024 * 1024;
/// Standard input in flight at most, in bytes.
pub const STDIN_WINDOW: u32 = 256 * 1024;
/// Bytes of the secret that opens a connection.
pub const TOKEN_LEN: usize = 32;

/// First bytes of a connection, with the version of the protocol.
const MAGIC: [u8; 8] = *b"mkmach\x00\x01";
const HEADER_LEN: usize = 5;

/// A frame, or the preface, that does not follow the protocol.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtocolError {
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("frame of kind {kind} with {len} bytes, which it cannot have")]
    BadLength { kind: u8, len: usize },
    #[error("frame of kind {0} with impossible contents")]
    BadContents(u8),
    #[error("unexpected {0} frame")]
    Unexpected(&'static str),
    #[error("more standard input than was asked for")]
    InputOverrun,
}

/// What the client sends first: version and secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Preface {
    /// The machine's secret.
    pub token: [u8; TOKEN_LEN],
}

impl std::fmt::Debug for Preface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Preface")
    }
}

impl Preface {
    /// Sends it.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.token);
        to.write_all(&bytes)
    }

    /// Reads one; `None` if it is of another version or no preface at all.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut magic = [0; MAGIC.len()];
        let mut token = [0; TOKEN_LEN];
        from.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Ok(None);
        }
        from.read_exact(&mut token)?;
        Ok(Some(Self { token }))
    }

    /// Whether the secret is `token`, in a time that does not tell how much of it is.
    pub fn matches(&self, token: &[u8; TOKEN_LEN]) -> bool {
        self.token
            .iter()
            .zip(token)
            .fold(0, |difference, (a, b)| difference | (a ^ b))
            == 0
    }
}

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Runs a command.
    Exec(Command),
    /// Answers [`Frame::Exited`] with 0: the machine is alive.
    Ping,
    /// Ends every process, writes everything to disk, powers off.
    Shutdown,
}

/// A command to run. Strings are bytes, as the kernel has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program (searched in `PATH` of `env`) and arguments.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory, absolute.
    pub cwd: Vec<u8>,
    /// Size of the terminal to run it on; none: pipes.
    pub terminal: Option<TerminalSize>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    Signal(u8),
}

impl Exit {
    /// The exit code a shell would report: 128+n for a signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Machine: the secret is right.
    Ready,
    /// Client: what to do.
    Request(Request),
    /// Client: data for the command, at most as much as credited.
    Stdin(Vec<u8>),
    /// Client: the end of standard input.
    StdinEnd,
    /// Machine: that many more bytes of standard input may be sent.
    StdinCredit(u32),
    /// Client: a signal for the command, or for its whole process group when the terminal's driver sent it.
    Signal { number: u8, group: bool },
    /// Client: the terminal has another size.
    Resized(TerminalSize),
    /// Machine: output.
    Stdout(Vec<u8>),
    /// Machine: output.
    Stderr(Vec<u8>),
    /// Machine: the command ended and all its output was sent.
    Exited(Exit),
    /// Machine: the command cannot be run.
    Failed(String),
}

impl Frame {
    const READY: u8 = 1;
    const REQUEST: u8 = 2;
    const STDIN: u8 = 3;
    const STDIN_END: u8 = 4;
    const STDIN_CREDIT: u8 = 5;
    const SIGNAL: u8 = 6;
    const RESIZED: u8 = 7;
    const STDOUT: u8 = 8;
    const STDERR: u8 = 9;
    const EXITED: u8 = 10;
    const FAILED: u8 = 11;

    /// Name of the kind, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Request(_) => "request",
            Self::Stdin(_) => "standard input",
            Self::StdinEnd => "end of standard input",
            Self::StdinCredit(_) => "credit",
            Self::Signal { .. } => "signal",
            Self::Resized(_) => "window size",
            Self::Stdout(_) => "standard output",
            Self::Stderr(_) => "standard error",
            Self::Exited(_) => "exit",
            Self::Failed(_) => "failure",
        }
    }

    /// Bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let request;
        let small: [u8; 4];
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Ready => (Self::READY, &[]),
            Self::Request(value) => {
                // Maps with string keys and byte arrays only: serialisation has no way to fail.
                request = serde_json::to_vec(value).unwrap_or_default();
                (Self::REQUEST, &request)
            }
            Self::Stdin(data) => (Self::STDIN, data),
            Self::StdinEnd => (Self::STDIN_END, &[]),
            Self::StdinCredit(bytes) => {
                small = bytes.to_le_bytes();
                (Self::STDIN_CREDIT, &small)
            }
            Self::Signal { number, group } => {
                small = [*number, u8::from(*group), 0, 0];
                (Self::SIGNAL, &small)
            }
            Self::Resized(size) => {
                let [r0, r1] = size.rows.to_le_bytes();
                let [c0, c1] = size.columns.to_le_bytes();
                small = [r0, r1, c0, c1];
                (Self::RESIZED, &small)
            }
            Self::Stdout(data) => (Self::STDOUT, data),
            Self::Stderr(data) => (Self::STDERR, data),
            Self::Exited(exit) => {
                small = match exit {
                    Exit::Code(code) => [0, *code, 0, 0],
                    Exit::Signal(signal) => [1, *signal, 0, 0],
                };
                (Self::EXITED, &small)
            }
            Self::Failed(reason) => (Self::FAILED, reason.as_bytes()),
        };
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
        bytes.push(kind);
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Sends it in one write.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.encode())
    }

    /// Reads one frame. `None` at the end of the connection between two frames.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_LEN];
        let mut have = 0;
        while let Some(rest) = header.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match from.read(rest) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let [kind, length @ ..] = header;
        let len = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        Self::check_length(kind, len).map_err(io::Error::other)?;
        let mut payload = vec![0; len];
        from.read_exact(&mut payload)?;
        Self::parse(kind, payload).map(Some).map_err(io::Error::other)
    }

    fn check_length(kind: u8, len: usize) -> Result<(), ProtocolError> {
        let allowed = match kind {
            Self::READY | Self::STDIN_END => 0..=0,
            Self::STDIN_CREDIT | Self::SIGNAL | Self::RESIZED | Self::EXITED => 4..=4,
            Self::STDIN | Self::STDOUT | Self::STDERR => 1..=MAX_DATA,
            Self::FAILED => 0..=MAX_DATA,
            Self::REQUEST => 1..=MAX_REQUEST,
            _ => return Err(ProtocolError::UnknownKind(kind)),
        };
        if allowed.contains(&len) {
            Ok(())
        } else {
            Err(ProtocolError::BadLength { kind, len })
        }
    }

    /// Understands a frame's payload. `MAX_*` bound what is accepted.
    pub fn parse(kind: u8, payload: Vec<u8>) -> Result<Self, ProtocolError> {
        Self::check_length(kind, payload.len())?;
        let small = || <[u8; 4]>::try_from(payload.as_slice()).map_err(|_| ProtocolError::BadContents(kind));
        Ok(match kind {
            Self::READY => Self::Ready,
            Self::REQUEST => {
                Self::Request(serde_json::from_slice(&payload).map_err(|_| ProtocolError::BadContents(kind))?)
            }
            Self::STDIN => Self::Stdin(payload),
            Self::STDIN_END => Self::StdinEnd,
            Self::STDIN_CREDIT => Self::StdinCredit(u32::from_le_bytes(small()?)),
            Self::SIGNAL => match small()? {
                [number @ 1..=64, group @ 0..=1, 0, 0] => Self::Signal {
                    number,
                    group: group == 1,
                },
                _ => return Err(ProtocolError::BadContents(kind)),
            },
            Self::RESIZED => {
                let [r0, r1, c0, c1] = small()?;
                Self::Resized(TerminalSize {
                    rows: u16::from_le_bytes([r0, r1]),
                    columns: u16::from_le_bytes([c0, c1]),
                })
            }
            Self::STDOUT => Self::Stdout(payload),
            Self::STDERR => Self::Stderr(payload),
            Self::EXITED => match small()? {
                [0, code, 0, 0] => Self::Exited(Exit::Code(code)),
                [1, signal @ 1..=64, 0, 0] => Self::Exited(Exit::Signal(signal)),
                _ => return Err(ProtocolError::BadContents(kind)),
            },
            Self::FAILED => Self::Failed(String::from_utf8(payload).map_err(|_| ProtocolError::BadContents(kind))?),
            _ => return Err(ProtocolError::UnknownKind(kind)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 1..300)
    }

    fn request() -> impl Strategy<Value = Request> {
        let command = (
            proptest::collection::vec(data(), 0..5),
            proptest::collection::vec((data(), data()), 0..5),
            data(),
            proptest::option::of((any::<u16>(), any::<u16>())),
        )
            .prop_map(|(argv, env, cwd, size)| {
                let terminal = size.map(|(rows, columns)| TerminalSize { rows, columns });
                Request::Exec(Command {
                    argv,
                    env,
                    cwd,
                    terminal,
                })
            });
        prop_oneof![command, Just(Request::Ping), Just(Request::Shutdown)]
    }

    fn frame() -> impl Strategy<Value = Frame> {
        prop_oneof![
            Just(Frame::Ready),
            request().prop_map(Frame::Request),
            data().prop_map(Frame::Stdin),
            Just(Frame::StdinEnd),
            any::<u32>().prop_map(Frame::StdinCredit),
            (1..=64u8, any::<bool>()).prop_map(|(number, group)| Frame::Signal { number, group }),
            (any::<u16>(), any::<u16>()).prop_map(|(rows, columns)| Frame::Resized(TerminalSize { rows, columns })),
            data().prop_map(Frame::Stdout),
            data().prop_map(Frame::Stderr),
            any::<u8>().prop_map(|code| Frame::Exited(Exit::Code(code))),
            (1..=64u8).prop_map(|signal| Frame::Exited(Exit::Signal(signal))),
            ".*".prop_map(Frame::Failed),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_the_wire_in_order(frames in proptest::collection::vec(frame(), 0..8)) {
            let wire: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            let mut from = wire.as_slice();
            for expected in &frames {
                let read = Frame::read(&mut from).unwrap();
                prop_assert_eq!(read.as_ref(), Some(expected));
            }
            prop_assert_eq!(Frame::read(&mut from).unwrap(), None);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_understood_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut from = bytes.as_slice();
            while let Ok(Some(_)) = Frame::read(&mut from) {}
        }

        #[test]
        fn any_payload_of_any_kind_is_refused_or_understood(kind in 0..16u8, payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(frame) = Frame::parse(kind, payload) {
                let (first, _) = frame.encode().split_first().map(|(first, rest)| (*first, rest.len())).unwrap();
                prop_assert_eq!(first, kind);
            }
        }
    }

    #[test]
    fn a_frame_that_announces_too_much_is_refused_before_its_memory_is_taken() {
        let wire = [Frame::STDOUT, 0xff, 0xff, 0xff, 0xff];
        let error = Frame::read(&mut wire.as_slice()).unwrap_err();
        assert!(error.to_string().contains("4294967295 bytes"), "{error}");
    }

    #[test]
    fn a_connection_that_ends_inside_a_frame_is_an_error() {
        let wire = Frame::Stdout(vec![1, 2, 3]).encode();
        for len in 1..wire.len() {
            let mut part = &wire[..len];
            assert_eq!(Frame::read(&mut part).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_preface_of_another_version_is_not_taken_for_one() {
        let mut wire = Vec::new();
        Preface { token: [7; TOKEN_LEN] }.write(&mut wire).unwrap();
        let read = Preface::read(&mut wire.as_slice()).unwrap().unwrap();
        assert!(read.matches(&[7; TOKEN_LEN]));
        assert!(!read.matches(&[8; TOKEN_LEN]));
        wire[7] = 99;
        assert_eq!(Preface::read(&mut wire.as_slice()).unwrap(), None);
    }

    #[test]
    fn a_signal_is_reported_as_a_shell_does() {
        assert_eq!(Exit::Signal(15).code(), 143);
        assert_eq!(Exit::Code(3).code(), 3);
    }
}
