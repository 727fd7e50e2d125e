//! The supervisor's side of a conversation: frames on their way to a command line.

use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

use crate::pod::supervisor_protocol::{Notice, SupervisorFrame, write_frame};

/// Frames on their way to a command line.
pub const QUEUED_FRAMES: usize = 16;

/// Passes frames on up to the last one of a conversation, or until nobody reads them.
pub async fn write_all(mut queue: mpsc::Receiver<SupervisorFrame>, mut to: OwnedWriteHalf) {
    let mut is_last = false;
    while !is_last && let Some(frame) = queue.recv().await {
        is_last = matches!(
            frame,
            SupervisorFrame::Notice(Notice::Exited { .. } | Notice::InputEnded | Notice::Refused { .. })
        );
        // An attached container's index means nothing to who has asked for it by name.
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
