//! The command line that is attached to a foreground Pod.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::order::Order;
use crate::pod::supervisor_protocol::{PodNotice, SupervisorFrame, SupervisorRequest, read_frame, write_frame};

/// Maximum number of frames in the queue to the client.
const QUEUED_FRAMES: usize = 32;

#[derive(Debug)]
pub struct ForegroundClient {
    frames: mpsc::Sender<SupervisorFrame>,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
}

impl ForegroundClient {
    /// Serves the client on the socket that this process inherited from it.
    pub fn serve(stream: std::os::unix::net::UnixStream, orders: mpsc::Sender<Order>) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (from, mut to) = tokio::net::UnixStream::from_std(stream)?.into_split();
        let (frames, mut queue) = mpsc::channel::<SupervisorFrame>(QUEUED_FRAMES);
        let writer = tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                // Stop when the client is gone. Senders detect that their channel is closed.
                if write_frame(&mut to, &frame).await.is_err() {
                    break;
                }
            }
        });
        let reader = tokio::spawn(read_requests(from, orders));
        Ok(Self { frames, writer, reader })
    }

    /// Returns a sender for frames to the client.
    pub fn frames(&self) -> mpsc::Sender<SupervisorFrame> {
        self.frames.clone()
    }

    /// Sends the last notice, and waits until it is written.
    pub async fn finish(self, notice: PodNotice) {
        let _ = self.frames.send(notice.into()).await;
        drop(self.frames);
        self.reader.abort();
        let _ = self.writer.await;
    }
}

/// Turns the client's frames into orders. A client that hangs up without an order was killed, so its Pod is killed too.
async fn read_requests(mut from: tokio::net::unix::OwnedReadHalf, orders: mpsc::Sender<Order>) {
    loop {
        let order = match read_frame(&mut from).await {
            Ok(Some(SupervisorFrame::Request(SupervisorRequest::Terminate { grace }))) => Order::Terminate {
                grace,
                deletion: true,
                noted: None,
            },
            Ok(Some(SupervisorFrame::Request(SupervisorRequest::Kill)) | None) | Err(_) => Order::Kill,
            Ok(Some(_)) => continue,
        };
        let last = matches!(order, Order::Kill);
        if orders.send(order).await.is_err() || last {
            return;
        }
    }
}
