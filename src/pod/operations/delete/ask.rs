//! Sees to it that a Pod ends: its supervisor promises it, or there is none any more and the Pod is released.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::pod::client::{ClientError, SupervisorClient};
use crate::pod::patience::{ANSWER_PATIENCE, FORCE_PATIENCE, KILL_PATIENCE, LOOK_INTERVAL};
use crate::pod::supervisor_protocol::{FrameError, Notice, SupervisorFrame, SupervisorRequest, read_frame};
use crate::pod::sweep::remove_ownerless;
use crate::state::{Paths, PodRecords, ProcessIdentity};

/// Why a Pod's supervisor does not delete it.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is there and says nothing.
    #[error("its supervisor does not answer on {}", socket.display())]
    NoAnswer {
        /// Where it was asked.
        socket: PathBuf,
    },
    /// It is there and cannot be asked.
    #[error("its supervisor does not listen on {} (its log is in {})", socket.display(), logs.display())]
    NotListening {
        /// Where it should listen.
        socket: PathBuf,
        /// Where its log is.
        logs: PathBuf,
    },
    /// It hangs, and the kernel does not end it.
    #[error("its supervisor, process {pid}, does not answer and cannot be killed")]
    Unkillable {
        /// Its process.
        pid: i32,
    },
    /// It cannot be reached.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// Where it listens.
        socket: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// It is of another build.
    #[error(transparent)]
    Incompatible(ClientError),
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// The Pod has no supervisor, and could not be released without; or its records cannot be read.
    #[error(transparent)]
    Release(#[from] anyhow::Error),
}

impl AskError {
    /// The file that cannot be used.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Connect { socket, .. } => Some(socket),
            _ => None,
        }
    }

    /// As a report, in whose chain of causes an error of another module keeps its type.
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Release(error) => error,
            _ => self.into(),
        }
    }
}

/// Makes sure that a Pod ends: its supervisor has promised it, or it had none any more and is gone. By force it is gone in any case, but what
/// the supervisor still has to end.
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
        // It has an owner that does not listen: it has only just been started, or is about to be gone, or hangs.
        if is_force(grace) && started.elapsed() > FORCE_PATIENCE {
            kill_supervisor(&records, uid).await?;
        }
        if started.elapsed() > ANSWER_PATIENCE {
            return Err(AskError::NotListening {
                socket: paths.supervisor_socket(uid),
                logs: paths.logs(),
            });
        }
        // Whether somebody listens, or a lock is free, is only found out by trying.
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn is_force(grace: Option<Duration>) -> bool {
    grace == Some(Duration::ZERO)
}

/// Kills a supervisor that does not do its work. Its Pod has no owner then.
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

/// Asks the supervisor to delete its Pod. Returns whether it will; not if none listens.
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
            // It has ended meanwhile.
            Ok(None) | Err(_) => return Ok(false),
        }
    }
}
