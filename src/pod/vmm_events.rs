//! Event reports of a Pod's VMM: JSON, one event per line. The VMM is jailed because its guest may have taken control
//! of it, so its reports are not trusted either.

use microkube_vmm::config::VmmEvent;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::guest_text;

/// Longest line that is accepted, in bytes.
const MAX_LINE_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub struct VmmEvents<R> {
    reader: BufReader<R>,
    /// The beginning of the next line.
    line: Vec<u8>,
    /// A disk failure is reported at most once per VM: each report is recorded, logged and shown, and a VMM could
    /// repeat it endlessly.
    disk_has_failed: bool,
}

impl<R: AsyncRead + Unpin> VmmEvents<R> {
    /// Reads from the host's end of the VMM's pipe.
    pub fn new(reader: R) -> Self {
        Self {
            reader: BufReader::new(reader),
            line: Vec::new(),
            disk_has_failed: false,
        }
    }

    /// The next event; `None` at the end, or after an invalid line. Cancel safe.
    pub async fn next(&mut self) -> Option<VmmEvent> {
        loop {
            let available = self.reader.fill_buf().await.ok()?;
            if available.is_empty() {
                return None;
            }
            let end = memchr::memchr(b'\n', available);
            let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
            if self.line.len().saturating_add(part.len()) > MAX_LINE_BYTES {
                tracing::warn!("the VMM sent an event of more than {MAX_LINE_BYTES} bytes");
                return None;
            }
            self.line.extend_from_slice(part);
            let consumed = part.len() + usize::from(end.is_some());
            self.reader.consume(consumed);
            if end.is_some() {
                let event = parse(&std::mem::take(&mut self.line));
                let is_disk_failure = matches!(event, Some(VmmEvent::DiskFailed { .. }));
                if is_disk_failure && std::mem::replace(&mut self.disk_has_failed, true) {
                    continue;
                }
                return event;
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<VmmEvent> {
    match serde_json::from_slice(line) {
        Ok(VmmEvent::Failed { message }) => Some(VmmEvent::Failed {
            message: guest_text::bounded(message),
        }),
        Ok(VmmEvent::DiskFailed { message }) => Some(VmmEvent::DiskFailed {
            message: guest_text::bounded(message),
        }),
        Ok(event) => Some(event),
        Err(error) => {
            tracing::warn!("the VMM sent an invalid event: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn events_arrive_in_order_and_a_wait_can_be_cancelled() {
        let (mut vmm, host) = tokio::io::duplex(64 << 10);
        let mut events = VmmEvents::new(host);
        let started = serde_json::to_vec(&VmmEvent::Started { monotonic_ns: 7 }).unwrap();
        vmm.write_all(&started).await.unwrap();
        let patience = std::time::Duration::from_millis(1);
        assert!(
            tokio::time::timeout(patience, events.next()).await.is_err(),
            "half a line"
        );
        vmm.write_all(b"\n").await.unwrap();
        assert!(matches!(
            events.next().await,
            Some(VmmEvent::Started { monotonic_ns: 7 })
        ));
        drop(vmm);
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn a_failed_disk_is_reported_once() {
        let (mut vmm, host) = tokio::io::duplex(64 << 10);
        let mut events = VmmEvents::new(host);
        let failed = VmmEvent::DiskFailed {
            message: "vda".to_owned(),
        };
        let line = [serde_json::to_vec(&failed).unwrap(), b"\n".to_vec()].concat();
        vmm.write_all(&line.repeat(1000)).await.unwrap();
        let end = serde_json::to_vec(&VmmEvent::GuestStopped { triple_fault: false }).unwrap();
        vmm.write_all(&end).await.unwrap();
        vmm.write_all(b"\n").await.unwrap();
        assert!(matches!(events.next().await, Some(VmmEvent::DiskFailed { .. })));
        assert!(matches!(events.next().await, Some(VmmEvent::GuestStopped { .. })));
    }

    #[tokio::test]
    async fn an_endless_line_ends_the_reading() {
        // The endless source is never asked for more than the limit, so this returns.
        let mut events = VmmEvents::new(tokio::io::repeat(b'x'));
        assert!(events.next().await.is_none());
        assert!(events.next().await.is_none());
        assert!(events.line.len() <= MAX_LINE_BYTES);
    }

    #[tokio::test]
    async fn failure_reasons_are_truncated_and_malformed_events_ignored() {
        let message = "\u{1}".repeat(10_000);
        let line = serde_json::to_vec(&VmmEvent::Failed { message }).unwrap();
        let Some(VmmEvent::Failed { message }) = parse(&line) else {
            panic!("no event")
        };
        assert_eq!(message.len(), guest_text::MAX_TEXT_BYTES);
        assert!(parse(b"\xff{").is_none());
    }
}
