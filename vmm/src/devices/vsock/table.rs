//! All connections: found by their ports when the guest speaks, by their token when the host does; and whose turn it is to
//! say something to the guest.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;

use super::budget::{Budget, MAX_CONNECTIONS};
use super::connection::Connection;

/// First port of the host for its own connections: above all that anybody listens on.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// Tokens below belong to the listener and the client.
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
    /// `None` once the guest no longer knows it, and what it sent is still on its way to the host.
    pub ports: Option<Ports>,
    /// Rules and counters.
    pub connection: Connection,
    /// The host's side.
    pub socket: File,
    /// Bytes of the guest that the socket did not take yet.
    pub pending: VecDeque<u8>,
    /// The socket may have something to read; edge-triggered, hence remembered.
    pub readable: bool,
    /// The socket may take something.
    pub writable: bool,
    /// The host has closed its end.
    pub host_closed: bool,
    /// The socket's writing side was shut down.
    pub write_shut: bool,
    /// Its place in the queue of those that have something to say.
    turn: Option<i64>,
}

impl Link {
    /// Whether it has something to say to the guest now.
    #[must_use]
    pub fn has_something_to_say(&self) -> bool {
        self.ports.is_some() && (self.connection.due().is_some() || (self.readable && self.connection.credit() > 0))
    }
}

/// All connections.
#[derive(Debug)]
pub struct Table {
    links: HashMap<u32, Link>,
    tokens: HashMap<Ports, u32>,
    next_token: u32,
    next_port: u32,
    /// Tokens by their place: each of a connection that is there, none twice.
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
    /// Whether another connection is allowed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.links.len() >= MAX_CONNECTIONS
    }

    /// A port of the host that has no connection to `guest` yet.
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
            // Ends: there are far fewer connections than ports.
            if !self.tokens.contains_key(&ports) {
                return ports;
            }
        }
    }

    /// Adds a connection, which gets its part of the bytes that may wait; its token.
    pub fn insert(&mut self, ports: Ports, mut connection: Connection, socket: OwnedFd) -> u32 {
        connection.set_buffer_bytes(self.budget.grant());
        // Ends for the same reason.
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

    /// The token of a connection that the guest names.
    #[must_use]
    pub fn token(&self, ports: Ports) -> Option<u32> {
        self.tokens.get(&ports).copied()
    }

    /// A connection.
    pub fn get_mut(&mut self, token: u32) -> Option<&mut Link> {
        self.links.get_mut(&token)
    }

    /// The guest no longer knows the connection. It stays until what the guest sent has reached the host; its ports are free.
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

    /// The guest knows no connection any more, apart from those it was never told of.
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

    /// Puts a connection in the queue if it has something to say.
    pub fn queue(&mut self, token: u32) {
        let last = self.turns.last_key_value().map_or(0, |(place, _)| *place);
        self.queue_at(token, last.saturating_add(1));
    }

    fn queue_at(&mut self, token: u32, place: i64) {
        if let Some(link) = self.links.get_mut(&token)
            && link.turn.is_none()
            && link.has_something_to_say()
        {
            link.turn = Some(place);
            self.turns.insert(place, token);
        }
    }

    /// Puts all in the queue that have something to say.
    pub fn queue_all(&mut self) {
        let tokens: Vec<u32> = self.links.keys().copied().collect();
        for token in tokens {
            self.queue(token);
        }
    }

    /// Whose turn it is; it leaves the queue.
    pub fn next_turn(&mut self) -> Option<u32> {
        while let Some((_, token)) = self.turns.pop_first() {
            if let Some(link) = self.links.get_mut(&token) {
                link.turn = None;
                if link.has_something_to_say() {
                    return Some(token);
                }
            }
        }
        None
    }

    /// Gives an unused turn back.
    pub fn undo_turn(&mut self, token: u32) {
        let first = self.turns.first_key_value().map_or(0, |(place, _)| *place);
        self.queue_at(token, first.saturating_sub(1));
    }

    /// How many wait for their turn.
    #[cfg(test)]
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// Those with bytes on their way to the host.
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
    fn a_detached_connection_frees_its_ports_but_keeps_what_is_on_its_way() {
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
    fn turns_go_round_and_an_entry_is_never_there_twice() {
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
    fn a_turn_that_is_given_back_comes_first_again() {
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
    fn connections_that_come_and_go_leave_no_turns_behind() {
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
    fn a_connection_that_is_gone_leaves_its_bytes_to_the_next() {
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
        // What still waits for the host keeps its bytes, whatever the guest knows of it.
        table.get_mut(tokens[0]).unwrap().pending.push_back(1);
        tokens.iter().for_each(|token| table.detach(*token));
        assert_eq!(table.tokens_with_pending(), [tokens[0]]);
        assert_eq!(granted(&mut table, 1000).1, first);
    }

    #[test]
    fn connections_the_guest_was_never_told_of_survive_its_reset() {
        let mut table = Table::default();
        let kept = table.insert(Ports { host: 1, guest: 9 }, Connection::outgoing(), socket());
        let lost = table.insert(Ports { host: 2, guest: 9 }, Connection::incoming(0, 0), socket());
        table.detach_known();
        assert!(table.get_mut(kept).is_some() && table.get_mut(lost).is_none());
    }

    #[test]
    fn a_port_in_use_is_not_given_out_again() {
        let mut table = Table::default();
        let first = table.free_ports(9);
        table.insert(first, Connection::outgoing(), socket());
        table.next_port = first.host;
        assert_ne!(table.free_ports(9), first);
        assert_eq!(table.free_ports(10).guest, 10);
    }
}
