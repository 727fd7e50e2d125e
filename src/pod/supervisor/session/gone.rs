//! Notices that a command line is gone while nothing is read from it.

use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

/// Waits until the client has closed its connection. Does not return while there is unread input. Readiness alone is
/// not enough: it may remain from the request until a read finds no more data.
pub async fn client_gone(from: &OwnedReadHalf) {
    let stream: &UnixStream = from.as_ref();
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        let peek = || Ok(recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK)?);
        match stream.try_io(Interest::READABLE, peek) {
            Ok(0) => return,
            Ok(_) => std::future::pending().await,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_client_is_gone_only_when_it_closes_the_connection() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (mut from, _to) = server.into_split();
        client.write_all(b"request").await.unwrap();
        from.read_exact(&mut [0; 7]).await.unwrap();
        let mut gone = std::pin::pin!(client_gone(&from));
        assert!(futures::poll!(&mut gone).is_pending(), "the request is read");
        drop(client);
        gone.await;

        let (mut client, server) = UnixStream::pair().unwrap();
        let (from, _to) = server.into_split();
        client.write_all(b"input").await.unwrap();
        let mut gone = std::pin::pin!(client_gone(&from));
        from.readable().await.unwrap();
        assert!(futures::poll!(&mut gone).is_pending(), "its input waits");
    }
}
