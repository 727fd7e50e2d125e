//! Sends the kernel's log to the host. The agent's own log is part of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::AsyncReadExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::host::{LogStream, Supervisors};
use crate::log;

/// Maximum length of a record from /dev/kmsg in bytes (`PRINTK_MESSAGE_MAX`, kernel/printk/internal.h).
const MAX_RECORD_BYTES: usize = 8192;

/// Lines are sent together up to this size in bytes.
const BATCH_BYTES: usize = 32 << 10;

/// Sends the log until `stop` resolves or is dropped, then sends the rest and waits until the host has read it.
pub async fn carry(supervisors: Supervisors, mut stop: oneshot::Receiver<()>) {
    if let Err(error) = carry_until(&supervisors, &mut stop).await {
        log::error!("cannot send the log to the host: {error}");
    }
}

async fn carry_until(supervisors: &Supervisors, stop: &mut oneshot::Receiver<()>) -> io::Result<()> {
    let kmsg = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    // SAFETY: the file owns its descriptor, which does not change while it is registered.
    let kmsg = unsafe { AsyncFd::register_with_interest(kmsg, Interest::READABLE)? };
    let mut host = LogStream::open(supervisors.host()).await?;
    let mut batch = Vec::new();
    loop {
        let mut ready = tokio::select! {
            ready = kmsg.readable() => ready?,
            () = host.taken_over() => {
                host.reconnect().await;
                continue;
            }
            _ = &mut *stop => break,
        };
        if !read_batch(kmsg.get_ref(), &mut batch)? {
            ready.clear_ready();
        }
        host.send(&batch).await;
    }
    while read_batch(kmsg.get_ref(), &mut batch)? {
        host.send(&batch).await;
    }
    host.send(&batch).await;
    // The host closes its end once it has read the end of the stream. By then it has everything that was sent before on
    // any connection, because all connections share one queue.
    let mut connection = host.finish();
    let mut rest = [0; 64];
    while matches!(AsyncReadExt::read(&mut connection, &mut rest).await, Ok(length) if length > 0) {}
    Ok(())
}

/// Fills the batch with lines; returns false if the log has no more for now.
fn read_batch(mut kmsg: &File, batch: &mut Vec<u8>) -> io::Result<bool> {
    batch.clear();
    let mut record = [0; MAX_RECORD_BYTES];
    while batch.len() < BATCH_BYTES {
        match kmsg.read(&mut record) {
            Ok(length) => append_line(record.get(..length).unwrap_or_default(), batch),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // Records were overwritten before they were read; the next read continues with the oldest record left.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Appends a record ("priority,sequence,microseconds,flags[,…];text\n[ KEY=value\n…]",
/// Documentation/ABI/testing/dev-kmsg) as a line in dmesg's form.
fn append_line(record: &[u8], lines: &mut Vec<u8>) {
    let Some(separator) = record.iter().position(|byte| *byte == b';') else {
        return;
    };
    let (prefix, text) = record.split_at(separator);
    let microseconds: u64 = std::str::from_utf8(prefix)
        .ok()
        .and_then(|prefix| prefix.split(',').nth(2))
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let text = text
        .get(1..)
        .unwrap_or_default()
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let (seconds, microseconds) = (microseconds / 1_000_000, microseconds % 1_000_000);
    lines.extend_from_slice(format!("[{seconds:5}.{microseconds:06}] ").as_bytes());
    lines.extend_from_slice(text);
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(record: &[u8]) -> String {
        let mut lines = Vec::new();
        append_line(record, &mut lines);
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn a_record_is_formatted_like_dmesg() {
        let record = b"6,339,5140900,-;NET: Registered PF_VSOCK; fine\n SUBSYSTEM=net\n DEVICE=+x\n";
        assert_eq!(line(record), "[    5.140900] NET: Registered PF_VSOCK; fine\n");
    }

    #[test]
    fn a_record_without_a_separator_is_left_out() {
        assert_eq!(line(b"6,339,5140900,-"), "");
    }

    proptest! {
        #[test]
        fn any_record_becomes_at_most_one_line(record in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut lines = Vec::new();
            append_line(&record, &mut lines);
            prop_assert!(lines.iter().filter(|byte| **byte == b'\n').count() <= 1);
        }
    }
}
