//! The file system device against an honest driver and an honest file server, which may end.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::super::virtio::interrupt::VRING;
use super::super::virtio::worker::Worker;
use super::device::{QUEUE_COUNT, QUEUE_SIZE};
use super::driver::{Asked, Fs, GETATTR, HIGH_PRIORITY, REQUESTS, reply, request_header};
use super::message::{MAX_MESSAGE_BYTES, REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES, RequestHeader};
use super::worker::FsBackend;

/// Maximum length of a request's data.
const MAX_DATA: usize = MAX_MESSAGE_BYTES - REQUEST_HEADER_BYTES;

#[test]
fn a_request_gets_a_tag_and_its_reply_the_name_that_the_guest_gave() {
    let mut fs = Fs::new();
    let asked = fs.ask(0xffff_0000_1234_5678, b"a question", 100);
    let (header, data) = fs.served().unwrap();
    assert_eq!(data, b"a question");
    assert!(header.unique > 0 && header.unique < 1 << 63);
    assert_eq!(
        header.renamed(7),
        request_header(50, GETATTR, 7),
        "only the name changes"
    );
    assert!(fs.answer(&asked).is_none());
    fs.reply(&reply(header.unique, 0, b"an answer"));
    let (header, data, length) = fs.answer(&asked).unwrap();
    assert_eq!((data.as_slice(), length), (&b"an answer"[..], 25));
    assert_eq!(
        (header.length, header.error, header.unique),
        (25, 0, 0xffff_0000_1234_5678)
    );
    assert_eq!(fs.active.interrupt.status(), VRING);
}

#[test]
fn replies_come_in_any_order_even_if_the_guest_repeats_a_name() {
    let mut fs = Fs::new();
    let asked: Vec<Asked> = (0..5u8).map(|number| fs.ask(7, &[number], 8)).collect();
    let mut tags = Vec::new();
    for number in 0..5 {
        let (header, data) = fs.served().unwrap();
        assert_eq!(data, [number]);
        tags.push(header.unique);
    }
    for number in [3, 0, 4, 1, 2] {
        assert!(fs.answer(&asked[number]).is_none());
        fs.reply(&reply(tags[number], 0, &[u8::try_from(number).unwrap(); 3]));
        assert_eq!(fs.answer(&asked[number]).unwrap().1, [u8::try_from(number).unwrap(); 3]);
    }
}

#[test]
fn the_longest_messages_pass_in_parts_of_the_socket_size() {
    let mut fs = Fs::new();
    let data: Vec<u8> = (0..MAX_DATA).map(|at| (at * 31 + at / 256).to_le_bytes()[0]).collect();
    let asked = [fs.ask(1, &data, MAX_DATA), fs.ask(2, &data[1..], MAX_DATA)];
    let (first, received) = fs.served().unwrap();
    assert!(received == data);
    let (second, received) = fs.served().unwrap();
    assert!(received == data[1..]);
    for (tag, asked, answer) in [
        (second.unique, &asked[1], &data[2..]),
        (first.unique, &asked[0], &data[..]),
    ] {
        fs.reply(&reply(tag, 0, answer));
        let (_, received, length) = fs.answer(asked).unwrap();
        assert!(received == answer);
        assert_eq!(usize::try_from(length).unwrap(), REPLY_HEADER_BYTES + answer.len());
    }
}

#[test]
fn a_forget_is_returned_as_soon_as_it_is_sent_and_needs_no_reply() {
    let mut fs = Fs::new();
    let request = fs.ask(1, b"x", 8);
    let forget = fs.forget(2);
    fs.notify();
    assert_eq!(fs.driver.used_entry(HIGH_PRIORITY, 0), (forget.head, 0));
    assert_eq!(fs.server.request().unwrap().1, [9; 8], "high priority comes first");
    let (header, _) = fs.server.request().unwrap();
    fs.reply(&reply(header.unique, 0, b""));
    assert!(fs.answer(&request).is_some());
}

#[test]
fn chains_stay_in_the_queue_while_the_socket_is_full() {
    let mut fs = Fs::new();
    let data = vec![5; 64 << 10];
    for unique in 0..30 {
        fs.ask(unique, &data, 0);
    }
    fs.notify();
    let taken = fs.active.queues[REQUESTS].parsed;
    assert!((2..10).contains(&taken), "{taken}");
    fs.notify();
    assert_eq!(fs.active.queues[REQUESTS].parsed, taken);
    for _ in 0..30 {
        assert_eq!(fs.served().unwrap().1.len(), data.len());
    }
    assert_eq!(fs.active.queues[REQUESTS].parsed, 30);
}

#[test]
fn requests_of_a_server_that_ends_fail_and_so_do_all_later_ones() {
    let mut fs = Fs::new();
    let large = vec![1; 1 << 20];
    let waiting = fs.ask(1, b"x", 8);
    let answered_in_part = fs.ask(2, b"x", 8);
    let sent_in_part = fs.ask(3, &large, 8);
    let forget = fs.forget(4);
    fs.notify();
    fs.server.request().unwrap();
    fs.server.request().unwrap();
    let (header, _) = fs.server.request().unwrap();
    fs.reply(&reply(header.unique, 0, b"12345678")[..20]);
    assert!(fs.answer(&answered_in_part).is_none());
    fs.end_server();
    for (unique, asked) in [(1, &waiting), (2, &answered_in_part), (3, &sent_in_part)] {
        assert_eq!(fs.failure(asked, unique), libc::EIO);
    }
    let later = fs.ask(5, b"x", 8);
    fs.forget(6);
    fs.notify();
    assert_eq!(fs.failure(&later, 5), libc::ENOTCONN);
    assert_eq!(fs.driver.used_entry(HIGH_PRIORITY, 0), (forget.head, 0));
    assert_eq!((fs.driver.used(HIGH_PRIORITY), fs.driver.used(REQUESTS)), (2, 4));
    fs.reset();
    let asked = fs.ask(7, b"x", 8);
    fs.notify();
    assert_eq!(fs.failure(&asked, 7), libc::ENOTCONN);
}

#[test]
fn a_request_sent_in_part_before_a_reset_is_completed_from_a_copy() {
    let mut fs = Fs::new();
    let data: Vec<u8> = (0..1 << 20).map(|at: usize| (at / 7).to_le_bytes()[0]).collect();
    let asked = fs.ask(1, &data, 8);
    fs.notify();
    fs.reset();
    // The memory is the next driver's now.
    let zeros = vec![0; data.len()];
    fs.driver.memory.write_slice(&zeros, GuestAddress(asked.data)).unwrap();
    let next = fs.ask(1, b"next", 8);
    let (old, received) = fs.served().unwrap();
    assert!(received == data);
    let (header, received) = fs.served().unwrap();
    assert_eq!(received, b"next");
    fs.reply(&reply(header.unique, 0, b"new"));
    assert_eq!(fs.answer(&next).unwrap().1, b"new");
    // The old request is in flight until its reply comes.
    assert_eq!(requests_until_the_limit(&mut fs), usize::from(QUEUE_SIZE) - 1);
    fs.reply(&reply(old.unique, 0, b"old"));
    assert!(fs.served().is_some() && fs.served().is_none());
    assert_eq!(fs.driver.used(REQUESTS), 1);
}

#[test]
fn a_request_of_which_nothing_was_sent_before_a_reset_is_dropped() {
    let mut fs = Fs::new();
    // The socket accepts such a message as a whole or not at all.
    let forget = fs.forget(1);
    let mut offered = 1;
    fs.notify();
    while fs.driver.used(HIGH_PRIORITY) == offered {
        fs.driver.offer_again(HIGH_PRIORITY, forget.head);
        offered += 1;
        fs.notify();
    }
    assert_eq!(fs.active.queues[HIGH_PRIORITY].parsed, usize::from(offered));
    fs.reset();
    fs.ask(2, b"next", 8);
    for _ in 1..offered {
        assert_eq!(fs.served().unwrap().1, [9; 8]);
    }
    assert_eq!(fs.served().unwrap().1, b"next");
}

#[test]
fn replies_to_a_driver_that_has_gone_are_skipped_and_count_as_in_flight_until_they_come() {
    let mut fs = Fs::new();
    let asked = fs.ask(1, b"x", 100);
    fs.ask(2, b"y", 100);
    let (first, _) = fs.served().unwrap();
    let (second, _) = fs.served().unwrap();
    let answer = reply(first.unique, 0, &[7; 100]);
    fs.reply(&answer[..60]);
    fs.reset();
    let memory = [0xee; 100];
    let place = GuestAddress(asked.reply + REPLY_HEADER_BYTES as u64);
    fs.driver.memory.write_slice(&memory, place).unwrap();
    fs.reply(&answer[60..]);
    let mut after = [0; 100];
    fs.driver.memory.read_slice(&mut after, place).unwrap();
    assert_eq!(after, memory, "the memory of the last driver is not written to");

    // One request of the last driver has no reply yet, so the server gets one less.
    assert_eq!(requests_until_the_limit(&mut fs), usize::from(QUEUE_SIZE) - 1);
    fs.reply(&reply(second.unique, 0, b""));
    assert!(fs.served().is_some() && fs.served().is_none());
    assert_eq!(fs.driver.used(REQUESTS), 0);
}

/// Offers as many requests as the queue holds; returns how many the server gets.
fn requests_until_the_limit(fs: &mut Fs) -> usize {
    let head = fs.ask(99, b"", 0).head;
    for _ in 1..QUEUE_SIZE {
        fs.driver.offer_again(REQUESTS, head);
    }
    std::iter::from_fn(|| fs.served()).count()
}

#[test]
fn a_thread_serves_requests_until_the_vm_ends() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut fs = Fs::new();
    fs.backend = FsBackend::new(OwnedFd::from(ours)).unwrap();
    let sizes = [0, 1, 5000, 300_000, 1 << 20, 10, MAX_DATA];
    let asked: Vec<Asked> = sizes
        .iter()
        .map(|size| fs.ask(*size as u64, &vec![3; *size], *size))
        .collect();
    // The server sends back what it gets.
    let server = std::thread::spawn(move || {
        let mut count = 0;
        let mut header = [0; REQUEST_HEADER_BYTES];
        while (&theirs).read_exact(&mut header).is_ok() {
            let length = u32::from_le_bytes(header[..4].try_into().unwrap());
            let mut data = vec![0; usize::try_from(length).unwrap() - REQUEST_HEADER_BYTES];
            (&theirs).read_exact(&mut data).unwrap();
            let tag = RequestHeader::parse(header).unique;
            (&theirs).write_all(&reply(tag, 0, &data)).unwrap();
            count += 1;
        }
        count
    });
    let notifiers = (0..QUEUE_COUNT).map(|_| EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let placeholder = FsBackend::new(OwnedFd::from(UnixStream::pair().unwrap().0)).unwrap();
    let backend = std::mem::replace(&mut fs.backend, placeholder);
    let mut worker = Worker::start("test", backend, notifiers.collect(), || {}).unwrap();
    worker.activate(fs.driver.active(0));
    let driver = &fs.driver;
    let (done, all_answered) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while usize::from(driver.used(REQUESTS)) < sizes.len() {
                std::thread::yield_now();
            }
            done.send(()).unwrap();
        });
        all_answered.recv_timeout(Duration::from_secs(60)).unwrap();
    });
    for (size, asked) in sizes.iter().zip(&asked) {
        assert!(fs.answer(asked).unwrap().1 == vec![3; *size]);
    }
    worker.request_stop();
    worker.join();
    assert_eq!(
        server.join().unwrap(),
        sizes.len(),
        "the end of the device ends the server"
    );
}

/// Splits bytes at these places.
fn split<'b>(mut bytes: &'b [u8], places: &[usize]) -> Vec<&'b [u8]> {
    let mut parts = Vec::new();
    for place in places {
        let (part, rest) = bytes.split_at(place % (bytes.len() + 1));
        parts.push(part);
        bytes = rest;
    }
    parts.push(bytes);
    parts
}

proptest! {
    #[test]
    fn every_request_gets_its_own_reply_however_chains_and_messages_are_split(
        requests in proptest::collection::vec(
            (
                0..QUEUE_COUNT,
                proptest::collection::vec(any::<u8>(), 0..300),
                proptest::collection::vec(0usize..300, 0..3),
                proptest::collection::vec(any::<u8>(), 0..300),
                proptest::collection::vec(1usize..40, 0..3),
                any::<u16>(),
            ),
            1..12,
        ),
        chunk in 1usize..500,
    ) {
        let mut fs = Fs::new();
        let mut asked = Vec::new();
        for (number, (queue, data, places, answer, room, _)) in (0u8..).zip(&requests) {
            // The server recognises a request by the first byte of its data.
            let data = [&[number], data.as_slice()].concat();
            let header = request_header(REQUEST_HEADER_BYTES + data.len(), GETATTR, number.into());
            let mut rooms = room.clone();
            rooms.push(REPLY_HEADER_BYTES + answer.len());
            asked.push(fs.ask_split(*queue, &header, &split(&data, places), &rooms));
        }
        let mut replies = Vec::new();
        while let Some((header, data)) = fs.served() {
            let (number, data) = data.split_first().unwrap();
            let (_, sent, _, answer, _, order) = &requests[usize::from(*number)];
            prop_assert_eq!(data, sent);
            replies.push((*order, reply(header.unique, 0, answer)));
        }
        prop_assert_eq!(replies.len(), requests.len());
        replies.sort();
        let bytes: Vec<u8> = replies.into_iter().flat_map(|(_, bytes)| bytes).collect();
        for chunk in bytes.chunks(chunk) {
            fs.reply(chunk);
        }
        for (number, ((_, _, _, answer, _, _), asked)) in (0..).zip(requests.iter().zip(&asked)) {
            let (header, body, length) = fs.answer(asked).expect("an answer");
            prop_assert_eq!((header.unique, header.error), (number, 0));
            prop_assert_eq!(usize::try_from(length).unwrap(), header.length);
            prop_assert_eq!(&body, answer);
        }
    }
}
