//! The protocol between the emulated host and the outside, over one TCP connection per command.
//!
//! The client starts with a [`Preface`], the emulated host answers [`CommandFrame::Ready`], and the client sends one
//! [`CommandFrame::Request`]. Then both send frames until [`CommandFrame::Exited`] or [`CommandFrame::Failed`].
//! Standard input requires credit, so it never blocks signals that are sent after it. Output needs no credit, because
//! TCP's flow control limits it. Both sides treat the other as hostile: every length is checked before it is used.
//!
//! The preface gives the [`Version`] that both sides use. An emulated host may be of an older build than the client;
//! its record has the version that it supports. Requests with unknown fields are refused, so every change here raises
//! the version.

use crate::frame_header::{self, HEADER_BYTES};
use crate::terminal::TerminalSize;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read, Write};

/// Maximum data in a frame of standard input or output, in bytes.
pub const MAX_DATA: usize = 64 * 1024;
/// Longest request (arguments and environment), in bytes.
pub const MAX_REQUEST: usize = 4 * 1024 * 1024;
/// Maximum standard input in flight, in bytes.
pub const STDIN_WINDOW: u32 = 256 * 1024;
/// Length of the secret that authenticates a connection, in bytes.
pub const TOKEN_LEN: usize = 32;

/// First bytes of a connection; the version follows, as a big-endian u16.
const MAGIC: [u8; 6] = *b"mkmach";

/// A version of the protocol. Clients and emulated hosts of this build support all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Numbers are little-endian. For emulated hosts whose record has no version.
    One,
    /// Numbers are big-endian, as on microkube's other sockets.
    Two,
}

impl Version {
    /// The version for emulated hosts of this build.
    pub const NEWEST: Self = Self::Two;

    /// The version with this number, if this build supports it.
    pub fn of(number: u16) -> Option<Self> {
        [Self::One, Self::Two]
            .into_iter()
            .find(|version| version.number() == number)
    }

    pub fn number(self) -> u16 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// Converts a number's bytes between big-endian and this version's order.
    fn ordered<const N: usize>(self, mut bytes: [u8; N]) -> [u8; N] {
        if self == Self::One {
            bytes.reverse();
        }
        bytes
    }

    fn header(self, kind: u8, length: u32) -> [u8; HEADER_BYTES] {
        frame_header::encode(kind, u32::from_be_bytes(self.ordered(length.to_be_bytes())))
    }

    fn kind_and_length(self, header: [u8; HEADER_BYTES]) -> (u8, usize) {
        let [kind, a, b, c, d] = header;
        let [a, b, c, d] = self.ordered([a, b, c, d]);
        frame_header::decode([kind, a, b, c, d])
    }
}

/// A frame or preface violates the protocol.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtocolError {
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    #[error("invalid length {len} of a frame of kind {kind}")]
    BadLength { kind: u8, len: usize },
    #[error("invalid contents of a frame of kind {0}")]
    BadContents(u8),
    #[error("unexpected {0} frame")]
    Unexpected(&'static str),
    #[error("more standard input than requested")]
    InputOverrun,
}

/// The client's first message: version and secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Preface {
    /// The version that both sides use from then on.
    pub version: Version,
    /// The emulated host's secret.
    pub token: [u8; TOKEN_LEN],
}

impl fmt::Debug for Preface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Preface")
    }
}

impl Preface {
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.version.number().to_be_bytes());
        bytes.extend_from_slice(&self.token);
        to.write_all(&bytes)
    }

    /// Reads a preface; `None` if it is not valid, or its version is not supported by this build.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut magic = [0; MAGIC.len()];
        let mut number = [0; 2];
        let mut token = [0; TOKEN_LEN];
        from.read_exact(&mut magic)?;
        from.read_exact(&mut number)?;
        let Some(version) = Version::of(u16::from_be_bytes(number)).filter(|_| magic == MAGIC) else {
            return Ok(None);
        };
        from.read_exact(&mut token)?;
        Ok(Some(Self { version, token }))
    }

    /// Compares the secret with `token` in constant time.
    pub fn matches(&self, token: &[u8; TOKEN_LEN]) -> bool {
        self.token
            .iter()
            .zip(token)
            .fold(0, |difference, (a, b)| difference | (a ^ b))
            == 0
    }
}

/// The purpose of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum CommandRequest {
    Exec(Command),
    /// Checks that the emulated host is alive. The answer is [`CommandFrame::Exited`] with 0.
    Ping,
    /// Ends all processes, writes everything to disk, and powers off.
    Shutdown,
}

/// A command to run. Strings are bytes, as in the kernel. `Debug` does not show arguments and variables, which can
/// contain passwords.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program (searched in `PATH` of `env`) and arguments.
    pub argv: Vec<Vec<u8>>,
    /// The complete environment.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory, absolute.
    pub cwd: Vec<u8>,
    /// Size of the terminal for the command; `None` for pipes.
    pub terminal: Option<TerminalSize>,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("argv", &format_args!("({})", self.argv.len()))
            .field("env", &format_args!("({})", self.env.len()))
            .field("cwd", &String::from_utf8_lossy(&self.cwd))
            .field("terminal", &self.terminal)
            .finish()
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    Signal(u8),
}

impl Exit {
    /// The exit code as a shell reports it: 128+n for signal n.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}

/// A message between the client and the emulated host. `Debug` does not show the bytes of streams.
#[derive(Clone, PartialEq, Eq)]
pub enum CommandFrame {
    /// Emulated host: the secret is correct.
    Ready,
    /// Client: the request.
    Request(CommandRequest),
    /// Client: standard input for the command, within its credit.
    Stdin(Vec<u8>),
    /// Client: the end of standard input.
    StdinEnd,
    /// Emulated host: this many more bytes of standard input may be sent.
    StdinCredit(u32),
    /// Client: a signal for the command, or for its whole process group if the terminal's driver sent it.
    Signal { number: u8, group: bool },
    /// Client: the size of the terminal has changed.
    Resized(TerminalSize),
    /// Emulated host: standard output.
    Stdout(Vec<u8>),
    /// Emulated host: standard error.
    Stderr(Vec<u8>),
    /// Emulated host: the command has ended, and all its output was sent.
    Exited(Exit),
    /// Emulated host: the command could not be run.
    Failed(String),
}

impl fmt::Debug for CommandFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("Ready"),
            Self::Request(request) => f.debug_tuple("Request").field(request).finish(),
            Self::Stdin(bytes) => write!(f, "Stdin({} bytes)", bytes.len()),
            Self::StdinEnd => f.write_str("StdinEnd"),
            Self::StdinCredit(bytes) => write!(f, "StdinCredit({bytes})"),
            Self::Signal { number, group } => write!(f, "Signal({number}, group: {group})"),
            Self::Resized(size) => f.debug_tuple("Resized").field(size).finish(),
            Self::Stdout(bytes) => write!(f, "Stdout({} bytes)", bytes.len()),
            Self::Stderr(bytes) => write!(f, "Stderr({} bytes)", bytes.len()),
            Self::Exited(exit) => f.debug_tuple("Exited").field(exit).finish(),
            Self::Failed(why) => f.debug_tuple("Failed").field(why).finish(),
        }
    }
}

impl CommandFrame {
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

    /// Encodes the frame for the wire.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let request;
        let small: [u8; 4];
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Ready => (Self::READY, &[]),
            Self::Request(value) => {
                // Serialisation cannot fail, because there are only maps with string keys and byte arrays.
                request = serde_json::to_vec(value).unwrap_or_default();
                (Self::REQUEST, &request)
            }
            Self::Stdin(data) => (Self::STDIN, data),
            Self::StdinEnd => (Self::STDIN_END, &[]),
            Self::StdinCredit(bytes) => {
                small = version.ordered(bytes.to_be_bytes());
                (Self::STDIN_CREDIT, &small)
            }
            Self::Signal { number, group } => {
                small = [*number, u8::from(*group), 0, 0];
                (Self::SIGNAL, &small)
            }
            Self::Resized(size) => {
                let [r0, r1] = version.ordered(size.rows.to_be_bytes());
                let [c0, c1] = version.ordered(size.columns.to_be_bytes());
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
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&version.header(kind, u32::try_from(payload.len()).unwrap_or(u32::MAX)));
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Sends the frame in a single write.
    pub fn write(&self, to: &mut impl Write, version: Version) -> io::Result<()> {
        to.write_all(&self.encode(version))
    }

    /// Reads one frame. `None` at the end of the connection between two frames.
    pub fn read(from: &mut impl Read, version: Version) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
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
        let (kind, len) = version.kind_and_length(header);
        Self::check_length(kind, len).map_err(io::Error::other)?;
        let mut payload = vec![0; len];
        from.read_exact(&mut payload)?;
        Self::parse(kind, payload, version).map(Some).map_err(io::Error::other)
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

    /// Decodes a frame's payload. The `MAX_*` constants limit its size.
    pub fn parse(kind: u8, payload: Vec<u8>, version: Version) -> Result<Self, ProtocolError> {
        Self::check_length(kind, payload.len())?;
        let small = || <[u8; 4]>::try_from(payload.as_slice()).map_err(|_| ProtocolError::BadContents(kind));
        Ok(match kind {
            Self::READY => Self::Ready,
            Self::REQUEST => {
                Self::Request(serde_json::from_slice(&payload).map_err(|_| ProtocolError::BadContents(kind))?)
            }
            Self::STDIN => Self::Stdin(payload),
            Self::STDIN_END => Self::StdinEnd,
            Self::STDIN_CREDIT => Self::StdinCredit(u32::from_be_bytes(version.ordered(small()?))),
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
                    rows: u16::from_be_bytes(version.ordered([r0, r1])),
                    columns: u16::from_be_bytes(version.ordered([c0, c1])),
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

    fn request() -> impl Strategy<Value = CommandRequest> {
        let command = (
            proptest::collection::vec(data(), 0..5),
            proptest::collection::vec((data(), data()), 0..5),
            data(),
            proptest::option::of((any::<u16>(), any::<u16>())),
        )
            .prop_map(|(argv, env, cwd, size)| {
                let terminal = size.map(|(rows, columns)| TerminalSize { rows, columns });
                CommandRequest::Exec(Command {
                    argv,
                    env,
                    cwd,
                    terminal,
                })
            });
        prop_oneof![command, Just(CommandRequest::Ping), Just(CommandRequest::Shutdown)]
    }

    fn frame() -> impl Strategy<Value = CommandFrame> {
        prop_oneof![
            Just(CommandFrame::Ready),
            request().prop_map(CommandFrame::Request),
            data().prop_map(CommandFrame::Stdin),
            Just(CommandFrame::StdinEnd),
            any::<u32>().prop_map(CommandFrame::StdinCredit),
            (1..=64u8, any::<bool>()).prop_map(|(number, group)| CommandFrame::Signal { number, group }),
            (any::<u16>(), any::<u16>())
                .prop_map(|(rows, columns)| CommandFrame::Resized(TerminalSize { rows, columns })),
            data().prop_map(CommandFrame::Stdout),
            data().prop_map(CommandFrame::Stderr),
            any::<u8>().prop_map(|code| CommandFrame::Exited(Exit::Code(code))),
            (1..=64u8).prop_map(|signal| CommandFrame::Exited(Exit::Signal(signal))),
            ".*".prop_map(CommandFrame::Failed),
        ]
    }

    const VERSIONS: [Version; 2] = [Version::One, Version::Two];

    #[test]
    fn debug_shows_neither_streams_nor_command_lines() {
        let secret = b"hunter2".to_vec();
        let command = Command {
            argv: vec![b"login".to_vec(), secret.clone()],
            env: vec![(b"PASSWORD".to_vec(), secret.clone())],
            cwd: b"/".to_vec(),
            terminal: None,
        };
        for (frame, expected) in [
            (CommandFrame::Stdin(secret.clone()), "Stdin(7 bytes)"),
            (CommandFrame::Stdout(secret.clone()), "Stdout(7 bytes)"),
            (CommandFrame::Stderr(secret), "Stderr(7 bytes)"),
            (
                CommandFrame::Request(CommandRequest::Exec(command)),
                "Request(Exec(Command { argv: (2), env: (1), cwd: \"/\", terminal: None }))",
            ),
        ] {
            assert_eq!(format!("{frame:?}"), expected);
        }
    }

    /// Builds whose records have no version send and understand these frames: they never change.
    #[test]
    fn frames_of_version_1_are_unchanged() {
        let size = TerminalSize { rows: 24, columns: 258 };
        let request = CommandRequest::Exec(Command {
            argv: vec![b"id".to_vec()],
            env: vec![(b"A".to_vec(), b"b".to_vec())],
            cwd: b"/".to_vec(),
            terminal: Some(size),
        });
        let json =
            br#"{"exec":{"argv":[[105,100]],"env":[[[65],[98]]],"cwd":[47],"terminal":{"rows":24,"columns":258}}}"#;
        let length = u8::try_from(json.len()).unwrap();
        let exec = [&[2, length, 0, 0, 0][..], json].concat();
        let kept: [(&[u8], CommandFrame); 13] = [
            (b"\x01\0\0\0\0", CommandFrame::Ready),
            (&exec, CommandFrame::Request(request)),
            (b"\x02\x06\0\0\0\"ping\"", CommandFrame::Request(CommandRequest::Ping)),
            (
                b"\x02\x0a\0\0\0\"shutdown\"",
                CommandFrame::Request(CommandRequest::Shutdown),
            ),
            (b"\x03\x02\0\0\0in", CommandFrame::Stdin(b"in".to_vec())),
            (b"\x04\0\0\0\0", CommandFrame::StdinEnd),
            (b"\x05\x04\0\0\0\0\0\x04\0", CommandFrame::StdinCredit(STDIN_WINDOW)),
            (
                b"\x06\x04\0\0\0\x0f\x01\0\0",
                CommandFrame::Signal {
                    number: 15,
                    group: true,
                },
            ),
            (b"\x07\x04\0\0\0\x18\0\x02\x01", CommandFrame::Resized(size)),
            (b"\x08\x03\0\0\0out", CommandFrame::Stdout(b"out".to_vec())),
            (b"\x09\x03\0\0\0err", CommandFrame::Stderr(b"err".to_vec())),
            (b"\x0a\x04\0\0\0\x01\x09\0\0", CommandFrame::Exited(Exit::Signal(9))),
            (b"\x0b\x02\0\0\0no", CommandFrame::Failed("no".to_owned())),
        ];
        for (bytes, frame) in kept {
            assert_eq!(
                CommandFrame::read(&mut &bytes[..], Version::One).unwrap().as_ref(),
                Some(&frame)
            );
            assert_eq!(frame.encode(Version::One), bytes, "{frame:?}");
        }
        let mut preface = b"mkmach\0\x01".to_vec();
        preface.extend([7; TOKEN_LEN]);
        let read = Preface::read(&mut preface.as_slice()).unwrap().unwrap();
        assert_eq!(read.version, Version::One);
        let mut written = Vec::new();
        read.write(&mut written).unwrap();
        assert_eq!(written, preface);
    }

    #[test]
    fn version_2_uses_the_byte_order_of_the_other_sockets() {
        let size = TerminalSize { rows: 24, columns: 258 };
        assert_eq!(
            CommandFrame::Resized(size).encode(Version::Two),
            b"\x07\0\0\0\x04\0\x18\x01\x02"
        );
        assert_eq!(
            CommandFrame::StdinCredit(0x0102_0304).encode(Version::Two),
            b"\x05\0\0\0\x04\x01\x02\x03\x04"
        );
        assert_eq!(
            VERSIONS.map(|version| Version::of(version.number())),
            VERSIONS.map(Some)
        );
        assert_eq!((Version::of(0), Version::of(3)), (None, None));
    }

    proptest! {
        #[test]
        fn frames_survive_the_round_trip_in_order(frames in proptest::collection::vec(frame(), 0..8)) {
            for version in VERSIONS {
                let wire: Vec<u8> = frames.iter().flat_map(|frame| frame.encode(version)).collect();
                let mut from = wire.as_slice();
                for expected in &frames {
                    let read = CommandFrame::read(&mut from, version).unwrap();
                    prop_assert_eq!(read.as_ref(), Some(expected));
                }
                prop_assert_eq!(CommandFrame::read(&mut from, version).unwrap(), None);
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            for version in VERSIONS {
                let mut from = bytes.as_slice();
                while let Ok(Some(_)) = CommandFrame::read(&mut from, version) {}
            }
        }

        #[test]
        fn any_payload_of_any_kind_is_decoded_or_refused(kind in 0..16u8, payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(frame) = CommandFrame::parse(kind, payload, Version::NEWEST) {
                let (first, _) = frame.encode(Version::NEWEST).split_first().map(|(first, rest)| (*first, rest.len())).unwrap();
                prop_assert_eq!(first, kind);
            }
        }
    }

    #[test]
    fn an_oversized_frame_is_refused_before_memory_is_allocated() {
        let wire = [CommandFrame::STDOUT, 0xff, 0xff, 0xff, 0xff];
        let error = CommandFrame::read(&mut wire.as_slice(), Version::NEWEST).unwrap_err();
        assert!(error.to_string().contains("length 4294967295"), "{error}");
    }

    #[test]
    fn a_connection_that_ends_inside_a_frame_is_an_error() {
        let wire = CommandFrame::Stdout(vec![1, 2, 3]).encode(Version::NEWEST);
        for len in 1..wire.len() {
            let mut part = &wire[..len];
            assert_eq!(
                CommandFrame::read(&mut part, Version::NEWEST).unwrap_err().kind(),
                io::ErrorKind::UnexpectedEof
            );
        }
    }

    #[test]
    fn a_preface_with_another_version_is_ignored() {
        let mut wire = Vec::new();
        let (version, token) = (Version::NEWEST, [7; TOKEN_LEN]);
        Preface { version, token }.write(&mut wire).unwrap();
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
