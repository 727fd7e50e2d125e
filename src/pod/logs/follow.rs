//! Follows a log until its container has ended for good.

use std::io;

use tokio::sync::{mpsc, watch};

use super::reader::{LogReader, Progress};
use super::watch::DirectoryWatch;

impl LogReader {
    /// Sends existing and new output in chunks. Ends when `over` becomes true and everything was sent, when the limit
    /// is reached, or when the receiver is gone.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn follow(mut self, mut over: watch::Receiver<bool>, chunks: mpsc::Sender<Vec<u8>>) -> io::Result<()> {
        let mut changes = DirectoryWatch::new(&[&self.dir])?;
        loop {
            // Check this before reading, to read everything that was written before the container was over.
            let was_over = *over.borrow_and_update();
            loop {
                let mut chunk = Vec::new();
                let progress = self.read(&mut chunk)?;
                if !chunk.is_empty() && chunks.send(chunk).await.is_err() {
                    return Ok(());
                }
                match progress {
                    Progress::More => {}
                    Progress::CaughtUp => break,
                    Progress::LimitReached => return Ok(()),
                }
            }
            if was_over {
                return Ok(());
            }
            tokio::select! {
                changed = changes.changed() => changed?,
                told = over.changed() => {
                    if told.is_err() {
                        // The sender is gone, so no further update can arrive.
                        return Ok(());
                    }
                }
                () = chunks.closed() => return Ok(()),
            }
        }
    }
}
