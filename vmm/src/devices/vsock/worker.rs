//! Moves packets between the queues and the connections' sockets. Payload goes directly from and to guest memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;

use super::super::blk::growth::Growth;
use super::super::virtio::GuestError;
use super::super::virtio::chain::{Buffers, Chain};
use super::super::virtio::turn::Turn;
use super::super::virtio::worker::{Active, Backend, Poll};
use super::budget::MAX_BYTES;
use super::client::{self, Message, SupervisorSocket};
use super::connection::{Connection, Due};
use super::device::{QUEUE_RX, QUEUE_TX};
use super::packet::{HEADER_BYTES, HOST_CID, Header, Op, TYPE_STREAM};
use super::payload;
use super::table::{Ports, Table};

const TOKEN_LISTENER: u32 = 0;
const TOKEN_CLIENT: u32 = 1;

/// Maximum number of resets that wait for room in the guest's queue. While there are more, no packet
/// from the guest is handled.
const MAX_RESETS: usize = 64;
/// How long the host's readers may take for the remaining data after the VM has ended.
const DRAIN: Duration = Duration::from_secs(5);
/// How long they may accept nothing during that time.
const DRAIN_STALL: Duration = Duration::from_secs(1);
/// Number of turns for the packets that the guest sent before it ended; full queues need no more.
const LAST_TURNS: usize = 4;

/// The socket device's thread.
#[derive(Debug)]
pub struct VsockBackend {
    guest_cid: u64,
    listener: File,
    client: Option<SupervisorSocket>,
    table: Table,
    /// Resets for ports without a connection.
    resets: VecDeque<Ports>,
    /// The disk that the client can grow.
    growth: Option<Growth>,
}

impl VsockBackend {
    /// Serves the guest `guest_cid`. Clients come through `listener`; the first may be passed as `client`.
    pub fn new(guest_cid: u32, listener: OwnedFd, client: Option<OwnedFd>) -> io::Result<Self> {
        client::set_nonblocking(listener.as_raw_fd())?;
        Ok(Self {
            guest_cid: u64::from(guest_cid),
            listener: File::from(listener),
            client: client.map(SupervisorSocket::new).transpose()?,
            table: Table::default(),
            resets: VecDeque::new(),
            growth: None,
        })
    }

    /// Lets the client grow a disk.
    #[must_use]
    pub fn growing(self, growth: Option<Growth>) -> Self {
        Self { growth, ..self }
    }

    // Guest to host.

    /// Handles packets from the guest.
    fn process_tx(&mut self, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        let Active {
            memory,
            queues,
            interrupt,
            ..
        } = active;
        let Some(queue) = queues.get_mut(QUEUE_TX) else {
            return Ok(());
        };
        queue.disable_notification(memory)?;
        let mut turn = Turn::new(poll);
        // With too many resets waiting, `exchange` continues here once there is room for them.
        while self.resets.len() < MAX_RESETS && turn.may_continue() {
            let Some(chain) = queue.pop(memory)? else {
                if queue.enable_notification(memory)? {
                    continue;
                }
                break;
            };
            let head = chain.head;
            turn.spend(chain.descriptors, chain.readable.remaining());
            self.handle_packet(chain, poll)?;
            queue.add_used(memory, head, 0)?;
        }
        queue.signal(memory, interrupt)
    }

    fn handle_packet(&mut self, chain: Chain<'_>, poll: &Poll) -> Result<(), GuestError> {
        let mut payload = chain.readable;
        let mut bytes = [0; HEADER_BYTES];
        if payload.read(&mut bytes) != HEADER_BYTES {
            return Err(GuestError::Request("a vsock packet shorter than its header"));
        }
        let header = Header::parse(&bytes);
        let length = usize::try_from(header.len).unwrap_or(usize::MAX);
        if length > payload.remaining() {
            return Err(GuestError::Request("a vsock packet shorter than its stated length"));
        }
        payload.truncate(length);
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            // The packet is not addressed to this host, so no answer is due.
            return Ok(());
        }
        let Some(op) = header.op.filter(|_| header.socket_type == TYPE_STREAM) else {
            self.reset(ports);
            return Ok(());
        };
        match (op, self.table.token(ports)) {
            (Op::Rst, token) => {
                if let Some(token) = token {
                    self.table.detach(token);
                }
            }
            (Op::Request, None) => self.accept_guest(&header, ports, poll),
            (Op::Request, Some(_)) | (_, None) => self.reset(ports),
            (op, Some(token)) => self.handle_connected(token, op, &header, &mut payload),
        }
        Ok(())
    }

    /// Ends a connection on both sides.
    fn reset(&mut self, ports: Ports) {
        if let Some(token) = self.table.token(ports) {
            self.table.detach(token);
        }
        self.resets.push_back(ports);
    }

    /// The guest connects to a port of the host: offers the connection to the client, which serves it.
    fn accept_guest(&mut self, header: &Header, ports: Ports, poll: &Poll) {
        let offered = match &self.client {
            Some(client) if !self.table.is_full() => client.offer(ports.host),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        };
        let connection = Connection::incoming(header.buf_alloc, header.fwd_cnt);
        match offered {
            Ok(socket) => self.add(ports, connection, socket, poll),
            Err(_) => self.reset(ports),
        }
    }

    fn add(&mut self, ports: Ports, connection: Connection, socket: OwnedFd, poll: &Poll) {
        let fd = socket.as_raw_fd();
        let token = self.table.insert(ports, connection, socket);
        if let Some(link) = self.table.get_mut(token)
            && link.connection.buffer_bytes() < MAX_BYTES
        {
            client::limit_send_buffer(&link.socket, link.connection.buffer_bytes());
        }
        let events = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        match poll.add(fd, events, token) {
            Ok(()) => self.table.queue(token),
            Err(_) => self.reset(ports),
        }
    }

    fn handle_connected(&mut self, token: u32, op: Op, header: &Header, bytes: &mut Buffers<'_>) {
        let Some(link) = self.table.get_mut(token) else { return };
        if link
            .connection
            .receive(op, header.flags, header.len, header.buf_alloc, header.fwd_cnt)
            .is_err()
        {
            if let Some(ports) = link.ports {
                self.reset(ports);
            }
            return;
        }
        if op == Op::Rw {
            payload::forward(link, bytes);
        }
        if op == Op::Shutdown && link.connection.peer_is_done_receiving() {
            // The host notices when it writes.
            payload::shut(&link.socket, libc::SHUT_RD);
        }
        self.settle(token);
    }

    /// Applies the consequences of a change: passes on the end of the guest's data, confirms a
    /// close, queues what is due.
    fn settle(&mut self, token: u32) {
        let Some(link) = self.table.get_mut(token) else { return };
        let Some(ports) = link.ports else {
            // The connection was kept only for data in flight.
            return self.table.detach(token);
        };
        if link.connection.is_finished() {
            return self.reset(ports);
        }
        if link.connection.peer_is_done_sending() && !link.write_shut {
            link.write_shut = true;
            payload::shut(&link.socket, libc::SHUT_WR);
        }
        self.table.queue(token);
    }

    // Host to guest.

    /// Fills the guest's buffers while any connection has something to send.
    fn process_rx(&mut self, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        let Active {
            memory,
            queues,
            interrupt,
            ..
        } = active;
        let Some(queue) = queues.get_mut(QUEUE_RX) else {
            return Ok(());
        };
        let mut turn = Turn::new(poll);
        while turn.may_continue() {
            let speaker = match self.resets.front() {
                Some(_) => None,
                None => match self.table.next_turn() {
                    Some(token) => Some(token),
                    None => break,
                },
            };
            let Some(chain) = queue.pop(memory)? else {
                if let Some(token) = speaker {
                    self.table.undo_turn(token);
                }
                if queue.enable_notification(memory)? {
                    continue;
                }
                break;
            };
            let (head, room) = (chain.head, chain.writable.remaining());
            // A buffer that holds only a header would have to be returned whenever there is payload, and would then be
            // taken again immediately.
            if room <= HEADER_BYTES {
                return Err(GuestError::Request("a vsock buffer without room for payload"));
            }
            let descriptors = chain.descriptors;
            let written = match speaker {
                None => self.write_reset(chain.writable),
                Some(token) => {
                    let written = self.write_turn(token, chain.writable);
                    self.table.queue(token);
                    written
                }
            };
            turn.spend(descriptors, written.unwrap_or(0));
            match written {
                Some(written) => queue.add_used(memory, head, written)?,
                None => queue.undo_pop(),
            }
        }
        queue.signal(memory, interrupt)
    }

    fn header(&self, ports: Ports, op: Op) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: ports.host,
            dst_port: ports.guest,
            len: 0,
            socket_type: TYPE_STREAM,
            op: Some(op),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }

    fn write_reset(&mut self, mut buffers: Buffers<'_>) -> Option<usize> {
        let ports = self.resets.pop_front()?;
        Some(buffers.write(&self.header(ports, Op::Rst).to_bytes()))
    }

    /// Lets one connection send its data; `None` if it has none.
    fn write_turn(&mut self, token: u32, mut buffers: Buffers<'_>) -> Option<usize> {
        let ports = self.table.get_mut(token)?.ports?;
        let mut header = self.header(ports, Op::Rw);
        let link = self.table.get_mut(token)?;
        let due = link.connection.due();
        let mut body = buffers.clone();
        body.skip(HEADER_BYTES);
        let length = match due {
            Some(Due { op, flags }) => {
                (header.op, header.flags) = (Some(op), flags);
                0
            }
            None => payload::read(link, body)?,
        };
        header.len = u32::try_from(length).unwrap_or(0);
        (header.buf_alloc, header.fwd_cnt) = link.connection.credit_fields();
        link.connection.sent(header.len);
        link.connection.announced(header.op.unwrap_or(Op::Rw));
        Some(buffers.write(&header.to_bytes()) + length)
    }

    // Host side.

    fn accept_client(&mut self, poll: &Poll) {
        // The newest client wins; dropping the old one closes its socket.
        while let Ok(client) = client::accept(&self.listener) {
            self.set_client(client, poll);
        }
    }

    fn set_client(&mut self, client: SupervisorSocket, poll: &Poll) {
        use vmm_sys_util::sock_ctrl_msg::ScmSocket;
        if poll
            .add(client.socket_fd(), EventSet::IN | EventSet::READ_HANG_UP, TOKEN_CLIENT)
            .is_ok()
        {
            self.client = Some(client);
        }
    }

    fn receive_client(&mut self, poll: &Poll) {
        while let Some(client) = &self.client {
            match client.receive() {
                Ok(Some(Message::Connect { port, socket })) => {
                    // Dropping the socket refuses the connection.
                    if !self.table.is_full() {
                        let ports = self.table.free_ports(port);
                        self.add(ports, Connection::outgoing(), socket, poll);
                    }
                }
                Ok(Some(Message::GrowDisk { file, length_bytes })) => {
                    if let Some(growth) = &self.growth {
                        growth.append(file, length_bytes);
                    }
                }
                Ok(Some(Message::Unknown)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(None) | Err(_) => self.client = None,
            }
        }
    }

    fn socket_ready(&mut self, token: u32, events: EventSet) {
        let Some(link) = self.table.get_mut(token) else { return };
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR) {
            link.readable = true;
        }
        link.host_closed |= events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if events.intersects(EventSet::OUT | EventSet::HANG_UP | EventSet::ERROR) {
            link.writable = true;
            payload::drain_pending(link);
        }
        self.settle(token);
    }
}

impl Backend for VsockBackend {
    fn start(&mut self, poll: &Poll) -> io::Result<()> {
        poll.add(self.listener.as_raw_fd(), EventSet::IN, TOKEN_LISTENER)?;
        if let Some(client) = self.client.take() {
            self.set_client(client, poll);
        }
        Ok(())
    }

    fn activate(&mut self, _active: &mut Active, _poll: &Poll) -> Result<(), GuestError> {
        self.table.queue_all();
        Ok(())
    }

    fn queue_ready(&mut self, index: usize, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        match index {
            QUEUE_RX | QUEUE_TX => self.exchange(active, poll),
            _ => Ok(()),
        }
    }

    fn host_ready(
        &mut self,
        token: u32,
        events: EventSet,
        active: Option<&mut Active>,
        poll: &Poll,
    ) -> Result<(), GuestError> {
        match token {
            TOKEN_LISTENER => self.accept_client(poll),
            TOKEN_CLIENT => self.receive_client(poll),
            token => self.socket_ready(token, events),
        }
        match active {
            Some(active) => self.exchange(active, poll),
            None => Ok(()),
        }
    }

    fn reset(&mut self, _poll: &Poll) {
        self.resets.clear();
        self.table.detach_known();
    }

    fn stop(&mut self, active: Option<&mut Active>, poll: &Poll) {
        if let Some(active) = active {
            // Packets that the guest queued before it ended still count. If it broke the rules, the rest is ignored.
            for _ in 0..LAST_TURNS {
                let _ = self.process_tx(active, poll);
            }
        }
        payload::drain(&mut self.table, Instant::now() + DRAIN, DRAIN_STALL);
    }
}

impl VsockBackend {
    /// Number of connections that wait for their turn.
    #[cfg(test)]
    pub(super) fn turns(&self) -> usize {
        self.table.turns()
    }

    /// Bytes from the guest that wait here, including the capacity reserved for more.
    #[cfg(test)]
    pub(super) fn waiting_bytes(&mut self) -> usize {
        let tokens = self.table.tokens_with_pending();
        let capacity = |token| self.table.get_mut(token).unwrap().pending.capacity();
        tokens.into_iter().map(capacity).sum()
    }

    /// Handles both directions, because each makes room for the other: packets bring credit, and room lets resets out.
    fn exchange(&mut self, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        self.process_tx(active, poll)?;
        let held_up = self.resets.len() >= MAX_RESETS;
        self.process_rx(active, poll)?;
        if held_up && self.resets.len() < MAX_RESETS {
            poll.run_again();
        }
        Ok(())
    }
}
