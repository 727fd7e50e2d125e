//! Pods in the foreground: each ends with the process that started it, and reports to it all that happens.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::create::CreateError;
use crate::pod::launch::{start_supervisor, supervisor_log};
pub use crate::pod::supervisor_protocol::PodNotice;
use crate::pod::supervisor_protocol::{
    Notice, OutputStream, SupervisorFrame, SupervisorRequest, read_frame, write_frame,
};
use crate::pod::sweep;
use crate::state::{Paths, PodRecord, PodRecords};

/// What happens to a Pod in the foreground.
#[derive(Debug, Clone, PartialEq)]
pub enum ForegroundEvent {
    /// A container wrote something.
    Output {
        /// Index of the container in the manifest.
        container: u16,
        /// The stream.
        stream: OutputStream,
        /// The bytes; none when the stream has ended.
        bytes: Vec<u8>,
    },
    /// The guest's kernel or agent wrote this to the log.
    GuestLog(Vec<u8>),
    /// Anything else. [`PodNotice::Finished`] is the last event.
    Notice(PodNotice),
}

/// A Pod in the foreground could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ForegroundStartError {
    /// A Pod of the same name that has ended cannot be released.
    #[error(transparent)]
    Release(anyhow::Error),
    /// It could not be created.
    #[error(transparent)]
    Create(#[from] CreateError),
}

impl ForegroundStartError {
    /// As a report in which errors of other modules keep their types.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Release(error) => error,
            Self::Create(error) => error.into_report(),
        }
    }
}

/// A Pod in the foreground was lost.
#[derive(Debug, thiserror::Error)]
pub enum ForegroundError {
    /// Its supervisor died.
    #[error("the supervisor of the Pod died ({status}); the Pod was ended and released. Its log is {}", log.display())]
    SupervisorDied {
        /// How.
        status: ExitStatus,
        /// Where its log is.
        log: PathBuf,
    },
    /// Its supervisor cannot be waited for.
    #[error(transparent)]
    Wait(#[from] io::Error),
    /// Its supervisor died, and the Pod cannot be released.
    #[error(transparent)]
    Release(anyhow::Error),
}

impl ForegroundError {
    /// As a report, in whose chain of causes an error of another module keeps its type.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Release(error) => error,
            Self::Wait(error) => error.into(),
            Self::SupervisorDied { .. } => self.into(),
        }
    }
}

/// A Pod in the foreground.
#[derive(Debug)]
pub struct ForegroundPod {
    paths: Paths,
    record: PodRecord,
    supervisor: Child,
    frames: OwnedReadHalf,
    /// A supervisor whose client is gone kills its Pod.
    stopper: Stopper,
}

/// Ends a Pod in the foreground.
#[derive(Debug, Clone)]
pub struct Stopper {
    requests: mpsc::Sender<SupervisorRequest>,
    is_ending: Arc<AtomicBool>,
}

/// Starts a Pod that ends with this process.
///
/// # Errors
/// See [`ForegroundStartError`].
pub async fn start(paths: Paths, record: PodRecord, debug: bool) -> Result<ForegroundPod, ForegroundStartError> {
    sweep::free_name(&paths, &record.namespace, &record.name)
        .await
        .map_err(ForegroundStartError::Release)?;
    Ok(create(paths, record, debug)?)
}

fn create(paths: Paths, record: PodRecord, debug: bool) -> Result<ForegroundPod, CreateError> {
    let records = PodRecords::new(paths.clone());
    let lock = records.create(&record)?;
    let (client, server) = std::os::unix::net::UnixStream::pair()?;
    let supervisor = match start_supervisor(&paths, &record, lock.as_fd(), Some(server.as_fd()), debug) {
        Ok(supervisor) => supervisor,
        Err(error) => {
            records.remove(&record.uid)?;
            return Err(error.into());
        }
    };
    // The supervisor has copies; those of this process would hide its death.
    drop((lock, server));
    client.set_nonblocking(true)?;
    let (frames, to_supervisor) = tokio::net::UnixStream::from_std(client)?.into_split();
    let (requests, queue) = mpsc::channel(4);
    tokio::spawn(send_requests(queue, to_supervisor));
    Ok(ForegroundPod {
        paths,
        record,
        supervisor,
        frames,
        stopper: Stopper {
            requests,
            is_ending: Arc::default(),
        },
    })
}

async fn send_requests(mut requests: mpsc::Receiver<SupervisorRequest>, mut to: OwnedWriteHalf) {
    while let Some(request) = requests.recv().await {
        // A supervisor that is gone is noticed where its frames are read.
        let _ = write_frame(&mut to, &SupervisorFrame::Request(request)).await;
    }
}

impl Stopper {
    /// Ends the Pod gracefully.
    pub async fn terminate(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        // Fails where the Pod has ended.
        let _ = self.requests.send(SupervisorRequest::Terminate { grace: None }).await;
    }

    /// Ends the Pod gracefully; at once where that is under way already.
    pub async fn terminate_or_kill(&self) {
        match self.is_ending.load(Ordering::Relaxed) {
            false => self.terminate().await,
            true => self.kill().await,
        }
    }

    /// Ends the Pod at once.
    pub async fn kill(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        let _ = self.requests.send(SupervisorRequest::Kill).await;
    }
}

impl ForegroundPod {
    /// What ends it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// What happens next.
    ///
    /// # Errors
    /// When the supervisor has died. The Pod is released then.
    pub async fn next(&mut self) -> Result<ForegroundEvent, ForegroundError> {
        loop {
            let event = match read_frame(&mut self.frames).await {
                Ok(Some(frame)) => event(frame),
                Ok(None) | Err(_) => return Err(self.supervisor_died().await),
            };
            if let Some(ForegroundEvent::Notice(PodNotice::Finished { .. })) = event {
                let _ = self.supervisor.wait();
            }
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    async fn supervisor_died(&mut self) -> ForegroundError {
        let status = match self.supervisor.wait() {
            Ok(status) => status,
            Err(error) => return error.into(),
        };
        // If nothing was left, the sweep of another command was faster.
        match sweep::remove_ownerless(&self.paths, &self.record.uid).await {
            Ok(_) => ForegroundError::SupervisorDied {
                status,
                log: supervisor_log(&self.paths, &self.record),
            },
            Err(error) => ForegroundError::Release(error),
        }
    }
}

/// The event in a frame; other frames answer requests that are not made here.
fn event(frame: SupervisorFrame) -> Option<ForegroundEvent> {
    match frame {
        SupervisorFrame::Output {
            container,
            stream,
            bytes,
        } => Some(ForegroundEvent::Output {
            container,
            stream,
            bytes,
        }),
        SupervisorFrame::Log(bytes) => Some(ForegroundEvent::GuestLog(bytes)),
        SupervisorFrame::Notice(Notice::Pod(notice)) => Some(ForegroundEvent::Notice(notice)),
        SupervisorFrame::Notice(_) | SupervisorFrame::Request(_) | SupervisorFrame::Stdin(_) => None,
    }
}
