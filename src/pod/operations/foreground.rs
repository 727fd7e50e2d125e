//! Foreground Pods: each ends with the process that started it and reports all events to it.

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::create::{CreateError, write_record};
use crate::pod::launch::start_supervisor;
use crate::pod::log_place::LogPlace;
use crate::pod::pod_version::PodVersions;
pub use crate::pod::supervisor_protocol::PodNotice;
use crate::pod::supervisor_protocol::{
    Notice, OutputStream, SupervisorFrame, SupervisorRequest, read_frame, write_frame,
};
use crate::pod::sweep;
use crate::state::{Paths, PodRecord};

/// An event of a foreground Pod.
#[derive(Debug, Clone, PartialEq)]
pub enum ForegroundEvent {
    /// A container wrote something.
    Output {
        /// Index of the container in the manifest.
        container: u16,
        stream: OutputStream,
        /// The bytes; empty at the end of the stream.
        bytes: Vec<u8>,
    },
    /// Log output of the guest kernel or agent.
    GuestLog(Vec<u8>),
    /// Any other event. [`PodNotice::Finished`] is the last one.
    Notice(PodNotice),
}

/// A foreground Pod could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ForegroundStartError {
    /// A Pod with the same name has ended and cannot be released.
    #[error(transparent)]
    Release(anyhow::Error),
    #[error(transparent)]
    Create(#[from] CreateError),
}

impl ForegroundStartError {
    /// Converts to a report that keeps the types of other modules' errors.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Release(error) => error,
            Self::Create(error) => error.into_report(),
        }
    }
}

/// The connection to a foreground Pod was lost.
#[derive(Debug, thiserror::Error)]
pub enum ForegroundError {
    #[error("the Pod's supervisor died ({status}); the Pod was killed and its resources released; see {log}")]
    SupervisorDied {
        /// Its exit status.
        status: ExitStatus,
        log: LogPlace,
    },
    /// Its supervisor cannot be waited for.
    #[error(transparent)]
    Wait(#[from] io::Error),
    /// Its supervisor died, and the Pod could not be released.
    #[error(transparent)]
    Release(anyhow::Error),
}

impl ForegroundError {
    /// Converts to a report that keeps the types of other modules' errors in its chain.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Release(error) => error,
            Self::Wait(error) => error.into(),
            Self::SupervisorDied { .. } => self.into(),
        }
    }
}

/// A Pod that ends with this process.
#[derive(Debug)]
pub struct ForegroundPod {
    paths: Paths,
    record: PodRecord,
    supervisor: Child,
    frames: OwnedReadHalf,
    /// Keeps the connection open: a supervisor kills its Pod when its client is gone.
    stopper: Stopper,
}

/// Ends a foreground Pod.
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

fn create(paths: Paths, mut record: PodRecord, debug: bool) -> Result<ForegroundPod, CreateError> {
    let mut lock = write_record(&paths, &mut record)?;
    let (client, server) = std::os::unix::net::UnixStream::pair()?;
    let supervisor = match start_supervisor(&paths, &record, &mut lock, Some(server.as_fd()), debug) {
        Ok(supervisor) => supervisor,
        Err(error) => {
            PodVersions::new(&paths).remove(&record.uid)?;
            return Err(error.into());
        }
    };
    // The supervisor has its own copies. Copies in this process would hide its death.
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
        // A dead supervisor is detected by the reader of its frames.
        let _ = write_frame(&mut to, &SupervisorFrame::Request(request)).await;
    }
}

impl Stopper {
    /// Ends the Pod gracefully.
    pub async fn terminate(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        // Fails only if the Pod has ended.
        let _ = self.requests.send(SupervisorRequest::Terminate { grace: None }).await;
    }

    /// Ends the Pod gracefully; if that was requested before, kills it.
    pub async fn terminate_or_kill(&self) {
        match self.is_ending.load(Ordering::Relaxed) {
            false => self.terminate().await,
            true => self.kill().await,
        }
    }

    /// Kills the Pod.
    pub async fn kill(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        let _ = self.requests.send(SupervisorRequest::Kill).await;
    }
}

impl ForegroundPod {
    /// A handle that can end the Pod.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// If the supervisor has died. The Pod is then released.
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
        // If nothing was left, another command's sweep has released the Pod.
        match sweep::remove_ownerless(&self.paths, &self.record.uid).await {
            Ok(_) => ForegroundError::SupervisorDied {
                status,
                log: LogPlace::new(&self.paths, &self.record.uid, Some(&self.record)),
            },
            Err(error) => ForegroundError::Release(error),
        }
    }
}

/// Converts a frame to an event; other frames answer requests that are not made here.
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
