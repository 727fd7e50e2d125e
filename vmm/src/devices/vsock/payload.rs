//! Bytes between guest memory and the sockets of the host.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use super::super::virtio::chain::Buffers;
use super::packet::{MAX_PAYLOAD_BYTES, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::table::{Link, Table};

/// Forwards payload from the guest: writes as much as the socket accepts immediately, and queues the rest.
pub(super) fn forward(link: &mut Link, payload: &mut Buffers<'_>) {
    let length = payload.remaining();
    let mut taken = 0;
    while link.writable && link.pending.is_empty() && !payload.is_empty() {
        match payload.drain_to_socket(link.socket.as_fd()) {
            Ok(count) => {
                payload.skip(count);
                taken += count;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => link.writable = false,
            Err(_) => {
                host_stopped_reading(link);
                taken = length;
                break;
            }
        }
    }
    let kept = length - taken;
    if kept > 0 {
        let mut rest = vec![0; kept];
        payload.read(&mut rest);
        make_room(link, kept);
        link.pending.extend(rest);
    }
    link.connection
        .moved_to_host(u32::try_from(taken).unwrap_or(0), u32::try_from(kept).unwrap_or(0));
}

/// Grows the buffer as vectors grow, but not beyond the connection's limit.
fn make_room(link: &mut Link, more: usize) {
    let needed = link.pending.len() + more;
    if needed > link.pending.capacity() {
        let limit = usize::try_from(link.connection.buffer_bytes()).unwrap_or(usize::MAX);
        let wanted = needed.max(link.pending.capacity().saturating_mul(2).min(limit));
        link.pending.reserve_exact(wanted - link.pending.len());
    }
}

/// The host no longer reads the guest's data: notifies the guest, and drops the data in flight.
fn host_stopped_reading(link: &mut Link) {
    let lost = u32::try_from(link.pending.len()).unwrap_or(0);
    link.pending.clear();
    link.connection.drained_to_host(lost);
    link.connection.shut_down(SHUTDOWN_RECEIVE);
}

/// Sends the waiting data to the socket.
pub(super) fn drain_pending(link: &mut Link) {
    while link.writable && !link.pending.is_empty() {
        let (front, _) = link.pending.as_slices();
        // SAFETY: the pointer and length are those of a slice.
        let sent = unsafe {
            let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
            libc::send(link.socket.as_raw_fd(), front.as_ptr().cast(), front.len(), flags)
        };
        match usize::try_from(sent) {
            Ok(count) => {
                link.pending.drain(..count);
                link.connection.drained_to_host(u32::try_from(count).unwrap_or(0));
            }
            Err(_) => match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => link.writable = false,
                _ => return host_stopped_reading(link),
            },
        }
    }
    if link.pending.is_empty() {
        // A connection that was slow once must not keep its largest buffer.
        link.pending.shrink_to_fit();
    }
}

/// Reads from the host into guest memory, as much as there is credit for; `None` if there is nothing to read.
pub(super) fn read(link: &mut Link, mut body: Buffers<'_>) -> Option<usize> {
    let credit = usize::try_from(link.connection.credit()).unwrap_or(usize::MAX);
    body.truncate(credit.min(MAX_PAYLOAD_BYTES));
    if body.is_empty() {
        return None;
    }
    match body.fill_from(link.socket.as_fd()) {
        Ok(count) if count > 0 => return Some(count),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return None,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Ok(_) => link.connection.shut_down(if link.host_closed {
            SHUTDOWN_SEND | SHUTDOWN_RECEIVE
        } else {
            SHUTDOWN_SEND
        }),
        Err(_) => link.connection.shut_down(SHUTDOWN_SEND | SHUTDOWN_RECEIVE),
    }
    link.readable = false;
    None
}

/// Shuts down one direction of a socket.
pub(super) fn shut(socket: &File, how: libc::c_int) {
    // SAFETY: shutdown on an open socket; an error means that it is shut already.
    unsafe { libc::shutdown(socket.as_raw_fd(), how) };
}

/// Passes the guest's data to the host until `deadline`, or until no reader has accepted anything for `stall`, because
/// a guest can have connections that the host does not read. Returns how many times it polled the sockets.
pub(super) fn drain(table: &mut Table, deadline: Instant, stall: Duration) -> usize {
    let mut rounds = 0;
    let mut give_up = deadline.min(Instant::now() + stall);
    loop {
        let tokens = table.tokens_with_pending();
        let left = give_up.saturating_duration_since(Instant::now());
        if tokens.is_empty() || left.is_zero() {
            return rounds;
        }
        rounds += 1;
        let mut polled = Vec::with_capacity(tokens.len());
        for token in &tokens {
            polled.push(libc::pollfd {
                // poll(2) ignores negative descriptors.
                fd: table.get_mut(*token).map_or(-1, |link| link.socket.as_raw_fd()),
                events: libc::POLLOUT,
                revents: 0,
            });
        }
        // Round up, because a poll that ends too early would only cause another one.
        let timeout_ms = libc::c_int::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX);
        let count = libc::nfds_t::try_from(polled.len()).unwrap_or(0);
        // SAFETY: pointer and count are those of the vector.
        if unsafe { libc::poll(polled.as_mut_ptr(), count, timeout_ms) } < 0 {
            return rounds;
        }
        for (token, polled) in tokens.into_iter().zip(polled) {
            if polled.revents == 0 {
                continue;
            }
            if let Some(link) = table.get_mut(token) {
                let before = link.pending.len();
                link.writable = true;
                drain_pending(link);
                if link.pending.len() < before {
                    give_up = deadline.min(Instant::now() + stall);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::super::client::set_nonblocking;
    use super::super::connection::Connection;
    use super::super::table::Ports;
    use super::*;

    /// A connection whose socket is full while `pending` more bytes wait for it; returns the host's end.
    fn parked(table: &mut Table, port: u32, pending: usize) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        set_nonblocking(ours.as_raw_fd()).unwrap();
        while io::Write::write(&mut &ours, &[1; 4096]).is_ok() {}
        let ports = Ports { host: port, guest: 9 };
        let token = table.insert(ports, Connection::incoming(0, 0), OwnedFd::from(ours));
        table.get_mut(token).unwrap().pending.extend(vec![2; pending]);
        theirs
    }

    #[test]
    fn unread_connections_are_polled_once_when_the_vm_ends() {
        let mut table = Table::default();
        let hosts: Vec<UnixStream> = (0..100).map(|port| parked(&mut table, port, 1000)).collect();
        let far = Instant::now() + Duration::from_secs(3600);
        assert_eq!(drain(&mut table, far, Duration::from_millis(10)), 1);
        assert_eq!(table.tokens_with_pending().len(), hosts.len());
    }

    #[test]
    fn a_reader_gets_everything_despite_stalled_readers() {
        let mut table = Table::default();
        let _parked: Vec<UnixStream> = (0..3).map(|port| parked(&mut table, port, 1000)).collect();
        let mut host = parked(&mut table, 9, 200_000);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            host.read_to_end(&mut all).unwrap();
            all
        });
        let far = Instant::now() + Duration::from_secs(3600);
        drain(&mut table, far, Duration::from_secs(2));
        drop(table);
        let all = reader.join().unwrap();
        assert!(all.ends_with(&[2; 200_000]));
    }
}
