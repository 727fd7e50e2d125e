//! What the emulated host and the outside say to each other over one TCP connection a command.
//!
//! The client opens with a [`Preface`]; the machine answers [`CommandFrame::Ready`]; the client sends one [`CommandFrame::Request`]; then both send
//! frames until [`CommandFrame::Exited`] or [`CommandFrame::Failed`]. Standard input flows under credit, so that signals sent behind it are never
//! stuck; output needs none, TCP holds it back. Both sides treat the other as hostile: every length is bounded before it is used.
//!
//! The preface says in which [`Version`] both talk. A machine may be of an older build than the client; its record has the version that it
//! speaks. A request with an unknown field is refused, so every change here raises the version.

use crate::frame_header::{self, HEADER_BYTES};
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

/// First bytes of a connection; the version follows, as a big-endian u16.
const MAGIC: [u8; 6] = *b"mkmach";

/// A version of the protocol. All are spoken by clients and by machines of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Numbers are little-endian. That of machines whose record says none.
    One,
    /// Numbers are big-endian, as on microkube's other sockets.
    Two,
}

impl Version {
    /// The one that machines of this build are talked to in.
    pub const NEWEST: Self = Self::Two;

    /// The version of this number, if this build speaks it.
    pub fn of(number: u16) -> Option<Self> {
        [Self::One, Self::Two]
            .into_iter()
            .find(|version| version.number() == number)
    }

    /// Its number.
    pub fn number(self) -> u16 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// A number's big-endian bytes in this version's order, and the other way round.
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
    /// In which both talk from then on.
    pub version: Version,
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
        bytes.extend_from_slice(&self.version.number().to_be_bytes());
        bytes.extend_from_slice(&self.token);
        to.write_all(&bytes)
    }

    /// Reads one; `None` if it is of a version that this build does not speak, or no preface at all.
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
pub enum CommandRequest {
    /// Runs a command.
    Exec(Command),
    /// Answers [`CommandFrame::Exited`] with 0: the machine is alive.
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
pub enum CommandFrame {
    /// Machine: the secret is right.
    Ready,
    /// Client: what to do.
    Request(CommandRequest),
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

    /// Bytes on the wire.
    pub fn encode(&self, version: Version) -> Vec<u8> {
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

    /// Sends it in one write.
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

    /// Understands a frame's payload. `MAX_*` bound what is accepted.
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

    /// What builds without versions in records sent and understood: it never changes.
    #[test]
    fn frames_of_version_1_are_as_ever() {
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
    fn version_2_has_the_byte_order_of_the_other_sockets() {
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
        fn frames_survive_the_wire_in_order(frames in proptest::collection::vec(frame(), 0..8)) {
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
        fn arbitrary_bytes_are_refused_or_understood_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            for version in VERSIONS {
                let mut from = bytes.as_slice();
                while let Ok(Some(_)) = CommandFrame::read(&mut from, version) {}
            }
        }

        #[test]
        fn any_payload_of_any_kind_is_refused_or_understood(kind in 0..16u8, payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(frame) = CommandFrame::parse(kind, payload, Version::NEWEST) {
                let (first, _) = frame.encode(Version::NEWEST).split_first().map(|(first, rest)| (*first, rest.len())).unwrap();
                prop_assert_eq!(first, kind);
            }
        }
    }

    #[test]
    fn a_frame_that_announces_too_much_is_refused_before_its_memory_is_taken() {
        let wire = [CommandFrame::STDOUT, 0xff, 0xff, 0xff, 0xff];
        let error = CommandFrame::read(&mut wire.as_slice(), Version::NEWEST).unwrap_err();
        assert!(error.to_string().contains("4294967295 bytes"), "{error}");
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
    fn a_preface_of_another_version_is_not_taken_for_one() {
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
