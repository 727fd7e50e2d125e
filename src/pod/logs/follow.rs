//! Follows a log until its container is over.

use std::io;

use tokio::sync::{mpsc, watch};

use super::reader::{LogReader, Progress};
use super::watch::DirectoryWatch;

impl LogReader {
    /// Sends all there is, and what comes, in pieces. Ends when `over` says that nothing more will be written and all was sent, when
    /// the limit is reached, or when nobody receives any more.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn follow(mut self, mut over: watch::Receiver<bool>, chunks: mpsc::Sender<Vec<u8>>) -> io::Result<()> {
        let mut changes = DirectoryWatch::new(&[&self.dir])?;
        loop {
            // Asked before reading: what was written before the container was over is then read.
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
                        // Nobody can tell any more.
                        return Ok(());
                    }
                }
                () = chunks.closed() => return Ok(()),
            }
        }
    }
}
