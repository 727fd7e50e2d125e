//! The socket device against a hostile driver: its work must end, and its memory must be bounded.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::super::virtio::driver::{Driver as Rings, FREE, WRITE};
use super::super::virtio::worker::{Backend, Poll};
use super::budget::{MAX_BYTES, TOTAL_BYTES};
use super::device::{QUEUE_RX, QUEUE_TX};
use super::packet::{HEADER_BYTES, Header, Op, TYPE_STREAM};
use super::tests::{Driver, FIRST, SIZE};
use super::worker::VsockBackend;

#[test]
fn receive_buffers_with_room_only_for_a_header_are_a_violation() {
    let mut driver = Driver::new();
    let mut socket = driver.connected();
    driver.rx_length = u32::try_from(HEADER_BYTES).unwrap();
    // All buffers of the usual size are used up; the short ones follow.
    for _ in 1..SIZE {
        socket.write_all(b"x").unwrap();
        driver.host(FIRST, EventSet::IN);
        driver.expect(Op::Rw);
    }
    socket.write_all(b"x").unwrap();
    let result = driver
        .backend
        .host_ready(FIRST, EventSet::IN, Some(&mut driver.active), &driver.poll);
    assert!(result.is_err());
    assert!(
        !driver.poll.takes_another_turn(),
        "nothing is left to be done until the driver resets the device"
    );
}

#[test]
fn connections_that_open_and_close_without_receive_buffers_leave_nothing_behind() {
    let mut driver = Driver::new();
    let mut open = Vec::new();
    // As many responses as there are receive buffers, none of which is returned, and connections that wait.
    for port in 0..=u32::from(SIZE) {
        driver.guest_port = 2000 + port;
        driver.send(Op::Request, 5000, 0, &[]);
        open.push(driver.supervisor.recv_with_fd(&mut [0; 8]).unwrap());
    }
    let waiting = driver.backend.turns();
    assert!((1..=open.len()).contains(&waiting));
    for _ in 0..1000 {
        driver.guest_port = 3000;
        driver.send(Op::Request, 5000, 0, &[]);
        driver.supervisor.recv_with_fd(&mut [0; 8]).unwrap();
        driver.send(Op::Rst, 5000, 0, &[]);
    }
    assert_eq!(driver.backend.turns(), waiting);
}

#[test]
fn buffered_bytes_for_stalled_readers_never_exceed_the_budget() {
    let mut driver = Driver::new();
    let mut hosts = Vec::new();
    let mut granted = 0;
    for port in 0..200 {
        driver.guest_port = 2000 + port;
        driver.send(Op::Request, 5000, 0, &[]);
        let (_, socket) = driver.supervisor.recv_with_fd(&mut [0; 8]).unwrap();
        hosts.push(UnixStream::from(OwnedFd::from(socket.unwrap())));
        let (response, _) = driver.expect(Op::Response);
        granted += response.buf_alloc;
        // The guest uses all its credit, including what it is given later.
        let (mut sent, mut credit) = (0, response.buf_alloc);
        while sent < credit {
            let length = (credit - sent).min(60_000);
            driver.send(Op::Rw, 5000, 0, &vec![7; usize::try_from(length).unwrap()]);
            sent += length;
            while let Some((header, _)) = driver.receive() {
                assert_eq!(header.op, Some(Op::CreditUpdate));
                credit = header.buf_alloc + header.fwd_cnt;
            }
        }
    }
    assert!(granted <= TOTAL_BYTES);
    let waiting = u32::try_from(driver.backend.waiting_bytes()).unwrap();
    assert!(waiting > TOTAL_BYTES / 4 && waiting <= TOTAL_BYTES, "{waiting}");

    // Once the readers are gone and the guest's side is closed, the next connection gets as much as the first.
    drop(hosts);
    for port in 0..200 {
        driver.host(FIRST + port, EventSet::OUT | EventSet::HANG_UP);
        driver.guest_port = 2000 + port;
        driver.send(Op::Rst, 5000, 0, &[]);
        while driver.receive().is_some() {}
    }
    driver.guest_port = 9000;
    driver.send(Op::Request, 5000, 0, &[]);
    assert_eq!(driver.expect(Op::Response).0.buf_alloc, MAX_BYTES);
}

#[test]
fn all_packets_are_handled_despite_many_resets() {
    const PACKETS: u16 = 200;
    let mut rings = Rings::new(1 << 20, 3, 256);
    let header = Header {
        src_cid: 3,
        dst_cid: 2,
        src_port: 1000,
        dst_port: 77,
        len: 0,
        socket_type: TYPE_STREAM,
        op: Some(Op::Rw),
        flags: 0,
        buf_alloc: 0,
        fwd_cnt: 0,
    };
    rings
        .memory
        .write_slice(&header.to_bytes(), GuestAddress(FREE))
        .unwrap();
    let header_bytes = u32::try_from(HEADER_BYTES).unwrap();
    let packet = rings.chain(QUEUE_TX, &[(FREE, header_bytes, 0)]);
    let buffer = rings.chain(QUEUE_RX, &[(FREE + 0x1000, 4096, WRITE)]);
    for _ in 0..PACKETS {
        rings.offer_again(QUEUE_TX, packet);
        rings.offer_again(QUEUE_RX, buffer);
    }
    let mut active = rings.active(0);
    let listener = OwnedFd::from(UnixStream::pair().unwrap().0);
    let mut backend = VsockBackend::new(3, listener, None).unwrap();
    let poll = Poll::new().unwrap();
    backend.queue_ready(QUEUE_TX, &mut active, &poll).unwrap();
    while poll.takes_another_turn() {
        backend.queue_ready(QUEUE_TX, &mut active, &poll).unwrap();
    }
    assert_eq!((rings.used(QUEUE_TX), rings.used(QUEUE_RX)), (PACKETS, PACKETS));
}
