//! All connections, found by their ports for the guest and by their token for the host, and the queue of connections
//! with data for the guest.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;

use super::budget::{Budget, MAX_CONNECTIONS};
use super::connection::Connection;

/// First host port for connections from the host: above all ports on which the host listens.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// Lower tokens belong to the listener and the client.
pub const FIRST_TOKEN: u32 = 2;

/// A connection as the guest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// Port of the host.
    pub host: u32,
    /// Port of the guest.
    pub guest: u32,
}

/// A connection and its socket.
#[derive(Debug)]
pub struct Link {
    /// `None` once the connection has ended for the guest, while data from the guest is still on its way to the host.
    pub ports: Option<Ports>,
    /// Rules and counters.
    pub connection: Connection,
    pub socket: File,
    /// Bytes from the guest that the socket has not accepted yet.
    pub pending: VecDeque<u8>,
    /// Whether the socket may be readable; remembered, because events are edge-triggered.
    pub readable: bool,
    /// Whether the socket may be writable.
    pub writable: bool,
    /// Whether the host has closed its end.
    pub host_closed: bool,
    /// Whether the socket's writing side was shut down.
    pub write_shut: bool,
    /// Its place in the queue of connections with something to send.
    turn: Option<i64>,
}

impl Link {
    /// Whether it has something to send to the guest now.
    #[must_use]
    pub fn has_packet_to_send(&self) -> bool {
        self.ports.is_some() && (self.connection.due().is_some() || (self.readable && self.connection.credit() > 0))
    }
}

#[derive(Debug)]
pub struct Table {
    links: HashMap<u32, Link>,
    tokens: HashMap<Ports, u32>,
    next_token: u32,
    next_port: u32,
    /// Tokens by their place: each belongs to an existing connection and appears only once.
    turns: BTreeMap<i64, u32>,
    budget: Budget,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            links: HashMap::new(),
            tokens: HashMap::new(),
            next_token: FIRST_TOKEN,
            next_port: FIRST_HOST_PORT,
            turns: BTreeMap::new(),
            budget: Budget::default(),
        }
    }
}

impl Table {
    /// Whether there are as many connections as are allowed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.links.len() >= MAX_CONNECTIONS
    }

    /// A port of the host that has no connection to `guest` yet, with `guest`.
    pub fn free_ports(&mut self, guest: u32) -> Ports {
        loop {
            let ports = Ports {
                host: self.next_port,
                guest,
            };
            self.next_port = self
                .next_port
                .checked_add(1)
                .filter(|port| *port < u32::MAX)
                .unwrap_or(FIRST_HOST_PORT);
            // This loop ends, because there are far fewer connections than ports.
            if !self.tokens.contains_key(&ports) {
                return ports;
            }
        }
    }

    /// Adds a connection, grants it its share of the bytes that may wait, and returns its token.
    pub fn insert(&mut self, ports: Ports, mut connection: Connection, socket: OwnedFd) -> u32 {
        connection.set_buffer_bytes(self.budget.grant());
        // This loop ends for the same reason.
        while self.links.contains_key(&self.next_token) || self.next_token < FIRST_TOKEN {
            self.next_token = self.next_token.wrapping_add(1);
        }
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1);
        let link = Link {
            ports: Some(ports),
            connection,
            socket: File::from(socket),
            pending: VecDeque::new(),
            readable: true,
            writable: true,
            host_closed: false,
            write_shut: false,
            turn: None,
        };
        self.links.insert(token, link);
        self.tokens.insert(ports, token);
        token
    }

    /// The token of the connection between these ports.
    #[must_use]
    pub fn token(&self, ports: Ports) -> Option<u32> {
        self.tokens.get(&ports).copied()
    }

    pub fn get_mut(&mut self, token: u32) -> Option<&mut Link> {
        self.links.get_mut(&token)
    }

    /// Detaches a connection that has ended for the guest. It stays until the guest's data has reached the host; its
    /// ports are free immediately.
    pub fn detach(&mut self, token: u32) {
        let Some(link) = self.links.get_mut(&token) else { return };
        if let Some(ports) = link.ports.take() {
            self.tokens.remove(&ports);
        }
        if let Some(turn) = link.turn.take() {
            self.turns.remove(&turn);
        }
        if link.pending.is_empty() {
            self.budget.give_back(link.connection.buffer_bytes());
            self.links.remove(&token);
        }
    }

    /// Detaches all connections except those that the guest was never notified of.
    pub fn detach_known(&mut self) {
        let known: Vec<u32> = self
            .links
            .iter()
            .filter(|(_, link)| !link.connection.is_unknown_to_guest())
            .map(|(token, _)| *token)
            .collect();
        for token in known {
            self.detach(token);
        }
    }

    /// Queues a connection if it has something to send.
    pub fn queue(&mut self, token: u32) {
        let last = self.turns.last_key_value().map_or(0, |(place, _)| *place);
        self.queue_at(token, last.saturating_add(1));
    }

    fn queue_at(&mut self, token: u32, place: i64) {
        if let Some(link) = self.links.get_mut(&token)
            && link.turn.is_none()
            && link.has_packet_to_send()
        {
            link.turn = Some(place);
            self.turns.insert(place, token);
        }
    }

    /// Queues all connections that have something to send.
    pub fn queue_all(&mut self) {
        let tokens: Vec<u32> = self.links.keys().copied().collect();
        for token in tokens {
            self.queue(token);
        }
    }

    /// Takes the connection whose turn it is out of the queue.
    pub fn next_turn(&mut self) -> Option<u32> {
        while let Some((_, token)) = self.turns.pop_first() {
            if let Some(link) = self.links.get_mut(&token) {
                link.turn = None;
                if link.has_packet_to_send() {
                    return Some(token);
                }
            }
        }
        None
    }

    /// Returns an unused turn to the front of the queue.
    pub fn undo_turn(&mut self, token: u32) {
        let first = self.turns.first_key_value().map_or(0, |(place, _)| *place);
        self.queue_at(token, first.saturating_sub(1));
    }

    /// Number of connections that wait for their turn.
    #[cfg(test)]
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// The connections with bytes on their way to the host.
    #[must_use]
    pub fn tokens_with_pending(&self) -> Vec<u32> {
        self.links
            .iter()
            .filter(|(_, link)| !link.pending.is_empty())
            .map(|(token, _)| *token)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> OwnedFd {
        OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0)
    }

    #[test]
    fn a_detached_connection_frees_its_ports_but_keeps_data_in_flight() {
        let mut table = Table::default();
        let ports = Ports { host: 1, guest: 2 };
        let token = table.insert(ports, Connection::incoming(0, 0), socket());
        table.get_mut(token).unwrap().pending.extend(b"rest");
        table.detach(token);
        assert_eq!(table.token(ports), None);
        assert_eq!(table.tokens_with_pending(), vec![token]);
        table.get_mut(token).unwrap().pending.clear();
        table.detach(token);
        assert!(table.get_mut(token).is_none());
    }

    #[test]
    fn each_queued_connection_gets_exactly_one_turn() {
        let mut table = Table::default();
        let tokens: Vec<u32> = (0..3)
            .map(|port| table.insert(Ports { host: port, guest: 9 }, Connection::outgoing(), socket()))
            .collect();
        table.queue_all();
        table.queue_all();
        let mut turns: Vec<u32> = std::iter::from_fn(|| table.next_turn()).collect();
        turns.sort_unstable();
        assert_eq!(turns, tokens);
    }

    #[test]
    fn a_returned_turn_comes_first_again() {
        let mut table = Table::default();
        let tokens: Vec<u32> = (0..3)
            .map(|port| table.insert(Ports { host: port, guest: 9 }, Connection::outgoing(), socket()))
            .collect();
        tokens.iter().for_each(|token| table.queue(*token));
        let first = table.next_turn().unwrap();
        table.undo_turn(first);
        let turns: Vec<u32> = std::iter::from_fn(|| table.next_turn()).collect();
        assert_eq!(turns, tokens);
    }

    #[test]
    fn closed_connections_leave_no_turns_behind() {
        let mut table = Table::default();
        let ports = Ports { host: 1, guest: 2 };
        for _ in 0..1000 {
            let token = table.insert(ports, Connection::incoming(0, 0), socket());
            table.queue(token);
            assert_eq!(table.turns(), 1);
            table.detach(token);
            assert_eq!(table.turns(), 0);
        }
    }

    #[test]
    fn a_closed_connection_returns_its_bytes_to_the_budget() {
        let mut table = Table::default();
        let granted = |table: &mut Table, port| {
            let token = table.insert(Ports { host: port, guest: 9 }, Connection::outgoing(), socket());
            (token, table.get_mut(token).unwrap().connection.buffer_bytes())
        };
        let first = granted(&mut table, 1).1;
        let mut tokens = Vec::new();
        loop {
            let (token, bytes) = granted(&mut table, 2 + u32::try_from(tokens.len()).unwrap());
            tokens.push(token);
            if bytes < first {
                break;
            }
        }
        // A connection with bytes for the host keeps them, even if it has ended for the guest.
        table.get_mut(tokens[0]).unwrap().pending.push_back(1);
        tokens.iter().for_each(|token| table.detach(*token));
        assert_eq!(table.tokens_with_pending(), [tokens[0]]);
        assert_eq!(granted(&mut table, 1000).1, first);
    }

    #[test]
    fn connections_unknown_to_the_guest_survive_its_reset() {
        let mut table = Table::default();
        let kept = table.insert(Ports { host: 1, guest: 9 }, Connection::outgoing(), socket());
        let lost = table.insert(Ports { host: 2, guest: 9 }, Connection::incoming(0, 0), socket());
        table.detach_known();
        assert!(table.get_mut(kept).is_some() && table.get_mut(lost).is_none());
    }

    #[test]
    fn a_port_in_use_is_not_allocated_again() {
        let mut table = Table::default();
        let first = table.free_ports(9);
        table.insert(first, Connection::outgoing(), socket());
        table.next_port = first.host;
        assert_ne!(table.free_ports(9), first);
        assert_eq!(table.free_ports(10).guest, 10);
    }
}
