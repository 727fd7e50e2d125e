//! Makes a Pod end: asks its supervisor to delete it, or releases a Pod without a supervisor.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::pod::client::{ClientError, SupervisorClient};
use crate::pod::log_place::LogPlace;
use crate::pod::patience::{ANSWER_PATIENCE, FORCE_PATIENCE, KILL_PATIENCE, LOOK_INTERVAL};
use crate::pod::supervisor_protocol::{FrameError, Notice, SupervisorFrame, SupervisorRequest, read_frame};
use crate::pod::sweep::remove_ownerless;
use crate::state::{Paths, PodRecords, ProcessIdentity};

/// Why a Pod could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The supervisor does not answer.
    #[error("its supervisor does not answer on {}", socket.display())]
    NoAnswer {
        /// The supervisor's socket.
        socket: PathBuf,
    },
    /// The Pod has an owner, but it does not listen.
    #[error("its supervisor does not listen on {}; see {log}", socket.display())]
    NotListening {
        /// The supervisor's socket.
        socket: PathBuf,
        log: LogPlace,
    },
    /// The supervisor hangs and cannot be killed.
    #[error("its supervisor, process {pid}, does not answer and cannot be killed")]
    Unkillable {
        /// The supervisor's PID.
        pid: i32,
    },
    /// The supervisor cannot be reached.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// The supervisor's socket.
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The supervisor is of an incompatible build.
    #[error(transparent)]
    Incompatible(ClientError),
    /// The supervisor refused.
    #[error("{0}")]
    Refused(String),
    /// The Pod has no supervisor and could not be released, or its records cannot be read.
    #[error(transparent)]
    Release(#[from] anyhow::Error),
}

impl AskError {
    /// The file that the error is about, if any.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Connect { socket, .. } => Some(socket),
            _ => None,
        }
    }

    /// Converts to a report that keeps the types of other modules' errors in its chain.
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Release(error) => error,
            _ => self.into(),
        }
    }
}

/// Makes a Pod end. Returns when its supervisor has agreed to delete it, or when a Pod without a supervisor is gone. A
/// forced deletion always removes the Pod, except for processes that its supervisor still has to end.
pub async fn ask(paths: &Paths, uid: &str, grace: Option<Duration>) -> Result<(), AskError> {
    let records = PodRecords::new(paths.clone());
    let started = tokio::time::Instant::now();
    let patience = if is_force(grace) {
        FORCE_PATIENCE
    } else {
        ANSWER_PATIENCE
    };
    loop {
        let is_promised = match tokio::time::timeout(patience, ask_supervisor(paths, uid, grace)).await {
            Ok(Err(AskError::Incompatible(_))) if is_force(grace) => false,
            Ok(answer) => answer?,
            Err(_) if is_force(grace) => false,
            Err(_) => {
                return Err(AskError::NoAnswer {
                    socket: paths.supervisor_socket(uid),
                });
            }
        };
        if is_promised || remove_ownerless(paths, uid).await? || records.is_gone(uid) {
            return Ok(());
        }
        // The Pod has an owner that does not listen: it is starting, exiting, or hanging.
        if is_force(grace) && started.elapsed() > FORCE_PATIENCE {
            kill_supervisor(&records, uid).await?;
        }
        if started.elapsed() > ANSWER_PATIENCE {
            let record = records.get(uid).ok().flatten();
            return Err(AskError::NotListening {
                socket: paths.supervisor_socket(uid),
                log: LogPlace::new(paths, uid, record.as_ref()),
            });
        }
        // A listening socket or a free lock is only found by trying.
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn is_force(grace: Option<Duration>) -> bool {
    grace == Some(Duration::ZERO)
}

/// Kills a supervisor that hangs. Its Pod then has no owner.
async fn kill_supervisor(records: &PodRecords, uid: &str) -> Result<(), AskError> {
    let record = records.get(uid).map_err(anyhow::Error::from)?;
    let supervisor = record.and_then(|record| record.supervisor);
    let Some(supervisor) = supervisor.filter(ProcessIdentity::is_alive) else {
        return Ok(());
    };
    let pid = supervisor.pid();
    let killed = tokio::task::spawn_blocking(move || supervisor.kill(KILL_PATIENCE)).await;
    let is_gone = killed.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
    if is_gone {
        Ok(())
    } else {
        Err(AskError::Unkillable { pid })
    }
}

/// Asks the supervisor to delete its Pod. Returns whether it agreed; false if none listens.
pub async fn ask_supervisor(paths: &Paths, uid: &str, grace: Option<Duration>) -> Result<bool, AskError> {
    let mut supervisor = match SupervisorClient::connect(paths, uid).await {
        Ok(supervisor) => supervisor,
        Err(ClientError::Connect(source)) => {
            let socket = paths.supervisor_socket(uid);
            return Err(AskError::Connect { socket, source });
        }
        Err(ClientError::NotRunning(_) | ClientError::WentAway | ClientError::Frame(FrameError::Io(_))) => {
            return Ok(false);
        }
        Err(error) => return Err(AskError::Incompatible(error)),
    };
    if supervisor.ask(SupervisorRequest::Delete { grace }).await.is_err() {
        return Ok(false);
    }
    loop {
        match read_frame(&mut supervisor.from).await {
            Ok(Some(SupervisorFrame::Notice(Notice::Done))) => return Ok(true),
            Ok(Some(SupervisorFrame::Notice(Notice::Refused { message }))) => return Err(AskError::Refused(message)),
            Ok(Some(_)) => {}
            // The supervisor has ended meanwhile.
            Ok(None) | Err(_) => return Ok(false),
        }
    }
}
