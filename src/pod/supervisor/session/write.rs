//! Sends the supervisor's frames to a command line.

use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

use crate::pod::supervisor_protocol::{Notice, SupervisorFrame, write_frame};

/// Maximum number of frames in the queue to a command line.
pub const QUEUED_FRAMES: usize = 16;

/// Sends frames up to the last one of a conversation, or until the command line stops reading.
pub async fn write_all(mut queue: mpsc::Receiver<SupervisorFrame>, mut to: OwnedWriteHalf) {
    let mut is_last = false;
    while !is_last && let Some(frame) = queue.recv().await {
        is_last = matches!(
            frame,
            SupervisorFrame::Notice(Notice::Exited { .. } | Notice::InputEnded | Notice::Refused { .. })
        );
        // An attached client named its container, so the container's index means nothing to it.
        let frame = match frame {
            SupervisorFrame::Output { stream, bytes, .. } => SupervisorFrame::Output {
                container: 0,
                stream,
                bytes,
            },
            other => other,
        };
        if write_frame(&mut to, &frame).await.is_err() {
            return;
        }
    }
}
