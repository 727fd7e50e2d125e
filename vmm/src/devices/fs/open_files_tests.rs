//! READs that the device serves itself, against an honest driver and servers that pass descriptors as they should, or
//! otherwise.

use std::fs::File;
use std::io::{PipeWriter, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use vmm_sys_util::tempfile::TempFile;

use super::attachment::receive;
use super::driver::{Asked, Fs, HIGH_PRIORITY, RELEASE, memory_file, read_request, reply, request_header};
use super::message::{REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES};
use super::open_files::{MAX_FILES, MAX_READ_BYTES};

const NODE: u64 = 5;
const HANDLE: u64 = 77;
const INIT: u32 = 26;
const DESTROY: u32 = 38;

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251).to_le_bytes()[0]).collect()
}

/// A device that may wait for files: those of tests are in memory.
fn waiting() -> Fs {
    let mut fs = Fs::new();
    fs.backend.files().unwrap().wait();
    fs
}

/// The server answers a READ of the handle and passes these files.
fn pass(fs: &mut Fs, handle: u64, files: &[&File]) {
    let asked = fs.ask_read(NODE, handle, 0, 4);
    let (header, _) = fs.served().expect("the server serves the first READ");
    fs.reply_with(&reply(header.unique, 0, b"read"), files);
    assert_eq!(fs.answer(&asked).unwrap().1, b"read");
}

/// What the device reads itself; `None` if the server gets the request.
fn read(fs: &mut Fs, handle: u64, offset: u64, size: u32) -> Option<Vec<u8>> {
    let asked = fs.ask_read(NODE, handle, offset, size);
    match fs.served() {
        Some((header, body)) => {
            assert_eq!(
                body,
                read_request(NODE, handle, offset, size, 1).1,
                "as the guest wrote it"
            );
            fs.reply(&reply(header.unique, -libc::EBADF, b""));
            assert_eq!(fs.failure(&asked, 1), libc::EBADF);
            None
        }
        None => Some(data(fs, &asked)),
    }
}

fn data(fs: &Fs, asked: &Asked) -> Vec<u8> {
    let (header, data, length) = fs.answer(asked).expect("an answer");
    assert_eq!((header.unique, header.error), (1, 0));
    assert_eq!(usize::try_from(length).unwrap(), REPLY_HEADER_BYTES + data.len());
    data
}

/// Waits until no reader of this pipe is open; `false` if that takes long. Tests that fork hold readers for a moment.
fn is_closed(writer: &PipeWriter, milliseconds: libc::c_int) -> bool {
    let mut poll = libc::pollfd {
        fd: writer.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one structure, which the kernel changes.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
    poll.revents & libc::POLLERR != 0
}

fn closes(writer: &PipeWriter) -> bool {
    is_closed(writer, 10_000)
}

fn is_open(writer: &PipeWriter) -> bool {
    !is_closed(writer, 0)
}

/// The ends of a pipe, of which the first is passed.
fn pipe() -> (File, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(reader)), writer)
}

#[test]
fn reads_of_a_file_that_was_passed_reach_no_server() {
    let mut fs = waiting();
    let content = content(3 << 20);
    let file = memory_file(&content);
    assert_eq!(read(&mut fs, HANDLE, 0, 10), None);
    pass(&mut fs, HANDLE, &[&file]);
    for (offset, size) in [(0, 1), (5, 4096), (1 << 20, 1 << 20), ((2 << 20) - 3, 100_000)] {
        let expected = &content[usize::try_from(offset).unwrap()..][..usize::try_from(size).unwrap()];
        assert!(
            read(&mut fs, HANDLE, offset, size).unwrap() == expected,
            "{offset} {size}"
        );
    }
    assert_eq!(read(&mut fs, HANDLE + 1, 0, 10), None);
    // What the device has read is the file now, not a copy of it.
    file.write_all_at(b"changed", 100).unwrap();
    assert_eq!(read(&mut fs, HANDLE, 100, 7).unwrap(), b"changed");
}

#[test]
fn the_end_of_a_file_is_where_it_is_now_and_holes_are_zeros() {
    let mut fs = waiting();
    let file = memory_file(b"0123456789");
    pass(&mut fs, HANDLE, &[&file]);
    assert_eq!(read(&mut fs, HANDLE, 8, 100).unwrap(), b"89");
    assert_eq!(read(&mut fs, HANDLE, 10, 100).unwrap(), b"");
    assert_eq!(read(&mut fs, HANDLE, 1 << 40, 100).unwrap(), b"");
    file.set_len(5).unwrap();
    assert_eq!(read(&mut fs, HANDLE, 0, 100).unwrap(), b"01234");
    file.set_len(100_000).unwrap();
    let mut expected = b"01234".to_vec();
    expected.resize(100_000, 0);
    assert!(read(&mut fs, HANDLE, 0, 200_000).unwrap() == expected);
}

#[test]
fn a_read_that_is_not_valid_goes_to_the_server() {
    let mut fs = waiting();
    let file = memory_file(&content(2 << 20));
    pass(&mut fs, HANDLE, &[&file]);
    let last = u64::try_from(i64::MAX).unwrap();
    for (offset, size) in [(0, 0), (u64::MAX, 2), (last - 1, 2), (last + 1, 1)] {
        assert_eq!(read(&mut fs, HANDLE, offset, size), None, "{offset} {size}");
    }
    // Another inode, a body of another length, and less room than the request asks for.
    let (header, body) = read_request(NODE, HANDLE, 0, 100, 1);
    let (other, _) = read_request(NODE + 1, HANDLE, 0, 100, 1);
    let longer = request_header(REQUEST_HEADER_BYTES + 41, 15, 1);
    let shorter = request_header(REQUEST_HEADER_BYTES + 39, 15, 1);
    for (header, body, room) in [
        (&other, &body[..], 100),
        (&longer, &[&body[..], &[0]].concat(), 100),
        (&shorter, &body[..39], 100),
        (&header, &body, 99),
    ] {
        let asked = fs.ask_split(1, header, &[body], &[REPLY_HEADER_BYTES, room]);
        let (sent, received) = fs.served().expect("the server decides");
        assert_eq!(received, body);
        fs.reply(&reply(sent.unique, -libc::EINVAL, b""));
        assert_eq!(fs.failure(&asked, 1), libc::EINVAL);
    }
    // One that asks for more than a reply has gets as much as that.
    let large = u32::try_from(MAX_READ_BYTES).unwrap() + 1;
    assert_eq!(read(&mut fs, HANDLE, 0, large).unwrap().len(), MAX_READ_BYTES);
    assert!(read(&mut fs, HANDLE, 0, 100).is_some(), "the file is still there");
}

#[test]
fn a_file_that_cannot_be_read_without_waiting_is_left_to_the_server() {
    // Neither files in memory nor directories can be read so (EOPNOTSUPP), and a pipe has no offsets (ESPIPE).
    let (reader, writer) = pipe();
    let directory = File::open("/").unwrap();
    let mut fs = Fs::new();
    for (handle, file) in [(1, memory_file(b"0123456789")), (2, directory), (3, reader)] {
        pass(&mut fs, handle, &[&file]);
        assert_eq!(fs.open_files(), 1);
        assert_eq!(read(&mut fs, handle, 0, 5), None);
        assert_eq!(fs.open_files(), 0, "it is not tried again");
    }
    assert!(closes(&writer));
}

#[test]
fn data_outside_the_page_cache_is_right_from_the_vmm_and_from_the_server() {
    let content = content(1 << 20);
    let file = TempFile::new().unwrap().into_file();
    (&file).write_all(&content).unwrap();
    file.sync_all().unwrap();
    let mut fs = Fs::new();
    pass(&mut fs, HANDLE, &[&file]);
    for round in 0..8u64 {
        // Every second round from a cache that may be empty: the kernel decides.
        if round % 2 == 0 {
            // SAFETY: no memory is involved.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        }
        let offset = round * 100_000;
        let expected = &content[usize::try_from(offset).unwrap()..][..100_000];
        let asked = fs.ask_read(NODE, HANDLE, offset, 100_000);
        if let Some((header, _)) = fs.served() {
            fs.reply(&reply(header.unique, 0, expected));
        }
        assert!(data(&fs, &asked) == expected, "{round}");
    }
}

#[test]
fn release_and_the_end_of_all_handles_close_files() {
    let release = |handle: u64| [&handle.to_le_bytes()[..], &[0; 16]].concat();
    let ends: [(u32, Vec<u8>); 4] = [
        (RELEASE, release(HANDLE)),
        // Behind the handle, the device does not look.
        (RELEASE, HANDLE.to_le_bytes().to_vec()),
        (INIT, vec![0; 64]),
        (DESTROY, Vec::new()),
    ];
    for (opcode, body) in ends {
        let mut fs = waiting();
        let (reader, writer) = pipe();
        pass(&mut fs, HANDLE, &[&reader]);
        drop(reader);
        fs.ask_for(RELEASE, &release(HANDLE + 1));
        assert_eq!(fs.served().unwrap().1, release(HANDLE + 1));
        assert!(is_open(&writer));
        fs.ask_for(opcode, &body);
        // Before the server gets the request.
        fs.notify();
        assert!(closes(&writer), "{opcode}");
        assert_eq!(fs.served().unwrap().1, body);
        assert_eq!(read(&mut fs, HANDLE, 0, 10), None);
    }
}

#[test]
fn a_reset_and_the_end_of_the_server_close_files() {
    for ends in [Fs::reset, Fs::end_server] {
        let mut fs = waiting();
        let (reader, writer) = pipe();
        pass(&mut fs, HANDLE, &[&reader]);
        drop(reader);
        assert!(is_open(&writer));
        ends(&mut fs);
        assert!(closes(&writer));
        assert_eq!(fs.open_files(), 0);
    }
}

#[test]
fn a_file_that_arrives_after_its_release_is_closed() {
    for (opcode, body) in [(RELEASE, HANDLE.to_le_bytes().to_vec()), (INIT, vec![0; 64])] {
        let mut fs = waiting();
        let (reader, writer) = pipe();
        let asked = fs.ask_read(NODE, HANDLE, 0, 4);
        let (header, _) = fs.served().unwrap();
        fs.ask_for(opcode, &body);
        fs.served().unwrap();
        fs.reply_with(&reply(header.unique, 0, b"late"), &[&reader]);
        drop(reader);
        assert_eq!(fs.answer(&asked).unwrap().1, b"late");
        assert!(closes(&writer), "{opcode}");
    }
    // The same for a reset, after which the reply has no request.
    let mut fs = waiting();
    let (reader, writer) = pipe();
    fs.ask_read(NODE, HANDLE, 0, 4);
    let (header, _) = fs.served().unwrap();
    fs.reset();
    fs.reply_with(&reply(header.unique, 0, b"late"), &[&reader]);
    drop(reader);
    assert!(closes(&writer));
}

#[test]
fn no_more_files_are_kept_than_the_limit() {
    let mut fs = waiting();
    let file = memory_file(b"content");
    for handle in 0..MAX_FILES as u64 {
        pass(&mut fs, handle, &[&file]);
    }
    let (reader, writer) = pipe();
    pass(&mut fs, 1000, &[&reader]);
    drop(reader);
    assert!(closes(&writer));
    assert_eq!(fs.open_files(), MAX_FILES);
    assert_eq!(read(&mut fs, 1000, 0, 7), None);
    assert_eq!(read(&mut fs, 63, 0, 7).unwrap(), b"content");
    fs.ask_for(RELEASE, &63u64.to_le_bytes());
    fs.served().unwrap();
    pass(&mut fs, 1001, &[&file]);
    assert_eq!(read(&mut fs, 1001, 0, 7).unwrap(), b"content");
}

#[test]
fn descriptors_that_a_server_must_not_send_are_closed_and_the_replies_arrive() {
    // With another reply than that to a READ.
    let mut fs = waiting();
    let closed = |fs: &mut Fs, send: &dyn Fn(&mut Fs, &[&File])| {
        let (reader, writer) = pipe();
        send(fs, &[&reader]);
        drop(reader);
        assert_eq!(fs.open_files(), 0);
        closes(&writer)
    };
    assert!(closed(&mut fs, &|fs, files| {
        let asked = fs.ask(1, b"x", 8);
        let (header, _) = fs.served().unwrap();
        fs.reply_with(&reply(header.unique, 0, b"answer"), files);
        assert_eq!(fs.answer(&asked).unwrap().1, b"answer");
    }));
    // With an error.
    assert!(closed(&mut fs, &|fs, files| {
        let asked = fs.ask_read(NODE, HANDLE, 0, 4);
        let (header, _) = fs.served().unwrap();
        fs.reply_with(&reply(header.unique, -libc::EACCES, b""), files);
        assert_eq!(fs.failure(&asked, 1), libc::EACCES);
    }));
    // With a reply for which there is no request.
    assert!(closed(&mut fs, &|fs, files| fs.reply_with(&reply(9999, 0, b"nothing"), files)));
    // With a reply that does not fit.
    assert!(closed(&mut fs, &|fs, files| {
        let asked = fs.ask_read(NODE, HANDLE, 0, 4);
        let (header, _) = fs.served().unwrap();
        fs.reply_with(&reply(header.unique, 0, b"too long"), files);
        assert_eq!(fs.failure(&asked, 1), libc::EIO);
    }));
    // Two in one message.
    let second = memory_file(b"");
    assert!(closed(&mut fs, &|fs, files| pass(fs, HANDLE, &[files[0], &second])));
    assert!(closed(&mut fs, &|fs, files| pass(fs, HANDLE, &[&second, files[0]])));
    // With the body instead of the header.
    assert!(closed(&mut fs, &|fs, files| {
        let asked = fs.ask_read(NODE, HANDLE, 0, 4);
        let (header, _) = fs.served().unwrap();
        let bytes = reply(header.unique, 0, b"read");
        fs.reply(&bytes[..REPLY_HEADER_BYTES]);
        fs.reply_with(&bytes[REPLY_HEADER_BYTES..], files);
        assert_eq!(fs.answer(&asked).unwrap().1, b"read");
    }));
}

#[test]
fn a_second_descriptor_of_a_handle_is_closed() {
    let mut fs = waiting();
    let file = memory_file(b"the first");
    let asked = [fs.ask_read(NODE, HANDLE, 0, 4), fs.ask_read(NODE, HANDLE, 4, 4)];
    let tags = asked.map(|_| fs.served().unwrap().0.unique);
    fs.reply_with(&reply(tags[0], 0, b"the "), &[&file]);
    let (reader, writer) = pipe();
    fs.reply_with(&reply(tags[1], 0, b"firs"), &[&reader]);
    drop(reader);
    assert!(closes(&writer));
    assert_eq!(read(&mut fs, HANDLE, 0, 100).unwrap(), b"the first");
}

#[test]
fn a_header_in_parts_passes_one_descriptor() {
    let mut fs = waiting();
    let file = memory_file(b"content");
    fs.ask_read(NODE, HANDLE, 0, 4);
    let (header, _) = fs.served().unwrap();
    let bytes = reply(header.unique, 0, b"read");
    let (reader, writer) = pipe();
    fs.reply_with(&bytes[..3], &[&file]);
    fs.reply_with(&bytes[3..], &[&reader]);
    drop(reader);
    assert!(closes(&writer));
    assert_eq!(read(&mut fs, HANDLE, 0, 100).unwrap(), b"content");
}

#[test]
fn a_descriptor_that_was_received_is_closed_when_a_program_is_started() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let file = memory_file(b"content");
    theirs.send_with_fds(&[&b"x"[..]], &[file.as_raw_fd()]).unwrap();
    let mut bytes = [0; 8];
    let (count, received) = receive(ours.as_fd(), &mut bytes).unwrap();
    let received = received.unwrap();
    assert_eq!((count, bytes[0]), (1, b'x'));
    // SAFETY: fcntl on an open descriptor.
    let flags = unsafe { libc::fcntl(received.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags, libc::FD_CLOEXEC);
    let mut text = String::new();
    (&file).rewind().unwrap();
    File::from(received).read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    drop(theirs);
    let (count, none) = receive(ours.as_fd(), &mut bytes).unwrap();
    assert!(count == 0 && none.is_none());
}

proptest! {
    #[test]
    fn what_is_read_is_the_file_s_content_however_the_guest_s_memory_is_split(
        length in 0usize..40_000,
        reads in proptest::collection::vec(
            (0usize..50_000, proptest::collection::vec(0usize..20_000, 1..6), 0usize..2),
            1..8,
        ),
    ) {
        let mut fs = waiting();
        let content = content(length);
        pass(&mut fs, HANDLE, &[&memory_file(&content)]);
        for (offset, room, queue) in reads {
            let size: usize = room.iter().sum();
            let (header, body) = read_request(NODE, HANDLE, offset as u64, u32::try_from(size).unwrap(), 1);
            let rooms = [&[REPLY_HEADER_BYTES], &room[..]].concat();
            let queue = HIGH_PRIORITY + queue;
            let asked = fs.ask_split(queue, &header, &[&body[..7], &body[7..]], &rooms);
            match fs.served() {
                None => {
                    let rest = content.get(offset..).unwrap_or_default();
                    prop_assert!(data(&fs, &asked) == rest[..size.min(rest.len())]);
                }
                Some(_) => prop_assert_eq!(size, 0),
            }
        }
    }
}
