//! The socket device against a simulated driver: real queues in guest memory, real sockets, no KVM.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::super::virtio::interrupt::Interrupt;
use super::super::virtio::queue::VirtQueue;
use super::super::virtio::worker::{Active, Backend, Poll};
use super::budget::MAX_BYTES as BUFFER_BYTES;
use super::client::SupervisorSocket;
use super::client::tests::client_pair;
use super::device::{QUEUE_RX, QUEUE_TX};
use super::packet::{HEADER_BYTES, Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};
use super::worker::VsockBackend;
use crate::memory::GuestMemory;
use crate::vsock_control::{CONNECT, INCOMING, decode, encode};

pub(super) const SIZE: u16 = 16;
/// First token of a connection; tests use it to report that its socket is ready.
pub(super) const FIRST: u32 = 2;
const RX_RING: u64 = 0;
const TX_RING: u64 = 0x4000;
const RX_BUFFERS: u64 = 0x1_0000;
const TX_BUFFERS: u64 = 0x4_0000;
const RX_BUFFER_BYTES: u64 = 4096;
const TX_BUFFER_BYTES: u64 = 0x1_1000;

pub(super) struct Driver {
    memory: GuestMemory,
    pub(super) active: Active,
    pub(super) backend: VsockBackend,
    pub(super) poll: Poll,
    pub(super) supervisor: SupervisorSocket,
    sent: u16,
    received: u16,
    pub(super) guest_port: u32,
    /// Length of the receive buffers that are added from now on.
    pub(super) rx_length: u32,
}

fn queue(base: u64) -> VirtQueue {
    let mut queue = Queue::new(SIZE).unwrap();
    queue.set_desc_table_address(Some(u32::try_from(base).unwrap()), None);
    queue.set_avail_ring_address(Some(u32::try_from(base).unwrap() + 0x1000), None);
    queue.set_used_ring_address(Some(u32::try_from(base).unwrap() + 0x2000), None);
    queue.set_ready(true);
    VirtQueue::new(queue)
}

/// A listening socket as the supervisor creates it, and a function that connects to it.
fn listener() -> (OwnedFd, impl Fn() -> SupervisorSocket) {
    // SAFETY: the sockets and the address outlive the calls; an address that has only a family gets an unused name.
    unsafe {
        let listener = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = u16::try_from(libc::AF_UNIX).unwrap();
        assert_eq!(libc::bind(listener, (&raw const address).cast(), 2), 0);
        assert_eq!(libc::listen(listener, 1), 0);
        let mut length = u32::try_from(size_of_val(&address)).unwrap();
        assert_eq!(
            libc::getsockname(listener, (&raw mut address).cast(), &raw mut length),
            0
        );
        let connect = move || {
            let socket = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
            assert_eq!(libc::connect(socket, (&raw const address).cast(), length), 0);
            SupervisorSocket::new(std::os::fd::FromRawFd::from_raw_fd(socket)).unwrap()
        };
        (std::os::fd::FromRawFd::from_raw_fd(listener), connect)
    }
}

impl Driver {
    pub(super) fn new() -> Self {
        // This listener gets no connection, so any descriptor will do.
        Self::with_listener(OwnedFd::from(UnixStream::pair().unwrap().0))
    }

    fn with_listener(listener: OwnedFd) -> Self {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap();
        let interrupt = Arc::new(Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()));
        let queues = vec![queue(RX_RING), queue(TX_RING), queue(TX_RING)];
        let active = Active {
            memory: memory.clone(),
            queues,
            interrupt,
            features: 0,
        };
        let (vmm, supervisor) = client_pair();
        // SAFETY: a duplicate that is ours.
        let client = unsafe { std::os::fd::FromRawFd::from_raw_fd(libc::dup(vmm.socket_fd())) };
        let mut backend = VsockBackend::new(3, listener, Some(client)).unwrap();
        let poll = Poll::new().unwrap();
        backend.start(&poll).unwrap();
        let mut driver = Self {
            memory,
            active,
            backend,
            poll,
            supervisor,
            sent: 0,
            received: 0,
            guest_port: 1000,
            rx_length: u32::try_from(RX_BUFFER_BYTES).unwrap(),
        };
        for index in 0..SIZE {
            driver.give_rx_buffer(index);
        }
        driver
    }

    fn give_rx_buffer(&mut self, index: u16) {
        let address = RX_BUFFERS + u64::from(index) * RX_BUFFER_BYTES;
        self.add(RX_RING, index, address, self.rx_length, 2);
    }

    fn add(&mut self, ring: u64, index: u16, address: u64, len: u32, flags: u16) {
        let descriptor = GuestAddress(ring + u64::from(index) * 16);
        self.memory.write_obj(address, descriptor).unwrap();
        self.memory
            .write_obj(
                u64::from(len) | (u64::from(flags) << 32),
                GuestAddress(descriptor.0 + 8),
            )
            .unwrap();
        let available: u16 = self.memory.read_obj(GuestAddress(ring + 0x1002)).unwrap();
        self.memory
            .write_obj(index, GuestAddress(ring + 0x1004 + u64::from(available % SIZE) * 2))
            .unwrap();
        self.memory
            .write_obj(available.wrapping_add(1), GuestAddress(ring + 0x1002))
            .unwrap();
    }

    /// Sends bytes as one packet of the guest.
    fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        let index = self.sent % SIZE;
        let address = TX_BUFFERS + u64::from(index) * TX_BUFFER_BYTES;
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        self.add(TX_RING, index, address, u32::try_from(bytes.len()).unwrap(), 0);
        self.sent = self.sent.wrapping_add(1);
        self.backend.queue_ready(QUEUE_TX, &mut self.active, &self.poll).is_ok()
    }

    pub(super) fn send(&mut self, op: Op, host: u32, flags: u32, payload: &[u8]) {
        self.send_with_credit(op, host, flags, payload, 65536, 0);
    }

    pub(super) fn send_with_credit(
        &mut self,
        op: Op,
        host: u32,
        flags: u32,
        payload: &[u8],
        buf_alloc: u32,
        fwd_cnt: u32,
    ) {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: self.guest_port,
            dst_port: host,
            len: u32::try_from(payload.len()).unwrap(),
            socket_type: TYPE_STREAM,
            op: Some(op),
            flags,
            buf_alloc,
            fwd_cnt,
        };
        assert!(self.send_bytes(&[&header.to_bytes()[..], payload].concat()));
    }

    /// Takes the next packet for the guest and returns its buffer to the device.
    pub(super) fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let used: u16 = self.memory.read_obj(GuestAddress(RX_RING + 0x2002)).unwrap();
        if used == self.received {
            return None;
        }
        let entry = GuestAddress(RX_RING + 0x2004 + u64::from(self.received % SIZE) * 8);
        let [index, written]: [u32; 2] = self.memory.read_obj(entry).unwrap();
        self.received = self.received.wrapping_add(1);
        let mut bytes = vec![0; usize::try_from(written).unwrap()];
        let address = RX_BUFFERS + u64::from(index) * RX_BUFFER_BYTES;
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        self.give_rx_buffer(u16::try_from(index).unwrap());
        let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
        let header = Header::parse(header);
        assert_eq!(usize::try_from(header.len).unwrap(), payload.len());
        Some((header, payload.to_vec()))
    }

    pub(super) fn expect(&mut self, op: Op) -> (Header, Vec<u8>) {
        let (header, payload) = self.receive().unwrap_or_else(|| panic!("no packet, expected {op:?}"));
        assert_eq!(header.op, Some(op));
        (header, payload)
    }

    /// Reports events as the thread would.
    pub(super) fn host(&mut self, token: u32, events: EventSet) {
        self.backend
            .host_ready(token, events, Some(&mut self.active), &self.poll)
            .unwrap();
    }

    /// A connection from the guest to port 5000 of the host; returns the host's end.
    pub(super) fn connected(&mut self) -> File {
        self.connected_from(1000)
    }

    /// The same from the given port of the guest.
    pub(super) fn connected_from(&mut self, guest: u32) -> File {
        self.guest_port = guest;
        self.send(Op::Request, 5000, 0, &[]);
        let mut bytes = [0; 8];
        let (length, socket) = self.supervisor.recv_with_fd(&mut bytes).unwrap();
        assert_eq!(decode(&bytes[..length]), Some((INCOMING, 5000)));
        self.expect(Op::Response);
        socket.unwrap()
    }
}

#[test]
fn bytes_go_both_ways() {
    let mut driver = Driver::new();
    let mut socket = driver.connected();
    driver.send(Op::Rw, 5000, 0, b"from the guest");
    let mut bytes = [0; 14];
    socket.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"from the guest");
    socket.write_all(b"from the host").unwrap();
    driver.host(FIRST, EventSet::IN);
    assert_eq!(driver.expect(Op::Rw).1, b"from the host");
    assert!(driver.receive().is_none());
}

#[test]
fn without_a_client_a_connection_is_refused() {
    let mut driver = Driver::new();
    let (_, other) = client_pair();
    drop(std::mem::replace(&mut driver.supervisor, other));
    driver.send(Op::Request, 5000, 0, &[]);
    driver.host(1, EventSet::IN);
    driver.send(Op::Request, 5001, 0, &[]);
    let refused: Vec<u32> = std::iter::from_fn(|| driver.receive())
        .filter(|(header, _)| header.op == Some(Op::Rst))
        .map(|(header, _)| header.src_port)
        .collect();
    assert!(refused.contains(&5001), "{refused:?}");
}

#[test]
fn another_supervisor_takes_over_after_the_first_died() {
    let (listener, connect) = listener();
    let mut driver = Driver::with_listener(listener);
    let socket = driver.connected();
    let (_, other) = client_pair();
    // Killed: the kernel closes its end of every connection.
    drop((socket, std::mem::replace(&mut driver.supervisor, other)));
    driver.host(1, EventSet::IN | EventSet::READ_HANG_UP);
    driver.host(FIRST, EventSet::IN | EventSet::HANG_UP);
    let (end, _) = driver.expect(Op::Shutdown);
    assert_eq!((end.flags, end.dst_port), (SHUTDOWN_SEND | SHUTDOWN_RECEIVE, 1000));
    // The guest confirms, as a real kernel does, and cannot connect while there is no client.
    driver.send(Op::Rst, 5000, 0, &[]);
    driver.send(Op::Request, 5000, 0, &[]);
    driver.expect(Op::Rst);

    driver.supervisor = connect();
    driver.host(0, EventSet::IN);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let message = encode(CONNECT, 1024);
    driver
        .supervisor
        .send_with_fd(message.as_slice(), theirs.as_raw_fd())
        .unwrap();
    driver.host(1, EventSet::IN);
    assert_eq!(driver.expect(Op::Request).0.dst_port, 1024);
    drop(ours);
    let mut socket = driver.connected_from(1001);
    driver.send(Op::Rw, 5000, 0, b"to the second");
    let mut bytes = [0; 13];
    socket.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"to the second");
}

#[test]
fn the_newest_supervisor_replaces_a_connected_one() {
    let (listener, connect) = listener();
    let mut driver = Driver::with_listener(listener);
    let mut first = driver.connected();
    let old = std::mem::replace(&mut driver.supervisor, connect());
    driver.host(0, EventSet::IN);
    // The end of the old client must not be mistaken for the end of the new one.
    drop(old);
    driver.host(1, EventSet::READ_HANG_UP);
    driver.connected_from(1001);
    // A connection continues for the process that holds it.
    driver.guest_port = 1000;
    driver.send(Op::Rw, 5000, 0, b"still here");
    let mut bytes = [0; 10];
    first.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still here");
}

#[test]
fn a_connection_requested_before_the_driver_is_ready_waits() {
    let mut driver = Driver::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    driver
        .supervisor
        .send_with_fd(encode(CONNECT, 1024).as_slice(), theirs.as_raw_fd())
        .unwrap();
    driver.backend.host_ready(1, EventSet::IN, None, &driver.poll).unwrap();
    driver.backend.reset(&driver.poll);
    assert!(driver.receive().is_none());
    driver.backend.activate(&mut driver.active, &driver.poll).unwrap();
    driver
        .backend
        .queue_ready(QUEUE_RX, &mut driver.active, &driver.poll)
        .unwrap();
    let (request, _) = driver.expect(Op::Request);
    assert_eq!(request.dst_port, 1024);
    // The guest refuses: the host's end is closed.
    let header = Header {
        src_cid: 3,
        dst_cid: 2,
        src_port: 1024,
        dst_port: request.src_port,
        op: Some(Op::Rst),
        ..request
    };
    assert!(driver.send_bytes(&header.to_bytes()));
    drop(theirs);
    assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_host_that_does_not_read_stops_the_guest_and_loses_nothing() {
    let mut driver = Driver::new();
    let mut socket = driver.connected();
    let mut expected = Vec::new();
    let mut credit = BUFFER_BYTES;
    let mut chunk = 0u8;
    // The guest sends while it has credit.
    while credit >= 60_000 {
        let payload = vec![chunk; 60_000];
        driver.send(Op::Rw, 5000, 0, &payload);
        expected.extend_from_slice(&payload);
        chunk = chunk.wrapping_add(1);
        while let Some((header, _)) = driver.receive() {
            assert_eq!(header.op, Some(Op::CreditUpdate));
            let sent = u32::try_from(expected.len()).unwrap();
            credit = header.buf_alloc - (sent - header.fwd_cnt) + 60_000;
        }
        credit -= 60_000;
    }
    driver.send(Op::Shutdown, 5000, SHUTDOWN_SEND, &[]);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        socket.read_to_end(&mut all).unwrap();
        all
    });
    while !reader.is_finished() {
        driver.host(FIRST, EventSet::OUT);
    }
    assert_eq!(reader.join().unwrap(), expected);
}

#[test]
fn a_guest_without_credit_is_sent_nothing() {
    let mut driver = Driver::new();
    let mut socket = driver.connected();
    driver.send_with_credit(Op::CreditUpdate, 5000, 0, &[], 10, 0);
    socket.write_all(b"0123456789abcdef").unwrap();
    driver.host(FIRST, EventSet::IN);
    assert_eq!(driver.expect(Op::Rw).1, b"0123456789");
    assert!(driver.receive().is_none());
    driver.send_with_credit(Op::CreditUpdate, 5000, 0, &[], 10, 10);
    assert_eq!(driver.expect(Op::Rw).1, b"abcdef");
}

#[test]
fn a_guest_that_exceeds_its_credit_is_reset() {
    let mut driver = Driver::new();
    let mut socket = driver.connected();
    let mut reset = false;
    for _ in 0..40 {
        driver.send(Op::Rw, 5000, 0, &[7; 65_000]);
        while let Some((header, _)) = driver.receive() {
            reset |= header.op == Some(Op::Rst);
        }
    }
    assert!(reset);
    // Data that was sent before still arrives, followed by the end of the stream.
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        socket.read_to_end(&mut all).unwrap();
        all.len()
    });
    while !reader.is_finished() {
        driver.host(FIRST, EventSet::OUT);
    }
    assert!(reader.join().unwrap() > usize::try_from(BUFFER_BYTES).unwrap());
}

#[test]
fn closing_is_confirmed_on_either_side() {
    let mut driver = Driver::new();
    let mut socket = driver.connected();
    driver.send(Op::Rw, 5000, 0, b"last");
    driver.send(Op::Shutdown, 5000, SHUTDOWN_SEND | SHUTDOWN_RECEIVE, &[]);
    driver.expect(Op::Rst);
    let mut all = Vec::new();
    socket.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"last");

    let mut driver = Driver::new();
    let mut socket = driver.connected();
    socket.write_all(b"last").unwrap();
    drop(socket);
    driver.host(FIRST, EventSet::IN | EventSet::HANG_UP);
    assert_eq!(driver.expect(Op::Rw).1, b"last");
    assert_eq!(driver.expect(Op::Shutdown).0.flags, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
}

#[test]
fn half_closing_leaves_the_other_direction_open() {
    let mut driver = Driver::new();
    let socket = UnixStream::from(OwnedFd::from(driver.connected()));
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    driver.host(FIRST, EventSet::IN | EventSet::READ_HANG_UP);
    assert_eq!(driver.expect(Op::Shutdown).0.flags, SHUTDOWN_SEND);
    driver.send(Op::Rw, 5000, 0, b"still open");
    let mut bytes = [0; 10];
    (&socket).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still open");
    driver.send(Op::Shutdown, 5000, SHUTDOWN_SEND, &[]);
    assert_eq!((&socket).read(&mut bytes).unwrap(), 0);
}

#[test]
fn unexpected_packets_are_reset_and_resets_are_not_answered() {
    let mut driver = Driver::new();
    driver.send(Op::Rw, 77, 0, b"x");
    assert_eq!(driver.expect(Op::Rst).0.src_port, 77);
    driver.send(Op::Rst, 77, 0, &[]);
    assert!(driver.receive().is_none());
}

#[test]
fn a_packet_shorter_than_its_length_field_is_a_violation() {
    let mut driver = Driver::new();
    assert!(!driver.send_bytes(&[0; HEADER_BYTES - 1]));
    let mut bytes = [0; HEADER_BYTES];
    bytes[24] = 1;
    assert!(!driver.send_bytes(&bytes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_packets_make_the_device_panic(
        packets in proptest::collection::vec((0u16..9, 4999u32..5002, any::<u32>(), 0usize..3000, any::<u32>(), any::<u32>()), 1..60),
    ) {
        let mut driver = Driver::new();
        for (op, host, flags, length, buf_alloc, fwd_cnt) in packets {
            let mut header = Header::parse(&[0; HEADER_BYTES]);
            (header.src_cid, header.dst_cid, header.src_port, header.dst_port) = (3, 2, 1000, host);
            (header.socket_type, header.flags, header.buf_alloc, header.fwd_cnt) = (TYPE_STREAM, flags, buf_alloc, fwd_cnt);
            header.len = u32::try_from(length).unwrap();
            let mut bytes = header.to_bytes().to_vec();
            bytes[30] = op.to_le_bytes()[0];
            bytes.resize(HEADER_BYTES + length, 1);
            driver.send_bytes(&bytes);
            driver.host(FIRST, EventSet::IN | EventSet::OUT);
            while let Some((header, _)) = driver.receive() {
                prop_assert!(header.op.is_some());
            }
        }
    }
}
