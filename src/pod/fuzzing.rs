//! Entry points of the fuzz target `guest`: input that a guest, or a VMM under its control, sends to the supervisor.

use microkube_protocol::decode_stream_header;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::agent_connection::{AgentConnection, Watch};
use super::guest_text::{self, MAX_TEXT_BYTES};
use super::vmm_events::VmmEvents;

/// Parses the bytes as a stream header, as VMM events, as agent answers and as text. Panics if a result exceeds its
/// limits.
pub fn guest(bytes: &[u8]) {
    let _ = decode_stream_header(bytes);
    let text = guest_text::bounded(String::from_utf8_lossy(bytes).into_owned());
    assert!(text.len() <= MAX_TEXT_BYTES);
    assert!(guest_text::printable(&text).lines().count() <= 1);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    runtime.block_on(async {
        let mut events = VmmEvents::new(bytes);
        while events.next().await.is_some() {}
        answers(bytes).await;
    });
}

/// The first byte is the number of earlier calls.
async fn answers(bytes: &[u8]) {
    let Some((calls, bytes)) = bytes.split_first() else {
        return;
    };
    let Ok((mut guest, host)) = UnixStream::pair() else {
        return;
    };
    let mut host = AgentConnection::new(host, Watch::default());
    for call in 0..u32::from(*calls) {
        let header = [&0_u32.to_be_bytes()[..], &call.to_be_bytes(), &[1, 0]].concat();
        if host.write_all(&header).await.is_err() {
            return;
        }
    }
    let send = async {
        let _ = guest.write_all(bytes).await;
        let _ = guest.shutdown().await;
    };
    let mut read = Vec::new();
    let receive = async {
        let _ = host.read_to_end(&mut read).await;
        drop(host);
    };
    tokio::join!(send, receive);
    assert!(read.len() <= bytes.len());
}
