//! The rules of one connection: its state, its credit in both directions, and the next packet for the guest.
//!
//! No I/O happens here; [`super::worker`] moves the bytes and reports what it moved.

use super::budget::MAX_BYTES;
use super::packet::{Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// New credit is announced once it amounts to one `ANNOUNCE_PART`th of the buffer.
const ANNOUNCE_PART: u32 = 4;

/// The state of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The host requests a connection; the guest has not been notified yet.
    RequestPending,
    /// The guest has been notified.
    Requested,
    /// The guest requests a connection; the response to it is due.
    ResponsePending,
    /// The connection is open on both sides.
    Established,
}

/// The guest broke the protocol or refused the connection, which ends with a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset;

/// A control packet that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub op: Op,
    pub flags: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    phase: Phase,
    /// Bytes that the guest may have in flight to a host socket that does not accept them.
    buffer_bytes: u32,
    /// Size of the guest's receive buffer.
    peer_buf_alloc: u32,
    /// Bytes that the guest has taken out of it.
    peer_fwd_cnt: u32,
    /// Bytes sent to the guest.
    tx_cnt: u32,
    /// Bytes from the guest that the host's socket has accepted.
    fwd_cnt: u32,
    /// The last value of `fwd_cnt` sent to the guest.
    announced_fwd_cnt: u32,
    /// Bytes from the guest that wait for the host's socket.
    buffered: u32,
    /// Directions that the guest has ended.
    peer_shutdown: u32,
    /// Directions that the host has ended.
    shutdown: u32,
    /// The part of `shutdown` that the guest has been notified of.
    announced_shutdown: u32,
    credit_update_due: bool,
}

impl Connection {
    fn new(phase: Phase) -> Self {
        Self {
            phase,
            buffer_bytes: MAX_BYTES,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
            tx_cnt: 0,
            fwd_cnt: 0,
            announced_fwd_cnt: 0,
            buffered: 0,
            peer_shutdown: 0,
            shutdown: 0,
            announced_shutdown: 0,
            credit_update_due: false,
        }
    }

    /// A connection from the host to the guest.
    #[must_use]
    pub fn outgoing() -> Self {
        Self::new(Phase::RequestPending)
    }

    /// A connection from the guest to the host, with this credit.
    #[must_use]
    pub fn incoming(buf_alloc: u32, fwd_cnt: u32) -> Self {
        Self {
            peer_buf_alloc: buf_alloc,
            peer_fwd_cnt: fwd_cnt,
            ..Self::new(Phase::ResponsePending)
        }
    }

    /// Sets how many bytes the guest may have in flight. Must come before anything is sent to the guest.
    pub fn set_buffer_bytes(&mut self, bytes: u32) {
        self.buffer_bytes = bytes;
    }

    #[must_use]
    pub fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Whether the guest has not been notified of the connection yet, so that it survives a reset of the device.
    #[must_use]
    pub fn is_unknown_to_guest(&self) -> bool {
        self.phase == Phase::RequestPending
    }

    /// Handles a packet from the guest other than a request or a reset. Its payload is announced,
    /// but has not been moved yet.
    pub fn receive(&mut self, op: Op, flags: u32, len: u32, buf_alloc: u32, fwd_cnt: u32) -> Result<(), Reset> {
        self.peer_buf_alloc = buf_alloc;
        self.peer_fwd_cnt = fwd_cnt;
        match (op, self.phase) {
            (Op::Response, Phase::Requested) => self.phase = Phase::Established,
            (Op::Rw, Phase::Established) => {
                if self.peer_shutdown & SHUTDOWN_SEND != 0 || len > self.buffer_bytes.saturating_sub(self.buffered) {
                    return Err(Reset);
                }
            }
            (Op::Shutdown, Phase::Established) => self.peer_shutdown |= flags & (SHUTDOWN_RECEIVE | SHUTDOWN_SEND),
            (Op::CreditUpdate, Phase::Established | Phase::ResponsePending) => {}
            (Op::CreditRequest, Phase::Established | Phase::ResponsePending) => self.credit_update_due = true,
            _ => return Err(Reset),
        }
        Ok(())
    }

    /// Accounts for payload from the guest: the host's socket accepted `taken` bytes immediately, `kept` bytes wait for
    /// it.
    pub fn moved_to_host(&mut self, taken: u32, kept: u32) {
        self.buffered = self.buffered.saturating_add(kept);
        self.forwarded(taken);
    }

    /// Accounts for waiting bytes that the host's socket has accepted.
    pub fn drained_to_host(&mut self, bytes: u32) {
        self.buffered = self.buffered.saturating_sub(bytes);
        self.forwarded(bytes);
    }

    fn forwarded(&mut self, bytes: u32) {
        self.fwd_cnt = self.fwd_cnt.wrapping_add(bytes);
        if self.fwd_cnt.wrapping_sub(self.announced_fwd_cnt) >= self.buffer_bytes / ANNOUNCE_PART {
            self.credit_update_due = true;
        }
    }

    /// Bytes from the guest that wait for the host's socket.
    #[must_use]
    pub fn buffered(&self) -> u32 {
        self.buffered
    }

    /// How many bytes the guest can accept now; zero in any state in which it accepts none.
    #[must_use]
    pub fn credit(&self) -> u32 {
        let may_send = self.phase == Phase::Established
            && self.shutdown & SHUTDOWN_SEND == 0
            && self.peer_shutdown & SHUTDOWN_RECEIVE == 0;
        // A guest has no credit if it shrinks its buffer or claims to have taken bytes that it never received.
        let outstanding = self.tx_cnt.wrapping_sub(self.peer_fwd_cnt);
        if may_send {
            self.peer_buf_alloc.saturating_sub(outstanding)
        } else {
            0
        }
    }

    /// Accounts for payload sent to the guest.
    pub fn sent(&mut self, bytes: u32) {
        self.tx_cnt = self.tx_cnt.wrapping_add(bytes);
    }

    /// Records that the host ends these directions.
    pub fn shut_down(&mut self, directions: u32) {
        self.shutdown |= directions;
    }

    /// Whether the guest sends no more and everything it sent has been accepted.
    #[must_use]
    pub fn peer_is_done_sending(&self) -> bool {
        self.peer_shutdown & SHUTDOWN_SEND != 0 && self.buffered == 0
    }

    /// Whether the guest receives no more.
    #[must_use]
    pub fn peer_is_done_receiving(&self) -> bool {
        self.peer_shutdown & SHUTDOWN_RECEIVE != 0
    }

    /// Whether the guest has closed its socket and everything it sent has been accepted: a reset is
    /// then due as confirmation.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.peer_is_done_sending() && self.peer_is_done_receiving()
    }

    /// The control packet to send next. The caller confirms with [`Self::announced`] that it was sent.
    #[must_use]
    pub fn due(&self) -> Option<Due> {
        let due = |op, flags| Some(Due { op, flags });
        match self.phase {
            Phase::RequestPending => due(Op::Request, 0),
            Phase::ResponsePending => due(Op::Response, 0),
            Phase::Requested => None,
            Phase::Established if self.shutdown & !self.announced_shutdown != 0 => due(Op::Shutdown, self.shutdown),
            Phase::Established if self.credit_update_due => due(Op::CreditUpdate, 0),
            Phase::Established => None,
        }
    }

    /// Records that a packet was sent. Every packet carries the current credit.
    pub fn announced(&mut self, op: Op) {
        self.announced_fwd_cnt = self.fwd_cnt;
        self.credit_update_due = false;
        match op {
            Op::Request => self.phase = Phase::Requested,
            Op::Response => self.phase = Phase::Established,
            Op::Shutdown => self.announced_shutdown = self.shutdown,
            _ => {}
        }
    }

    /// The credit that a packet carries: size of the buffer, and bytes taken out of it.
    #[must_use]
    pub fn credit_fields(&self) -> (u32, u32) {
        (self.buffer_bytes, self.fwd_cnt)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn established(buf_alloc: u32) -> Connection {
        let mut connection = Connection::incoming(buf_alloc, 0);
        assert_eq!(
            connection.due(),
            Some(Due {
                op: Op::Response,
                flags: 0
            })
        );
        connection.announced(Op::Response);
        assert_eq!(connection.due(), None);
        connection
    }

    #[test]
    fn a_host_connection_sends_one_request_and_opens_on_the_response() {
        let mut connection = Connection::outgoing();
        assert!(connection.is_unknown_to_guest());
        assert_eq!(
            connection.due(),
            Some(Due {
                op: Op::Request,
                flags: 0
            })
        );
        connection.announced(Op::Request);
        assert_eq!((connection.due(), connection.credit()), (None, 0));
        connection.receive(Op::Response, 0, 0, 1000, 0).unwrap();
        assert_eq!(connection.credit(), 1000);
    }

    #[test]
    fn packets_invalid_in_the_current_phase_reset_the_connection() {
        let mut connection = Connection::outgoing();
        assert_eq!(connection.receive(Op::Response, 0, 0, 1000, 0), Err(Reset));
        connection.announced(Op::Request);
        assert_eq!(connection.receive(Op::Rw, 0, 1, 1000, 0), Err(Reset));
        assert_eq!(established(0).receive(Op::Response, 0, 0, 0, 0), Err(Reset));
    }

    #[test]
    fn sending_consumes_credit_and_the_guest_returns_it() {
        let mut connection = established(100);
        connection.sent(60);
        assert_eq!(connection.credit(), 40);
        connection.receive(Op::CreditUpdate, 0, 0, 100, 50).unwrap();
        assert_eq!(connection.credit(), 90);
        connection.receive(Op::CreditUpdate, 0, 0, 5, 50).unwrap();
        assert_eq!(connection.credit(), 0);
        connection.receive(Op::CreditUpdate, 0, 0, 1000, 61).unwrap();
        assert_eq!(connection.credit(), 0, "the guest cannot have taken more than it got");
    }

    #[test]
    fn data_beyond_the_buffer_resets_the_connection() {
        let mut connection = established(0);
        connection.receive(Op::Rw, 0, MAX_BYTES, 0, 0).unwrap();
        connection.moved_to_host(0, MAX_BYTES);
        assert_eq!(connection.due(), None, "no credit while the host does not read");
        assert_eq!(connection.receive(Op::Rw, 0, 1, 0, 0), Err(Reset));
    }

    #[test]
    fn credit_is_announced_after_the_host_reads_a_quarter_of_the_buffer() {
        let mut connection = established(0);
        connection.receive(Op::Rw, 0, 65536, 0, 0).unwrap();
        connection.moved_to_host(65535, 1);
        assert_eq!(connection.due(), None);
        connection.drained_to_host(1);
        assert_eq!(
            connection.due(),
            Some(Due {
                op: Op::CreditUpdate,
                flags: 0
            })
        );
        connection.announced(Op::CreditUpdate);
        assert_eq!(connection.due(), None);
        connection.receive(Op::CreditRequest, 0, 0, 0, 0).unwrap();
        assert_eq!(
            connection.due(),
            Some(Due {
                op: Op::CreditUpdate,
                flags: 0
            })
        );
    }

    #[test]
    fn a_small_buffer_has_its_own_limit_and_announces_credit_earlier() {
        let mut connection = Connection::incoming(0, 0);
        connection.set_buffer_bytes(4096);
        connection.announced(Op::Response);
        assert_eq!(connection.credit_fields(), (4096, 0));
        connection.receive(Op::Rw, 0, 4096, 0, 0).unwrap();
        connection.moved_to_host(0, 4096);
        assert_eq!(connection.receive(Op::Rw, 0, 1, 0, 0), Err(Reset));
        connection.drained_to_host(1023);
        assert_eq!(connection.due(), None);
        connection.drained_to_host(1);
        assert!(connection.due().is_some());
    }

    #[test]
    fn each_direction_ends_independently() {
        let mut connection = established(100);
        connection.receive(Op::Rw, 0, 10, 100, 0).unwrap();
        connection.moved_to_host(0, 10);
        connection.receive(Op::Shutdown, SHUTDOWN_SEND, 0, 100, 0).unwrap();
        assert!(!connection.peer_is_done_sending(), "what was sent before must arrive");
        assert_eq!(connection.credit(), 100);
        connection.drained_to_host(10);
        assert!(connection.peer_is_done_sending() && !connection.is_finished());
        assert_eq!(connection.receive(Op::Rw, 0, 1, 100, 0), Err(Reset));
        connection.shut_down(SHUTDOWN_SEND);
        assert_eq!(
            connection.due(),
            Some(Due {
                op: Op::Shutdown,
                flags: SHUTDOWN_SEND
            })
        );
        connection.announced(Op::Shutdown);
        connection.shut_down(SHUTDOWN_RECEIVE);
        assert_eq!(
            connection.due(),
            Some(Due {
                op: Op::Shutdown,
                flags: SHUTDOWN_SEND | SHUTDOWN_RECEIVE
            })
        );
        connection.receive(Op::Shutdown, SHUTDOWN_RECEIVE, 0, 100, 0).unwrap();
        assert!(connection.is_finished());
    }

    proptest! {
        #[test]
        fn no_sequence_of_packets_exceeds_the_buffer(
            packets in proptest::collection::vec((1u16..8, any::<u32>(), 0u32..100_000, any::<u32>(), any::<u32>(), 0u32..100_000), 0..100),
        ) {
            let mut connection = established(1 << 18);
            for (op, flags, len, buf_alloc, fwd_cnt, drained) in packets {
                let op = [Op::Request, Op::Response, Op::Rst, Op::Shutdown, Op::Rw, Op::CreditUpdate, Op::CreditRequest]
                    [usize::from(op - 1)];
                if connection.receive(op, flags, len, buf_alloc, fwd_cnt).is_err() {
                    break;
                }
                if op == Op::Rw {
                    connection.moved_to_host(0, len);
                }
                prop_assert!(connection.buffered() <= MAX_BYTES);
                let credit = connection.credit();
                prop_assert!(credit <= buf_alloc);
                connection.sent(credit);
                connection.drained_to_host(drained.min(connection.buffered()));
                if let Some(due) = connection.due() {
                    connection.announced(due.op);
                    prop_assert_eq!(connection.due(), None);
                }
            }
        }
    }
}
