//! FUSE requests of a hostile guest: each is served or refused within the limits, and nothing outside of the share
//! changes.
#![no_main]

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use microkube_file_server::credentials::Credentials;
use microkube_file_server::descriptor_paths::DescriptorPaths;
use microkube_file_server::file_system::{FileSystem, Limits};
use microkube_file_server::operations::outcome::Outcome;
use microkube_file_server::operations::{begin, serve};
use microkube_file_server::protocol::MAX_MESSAGE_BYTES;
use microkube_file_server::protocol::header::{REQUEST_HEADER_BYTES, RequestHeader};
use microkube_file_server::protocol::opcode;
use microkube_file_server::protocol::reply::Reply;
use microkube_file_server::protocol::request::Operation;
use microkube_file_server::replies::Replies;
use microkube_file_server::share::Shares;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));

/// Files do not become larger, so that a run neither takes long nor fills a disk.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// INIT of Linux 6.12: version 7.41, any readahead, all flags.
const INIT: [u8; 64] = {
    let mut body = [0; 64];
    body[0] = 7;
    body[4] = 41;
    let mut at = 12;
    while at < 20 {
        body[at] = 0xff;
        at += 1;
    }
    body
};

/// The bytes are requests: an opcode, an inode, the length of the body (little-endian, 16 bits), the body. Before them,
/// the share `data` is looked up, so it has the number 2.
fn check(bytes: &[u8]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (inside, outside) = (directory.path().join("inside"), directory.path().join("outside"));
    fs::create_dir(&inside).expect("a directory");
    fs::write(inside.join("file"), "content").expect("a file");
    fs::write(&outside, "secret").expect("a file");
    std::os::unix::fs::symlink("../outside", inside.join("link")).expect("a link");

    let mut guest = Guest::with_share(&inside);
    guest.request(opcode::INIT, 0, &INIT);
    guest.request(opcode::LOOKUP, 1, b"data\0");
    let mut rest = bytes;
    while let Some((&[opcode, node, low, high], after)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(after.len());
        let (body, after) = after.split_at(length);
        guest.request(opcode.into(), node.into(), body);
        rest = after;
    }

    assert_eq!(fs::read(&outside).expect("the file outside"), b"secret");
    let entries = fs::read_dir(directory.path()).expect("the directory");
    assert_eq!(entries.count(), 2, "something appeared outside of the share");
}

struct Guest {
    file_system: Arc<FileSystem>,
    credentials: Credentials,
    replies: Replies,
    /// The other end of `replies`, to which only requests that wait for locks would reply.
    _socket: UnixStream,
}

impl Guest {
    fn with_share(path: &Path) -> Self {
        let limits = Limits {
            inodes: 100,
            handles: 20,
            directories: 10,
            lock_owners: 10,
            lock_ranges: 20,
        };
        let shares = Shares::new(false);
        let mut options = fs::File::options();
        // O_PATH
        let root = options.read(true).custom_flags(0o10_000_000).open(path);
        shares
            .add("data", root.expect("the share").into(), false)
            .expect("a share");
        let (socket, server) = UnixStream::pair().expect("a pair of sockets");
        Self {
            file_system: Arc::new(FileSystem::new(DescriptorPaths::MOUNTED, shares, limits)),
            credentials: Credentials::of_thread().expect("the thread's credentials"),
            replies: Replies::new(server.into()),
            _socket: socket,
        }
    }

    fn request(&mut self, opcode: u32, node: u64, body: &[u8]) {
        let mut header = [0; REQUEST_HEADER_BYTES];
        let length = u32::try_from(REQUEST_HEADER_BYTES + body.len()).expect("a short body");
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..8].copy_from_slice(&opcode.to_le_bytes());
        header[16..24].copy_from_slice(&node.to_le_bytes());
        let Ok(header) = RequestHeader::parse(&header) else {
            return;
        };
        if Operation::parse(&header, body).is_ok_and(|operation| is_costly(&operation)) {
            return;
        }
        begin(&self.file_system, &header, body);
        let mut reply = Reply::new(Vec::new());
        let outcome = serve(
            &self.file_system,
            &mut self.credentials,
            &self.replies,
            &header,
            body,
            &mut reply,
        );
        if let Outcome::Done(result) = outcome {
            let error = result.err().map(|error| error.raw_os_error());
            assert!(reply.complete(1, error).len() <= MAX_MESSAGE_BYTES);
        }
    }
}

/// Whether the request would make a large file, write the host's disk, or wait for ever for a lock.
fn is_costly(operation: &Operation<'_>) -> bool {
    match operation {
        Operation::WaitForLock(_) | Operation::SyncFileSystem => true,
        Operation::SetAttributes(request) => request.size.is_some_and(|size| size > MAX_FILE_BYTES),
        Operation::Write(request) => request.offset > MAX_FILE_BYTES,
        Operation::Allocate(request) => request.offset.saturating_add(request.length) > MAX_FILE_BYTES,
        Operation::CopyFileRange(request) => request.to_offset > MAX_FILE_BYTES,
        _ => false,
    }
}
