//! The file system device against a hostile driver and a hostile file server: at worst the guest's shares fail.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;

use super::super::virtio::driver::{FREE, INDIRECT, NEXT, WRITE};
use super::super::virtio::worker::{Backend, Poll};
use super::device::QUEUE_SIZE;
use super::driver::{FORGET, Fs, GETATTR, HIGH_PRIORITY, REQUESTS, reply, request_header};
use super::message::{MAX_MESSAGE_BYTES, REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES};
use super::server::MAX_IN_FLIGHT;
use super::worker::FsBackend;

const EIO: Option<i32> = Some(libc::EIO);

#[test]
fn invalid_requests_fail_and_never_reach_the_server() {
    let header = |length| request_header(length, GETATTR, 7);
    let mut fs = Fs::new();
    let cases = [
        ("shorter than stated", header(48), 7, EIO),
        ("longer than stated", header(48), 9, EIO),
        ("a length below that of the header", header(39), 0, EIO),
        ("no length", header(0), 0, EIO),
        ("too long", header(MAX_MESSAGE_BYTES + 1), MAX_MESSAGE_BYTES - 39, EIO),
        ("the largest length", request_header(0xffff_ffff, GETATTR, 7), 8, EIO),
        ("an invalid forget", request_header(48, FORGET, 7), 7, None),
    ];
    for (index, (name, header, length, error)) in (0..).zip(cases) {
        let asked = fs.ask_split(REQUESTS, &header, &[&vec![1; length]], &[REPLY_HEADER_BYTES, 100]);
        fs.notify();
        match error {
            Some(error) => assert_eq!(fs.failure(&asked, 7), error, "{name}"),
            None => assert_eq!(fs.driver.used_entry(REQUESTS, index), (asked.head, 0), "{name}"),
        }
    }
    assert!(fs.server.request().is_none());
}

#[test]
fn requests_without_room_for_a_header_are_returned_empty() {
    let mut fs = Fs::new();
    let header = request_header(REQUEST_HEADER_BYTES, GETATTR, 7);
    let chains: [(&[u8], &[usize]); 5] = [
        (&header, &[]),
        (&header, &[15]),
        (&header, &[1, 2, 3]),
        (&header[..39], &[]),
        (&[], &[8]),
    ];
    for (index, (header, room)) in (0..).zip(chains) {
        let asked = fs.ask_split(REQUESTS, header, &[], room);
        fs.notify();
        assert_eq!(fs.driver.used_entry(REQUESTS, index), (asked.head, 0));
    }
    // A chain without a whole header has no name.
    let asked = fs.ask_split(REQUESTS, &header[..8], &[], &[16]);
    fs.notify();
    assert_eq!(fs.failure(&asked, 0), libc::EIO);
    assert!(fs.server.request().is_none());
}

#[test]
fn a_malformed_chain_stops_the_device_until_a_reset() {
    let mut fs = Fs::new();
    let before = fs.ask(1, b"x", 8);
    fs.notify();
    for chain in [
        vec![(FREE, 40, WRITE), (FREE, 40, 0)],
        vec![(u64::MAX - 7, 40, 0)],
        vec![(FREE, u32::MAX, 0), (FREE, 16, WRITE)],
    ] {
        fs.driver.offer(REQUESTS, &chain);
        let result = fs.backend.queue_ready(REQUESTS, &mut fs.active, &fs.poll);
        assert!(result.is_err());
        fs.reset();
    }
    assert!(fs.answer(&before).is_none());
    let asked = fs.ask(2, b"y", 8);
    assert_eq!(fs.served().unwrap().1, b"x");
    let (header, data) = fs.served().unwrap();
    assert_eq!(data, b"y");
    fs.reply(&reply(header.unique, 0, b"z"));
    assert_eq!(fs.answer(&asked).unwrap().1, b"z");
}

#[test]
fn no_more_requests_are_in_flight_than_the_limit_even_if_chains_repeat() {
    let mut fs = Fs::new();
    let head = fs.ask(1, b"", 0).head;
    for _ in 1..QUEUE_SIZE {
        fs.driver.offer_again(REQUESTS, head);
    }
    fs.notify();
    // The socket has no room for all of them.
    let sent: Vec<_> = std::iter::from_fn(|| fs.served()).collect();
    assert_eq!(fs.active.queues[REQUESTS].parsed, MAX_IN_FLIGHT);
    fs.driver.offer_again(REQUESTS, head);
    fs.driver.offer_again(REQUESTS, head);
    fs.notify();
    assert_eq!(fs.active.queues[REQUESTS].parsed, MAX_IN_FLIGHT);
    assert!(fs.served().is_none());
    fs.reply(&reply(sent[0].0.unique, 0, b""));
    assert_eq!(fs.active.queues[REQUESTS].parsed, MAX_IN_FLIGHT + 1);
    assert_eq!(fs.driver.used(REQUESTS), 1);
}

/// Offers a request of this many descriptors in an indirect table: the queue's own table has fewer.
fn ask_with_descriptors(fs: &mut Fs, count: u64) -> Vec<u8> {
    let data: Vec<u8> = (2..count).map(|at| at.to_le_bytes()[0]).collect();
    let header = request_header(REQUEST_HEADER_BYTES + data.len(), GETATTR, 1);
    let at = fs.place(REQUEST_HEADER_BYTES + data.len());
    let bytes = [&header[..], &data].concat();
    fs.driver.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
    let table = fs.place(usize::try_from(count * 16).unwrap());
    for index in 0..count {
        let (address, length, flags) = match index {
            0 => (at, REQUEST_HEADER_BYTES as u64, NEXT),
            last if last + 1 == count => (fs.place(REPLY_HEADER_BYTES), REPLY_HEADER_BYTES as u64, WRITE),
            _ => (at + REQUEST_HEADER_BYTES as u64 + index - 1, 1, NEXT),
        };
        let entry = table + index * 16;
        let rest = length | u64::from(flags) << 32 | (index + 1) << 48;
        fs.driver.memory.write_obj(address, GuestAddress(entry)).unwrap();
        fs.driver.memory.write_obj(rest, GuestAddress(entry + 8)).unwrap();
    }
    let length = u32::try_from(count * 16).unwrap();
    fs.driver.offer(REQUESTS, &[(table, length, INDIRECT)]);
    data
}

#[test]
fn a_chain_of_a_thousand_descriptors_is_served_and_a_longer_one_refused() {
    let mut fs = Fs::new();
    let data = ask_with_descriptors(&mut fs, 1024);
    assert!(fs.served().unwrap().1 == data);
    ask_with_descriptors(&mut fs, 1025);
    let result = fs.backend.queue_ready(REQUESTS, &mut fs.active, &fs.poll);
    assert!(result.is_err());
}

#[test]
fn a_waiting_command_of_the_transport_ends_the_work() {
    let mut fs = Fs::new();
    fs.ask(1, b"x", 8);
    fs.poll.set_command_waits();
    fs.backend.queue_ready(REQUESTS, &mut fs.active, &fs.poll).unwrap();
    assert!(fs.poll.takes_another_turn());
    assert_eq!(fs.active.queues[REQUESTS].parsed, 0);
    fs.poll = Poll::new().unwrap();
    assert_eq!(fs.served().unwrap().1, b"x");
}

#[test]
fn replies_that_fit_no_request_are_skipped_and_the_others_arrive() {
    let mut fs = Fs::new();
    let asked = fs.ask(1, b"x", 8);
    let (header, _) = fs.served().unwrap();
    for tag in [0, header.unique + 1, u64::MAX] {
        fs.reply(&reply(tag, 0, &vec![1; 100_000]));
        fs.reply(&reply(tag, 0, b""));
    }
    assert!(fs.answer(&asked).is_none());
    fs.reply(&reply(header.unique, 0, b"12345678"));
    assert_eq!(fs.answer(&asked).unwrap().1, b"12345678");
    fs.reply(&reply(header.unique, 0, b"87654321"));
    assert_eq!(fs.driver.used(REQUESTS), 1, "a second reply");
    assert_eq!(fs.answer(&asked).unwrap().1, b"12345678");
}

#[test]
fn a_reply_that_does_not_fit_its_chain_fails_only_that_request() {
    let mut fs = Fs::new();
    for (error, data) in [
        (0, &b"123456789"[..]),
        (0, &[0; 70_000]),
        (1, b""),
        (-512, b""),
        (i32::MIN, b""),
        (-libc::ENOENT, b"1"),
    ] {
        let asked = fs.ask(1, b"x", 8);
        let other = fs.ask(2, b"x", 8);
        let (header, _) = fs.served().unwrap();
        fs.reply(&reply(header.unique, error, data));
        assert_eq!(fs.failure(&asked, 1), libc::EIO, "{error}");
        let (header, _) = fs.served().unwrap();
        fs.reply(&reply(header.unique, 0, b"12345678"));
        assert_eq!(fs.answer(&other).unwrap().1, b"12345678");
        fs.reset();
    }
}

#[test]
fn a_reply_to_a_request_that_is_not_completely_sent_is_skipped() {
    let mut fs = Fs::new();
    let data = vec![3; 1 << 20];
    let asked = fs.ask(1, &data, 8);
    fs.notify();
    // Tags are easy to guess.
    for tag in 0..10 {
        fs.reply(&reply(tag, 0, b"1234"));
    }
    let (header, received) = fs.served().unwrap();
    assert!(received == data);
    assert!(header.unique < 10);
    assert!(fs.answer(&asked).is_none());
    fs.reply(&reply(header.unique, 0, b"5678"));
    assert_eq!(fs.answer(&asked).unwrap().1, b"5678");
}

#[test]
fn a_reply_of_an_impossible_length_ends_the_connection() {
    for length in [0, 15, u32::try_from(MAX_MESSAGE_BYTES).unwrap() + 1, u32::MAX] {
        let mut fs = Fs::new();
        let asked = fs.ask(1, b"x", 8);
        let (header, _) = fs.served().unwrap();
        let mut bytes = reply(header.unique, 0, b"");
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        fs.server.stream.write_all(&bytes).unwrap();
        fs.socket_ready();
        assert_eq!(fs.failure(&asked, 1), libc::EIO);
        assert!(fs.server.stream.write(b"x").is_err(), "the device has closed its end");
        let asked = fs.ask(2, b"x", 8);
        fs.notify();
        assert_eq!(fs.failure(&asked, 2), libc::ENOTCONN);
    }
}

#[test]
fn a_server_that_stops_reading_and_then_ends_fails_the_requests() {
    let mut fs = Fs::new();
    let asked = fs.ask(1, &vec![1; 1 << 20], 8);
    fs.notify();
    fs.server.stream.shutdown(std::net::Shutdown::Read).unwrap();
    let events = EventSet::OUT;
    fs.backend
        .host_ready(0, events, Some(&mut fs.active), &fs.poll)
        .unwrap();
    assert_eq!(fs.failure(&asked, 1), libc::EIO);
}

#[test]
fn the_loss_of_the_server_is_reported_once() {
    let (sender, lost) = std::sync::mpsc::channel();
    let mut fs = Fs::new();
    let placeholder = FsBackend::new(OwnedFd::from(UnixStream::pair().unwrap().0)).unwrap();
    let backend = std::mem::replace(&mut fs.backend, placeholder);
    fs.backend = backend.on_loss(move |reason| sender.send(reason).unwrap());
    fs.ask(1, b"x", 8);
    fs.notify();
    fs.server.stream.shutdown(std::net::Shutdown::Both).unwrap();
    for _ in 0..2 {
        fs.socket_ready();
    }
    assert_eq!(lost.try_iter().count(), 1);
}

#[test]
fn events_without_a_driver_do_nothing_and_the_end_of_the_server_is_noticed_later() {
    let mut fs = Fs::new();
    fs.ask(1, b"x", 8);
    let (header, _) = fs.served().unwrap();
    fs.backend.reset(&fs.poll);
    fs.server.stream.write_all(&reply(header.unique, 0, b"1")).unwrap();
    fs.server.stream.shutdown(std::net::Shutdown::Both).unwrap();
    let events = EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP;
    fs.backend.host_ready(0, events, None, &fs.poll).unwrap();
    assert!(!fs.poll.takes_another_turn());
    fs.reset();
    let asked = fs.ask(2, b"x", 8);
    fs.notify();
    assert_eq!(fs.failure(&asked, 2), libc::ENOTCONN);
}

#[test]
fn only_a_stream_socket_is_accepted() {
    let datagrams = OwnedFd::from(UnixDatagram::pair().unwrap().0);
    let error = FsBackend::new(datagrams).unwrap_err();
    assert_eq!(error.to_string(), "it is not a stream socket");
    assert!(FsBackend::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap())).is_err());
    assert!(FsBackend::new(OwnedFd::from(UnixStream::pair().unwrap().0)).is_ok());
}

/// A step of a driver or a server that break rules.
#[derive(Debug, Clone)]
enum Step {
    Chain(usize, Vec<(u32, u32, u16)>),
    Request {
        queue: usize,
        opcode: u32,
        stated: usize,
        data: usize,
        room: usize,
    },
    Bytes(Vec<u8>),
    Reply {
        tag: u64,
        error: i32,
        data: usize,
    },
    Read,
    Reset,
    End,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => (0usize..2, proptest::collection::vec((0x8000u32..0x10_0000, 0u32..0x1_0000, 0u16..8), 1..6))
            .prop_map(|(queue, chain)| Step::Chain(queue, chain)),
        8 => (0usize..2, 0u32..50, 0usize..60_000, 0usize..60_000, 0usize..60_000, any::<bool>()).prop_map(
            |(queue, opcode, stated, data, room, honest)| Step::Request {
                queue,
                opcode,
                stated: if honest { REQUEST_HEADER_BYTES + data } else { stated },
                data,
                room,
            }
        ),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Step::Bytes),
        8 => (0u64..30, prop_oneof![Just(0), Just(-5), any::<i32>()], 0usize..60_000)
            .prop_map(|(tag, error, data)| Step::Reply { tag, error, data }),
        4 => Just(Step::Read),
        1 => Just(Step::Reset),
        1 => Just(Step::End),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn no_driver_and_no_server_makes_the_device_panic_or_return_more_than_it_took(steps in steps()) {
        let mut fs = Fs::new();
        // Replies may be written over the rings.
        let mut rings_are_intact = true;
        for step in steps {
            let events = EventSet::IN | EventSet::OUT;
            match step {
                Step::Chain(queue, chain) => {
                    let chain: Vec<_> = chain.iter().map(|(at, len, flags)| (u64::from(*at), *len, *flags)).collect();
                    rings_are_intact &= chain.iter().all(|(at, _, _)| *at >= FREE);
                    fs.driver.offer(queue, &chain);
                }
                Step::Request { queue, opcode, stated, data, room } => {
                    let header = request_header(stated, opcode, 1);
                    fs.ask_split(queue, &header, &[&vec![1; data]], &[room]);
                }
                Step::Bytes(bytes) => {
                    let _ = fs.server.stream.write(&bytes);
                }
                Step::Reply { tag, error, data } => {
                    let _ = fs.server.stream.write(&reply(tag, error, &vec![2; data]));
                }
                Step::Read => while fs.server.request().is_some() {},
                Step::Reset => fs.reset(),
                Step::End => fs.server.stream.shutdown(std::net::Shutdown::Both).unwrap_or(()),
            }
            let mut turns = 0;
            while turns == 0 || fs.poll.takes_another_turn() {
                turns += 1;
                prop_assert!(turns < 100, "the work of a step ends");
                let result = fs.backend.host_ready(0, events, Some(&mut fs.active), &fs.poll);
                if result.is_err() {
                    fs.reset();
                }
            }
            if !rings_are_intact {
                continue;
            }
            for queue in [HIGH_PRIORITY, REQUESTS] {
                prop_assert!(usize::from(fs.driver.used(queue)) <= fs.active.queues[queue].parsed);
            }
            let held: usize = [HIGH_PRIORITY, REQUESTS]
                .map(|queue| fs.active.queues[queue].parsed - usize::from(fs.driver.used(queue)))
                .iter()
                .sum();
            prop_assert!(held <= MAX_IN_FLIGHT + 2, "one is being sent, one being received");
        }
        fs.server.stream.shutdown(std::net::Shutdown::Both).unwrap_or(());
        let result = fs.backend.host_ready(0, EventSet::HANG_UP, Some(&mut fs.active), &fs.poll);
        if rings_are_intact && result.is_ok() && !fs.poll.takes_another_turn() {
            for queue in [HIGH_PRIORITY, REQUESTS] {
                prop_assert_eq!(usize::from(fs.driver.used(queue)), fs.active.queues[queue].parsed);
            }
        }
    }
}
