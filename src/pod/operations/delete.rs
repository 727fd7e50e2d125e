//! Ends Pods and removes them: their supervisors are asked, those that die over it replaced, and the end waited for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::net::UnixStream;

use crate::pod::attach::{self, Frame, Notice, Request, read_frame, write_frame};
use crate::pod::changes::{Changed, Changes};
use crate::pod::sweep::{remove_ownerless, sweep};
use crate::state::{Paths, PodRecord, PodRecords, ProcessIdentity};

/// How long a supervisor may take to answer, or to begin to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same where a Pod is deleted by force. After that it is killed: this is for Pods whose supervisors hang.
const FORCE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a killed supervisor may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How often one that does not is asked again.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How often a supervisor may die while it deletes its Pod before that is given up.
const MAX_SUPERVISORS: usize = 3;

/// How Pods are to be deleted.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeleteOptions {
    /// Instead of the Pods' own grace periods. Zero deletes them by force: they are gone for everybody at once.
    pub grace: Option<Duration>,
    /// Wait until nothing is left of the Pods.
    pub waits: bool,
    /// How long to wait at most.
    pub timeout: Option<Duration>,
}

/// A Pod could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// Nobody promises its end.
    #[error("cannot delete pod {name:?}")]
    Refused {
        /// Name of the Pod.
        name: String,
        /// Why not.
        #[source]
        source: AskError,
    },
    /// It was not gone in time.
    #[error("timed out waiting for the condition on pods/{name}")]
    TimedOut {
        /// Name of the Pod.
        name: String,
    },
}

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
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// The Pod has no supervisor, and could not be released without; or its records cannot be read.
    #[error(transparent)]
    Release(#[from] anyhow::Error),
}

impl AskError {
    fn into_report(self) -> anyhow::Error {
        match self {
            Self::Release(error) => error,
            _ => self.into(),
        }
    }
}

impl DeleteError {
    /// As a report, in whose chain of causes an error of another module keeps its type.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Refused { name, source } => source.into_report().context(format!("cannot delete pod {name:?}")),
            Self::TimedOut { .. } => self.into(),
        }
    }
}

/// Deletes a Pod and waits until it is gone. Without `grace`, it has its own grace period.
///
/// # Errors
/// When it cannot be deleted, or not be waited for.
pub async fn delete_one(paths: &Paths, record: PodRecord, grace: Option<Duration>) -> anyhow::Result<()> {
    let options = DeleteOptions {
        grace,
        waits: true,
        timeout: None,
    };
    let failures = delete(paths, vec![record], &options, &mut |_| Ok(())).await?;
    failures
        .into_iter()
        .next()
        .map_or(Ok(()), |failure| Err(failure.into_report()))
}

/// Asks for the end of all Pods, all at the same time, tells of each when that is certain, and waits until they are gone. Returns what
/// went wrong with which Pod.
///
/// # Errors
/// What `tell` says, or when the Pods cannot be waited for.
pub async fn delete(
    paths: &Paths,
    records: Vec<PodRecord>,
    options: &DeleteOptions,
    tell: &mut dyn FnMut(&PodRecord) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<DeleteError>> {
    let deadline = options.timeout.map(|timeout| Instant::now() + timeout);
    let mut asked: FuturesUnordered<_> = records
        .into_iter()
        .map(|record| async move {
            let result = ask(paths, &record.uid, options.grace).await;
            (record, result)
        })
        .collect();
    let (mut failures, mut ending) = (Vec::new(), Vec::new());
    while let Some((record, result)) = asked.next().await {
        match result {
            Ok(()) => {
                tell(&record)?;
                ending.push(record);
            }
            Err(source) => failures.push(DeleteError::Refused {
                name: record.name,
                source,
            }),
        }
    }
    if options.waits {
        failures.extend(wait_until_gone(paths, ending, options.grace, deadline).await?);
    }
    Ok(failures)
}

/// Makes sure that a Pod ends: its supervisor has promised it, or it had none any more and is gone. By force it is gone in any case, but what
/// the supervisor still has to end.
async fn ask(paths: &Paths, uid: &str, grace: Option<Duration>) -> Result<(), AskError> {
    let records = PodRecords::new(paths.clone());
    let started = tokio::time::Instant::now();
    let patience = if is_force(grace) { FORCE_PATIENCE } else { PATIENCE };
    loop {
        let is_promised = match tokio::time::timeout(patience, ask_supervisor(paths, uid, grace)).await {
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
        if started.elapsed() > PATIENCE {
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
async fn ask_supervisor(paths: &Paths, uid: &str, grace: Option<Duration>) -> Result<bool, AskError> {
    let connected = attach::connect(&paths.pod_run(uid)).and_then(UnixStream::from_std);
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(false);
        }
        Err(source) => {
            let socket = paths.supervisor_socket(uid);
            return Err(AskError::Connect { socket, source });
        }
    };
    if write_frame(&mut stream, &Frame::Request(Request::Delete { grace }))
        .await
        .is_err()
    {
        return Ok(false);
    }
    loop {
        match read_frame(&mut stream).await {
            Ok(Some(Frame::Notice(Notice::Done))) => return Ok(true),
            Ok(Some(Frame::Notice(Notice::Refused { message }))) => return Err(AskError::Refused(message)),
            Ok(Some(_)) => {}
            // It has ended meanwhile.
            Ok(None) | Err(_) => return Ok(false),
        }
    }
}

/// Waits until nothing is left of the Pods. A supervisor that dies over it is replaced by the sweep, and asked again.
async fn wait_until_gone(
    paths: &Paths,
    mut ending: Vec<PodRecord>,
    grace: Option<Duration>,
    deadline: Option<Instant>,
) -> anyhow::Result<Vec<DeleteError>> {
    let records = PodRecords::new(paths.clone());
    let mut changes = Changes::of(paths)?;
    let mut died = 0;
    loop {
        ending.retain(|record| !records.is_gone(&record.uid));
        if ending.is_empty() {
            return Ok(Vec::new());
        }
        let mut exits: Vec<OwnedFd> = Vec::new();
        for record in &ending {
            let supervisor = records.get(&record.uid)?.and_then(|record| record.supervisor);
            match supervisor.map(|supervisor| supervisor.exit_event()).transpose()? {
                Some(Some(exit)) => exits.push(exit),
                // Not known yet: it will be in the record.
                None => {}
                Some(None) if records.is_gone(&record.uid) => {}
                Some(None) => {
                    died += 1;
                    if died > MAX_SUPERVISORS * ending.len() {
                        anyhow::bail!("the supervisor of pod {:?} dies again and again", record.name);
                    }
                    sweep(paths).await?;
                    ask(paths, &record.uid, grace).await.map_err(AskError::into_report)?;
                }
            }
        }
        let (watched, changed) = tokio::task::spawn_blocking(move || {
            let others: Vec<_> = exits.iter().map(AsFd::as_fd).collect();
            let changed = changes.wait(deadline, &others);
            (changes, changed)
        })
        .await?;
        changes = watched;
        if changed? == Changed::Nothing {
            let timed_out = |record: PodRecord| DeleteError::TimedOut { name: record.name };
            return Ok(ending.into_iter().map(timed_out).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::UnixListener;

    use super::*;
    use crate::pod::test_pods::TestPods;

    fn manifest(name: &str) -> serde_json::Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": "nginx:1" }] },
        })
    }

    fn options(grace_s: Option<u64>, waits: bool, timeout_ms: u64) -> DeleteOptions {
        DeleteOptions {
            grace: grace_s.map(Duration::from_secs),
            waits,
            timeout: Some(Duration::from_millis(timeout_ms)).filter(|timeout| !timeout.is_zero()),
        }
    }

    async fn delete_all(pods: &TestPods, options: DeleteOptions) -> (Vec<String>, Vec<String>) {
        let (records, damaged) = pods.records.list_all().unwrap();
        assert!(damaged.is_empty(), "{damaged:?}");
        let mut told = Vec::new();
        let failures = delete(&pods.paths, records, &options, &mut |record| {
            told.push(record.name.clone());
            Ok(())
        })
        .await
        .unwrap();
        let failures = failures
            .into_iter()
            .map(|failure| format!("{:#}", failure.into_report()));
        (told, failures.collect())
    }

    /// A supervisor that answers one request so, and then does what a real one would do.
    async fn supervise(listener: UnixListener, answer: Option<Notice>, at_end: impl FnOnce()) -> Option<Request> {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = match read_frame(&mut stream).await.unwrap() {
            Some(Frame::Request(request)) => Some(request),
            _ => None,
        };
        drop(listener);
        if let Some(notice) = answer {
            write_frame(&mut stream, &Frame::Notice(notice)).await.unwrap();
        }
        at_end();
        request
    }

    #[tokio::test]
    async fn a_supervisor_is_asked_and_the_end_waited_for() {
        let pods = TestPods::new();
        let (uid, lock) = pods.add_owned(&manifest("web"));
        let listener = UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap();
        let records = pods.records.clone();
        let supervisor = supervise(listener, Some(Notice::Done), move || {
            records.remove(&uid).unwrap();
            drop(lock);
        });
        let (request, (told, failures)) = tokio::join!(supervisor, delete_all(&pods, options(Some(5), true, 0)));
        assert_eq!(
            request,
            Some(Request::Delete {
                grace: Some(Duration::from_secs(5))
            })
        );
        assert_eq!(
            (told.as_slice(), failures.len()),
            (&["web".to_owned()][..], 0),
            "{failures:?}"
        );
    }

    #[tokio::test]
    async fn an_ended_pod_without_a_supervisor_is_gone_at_once_with_its_records() {
        let pods = TestPods::new();
        let uid = pods.add("job", &[]);
        pods.set_status(&uid, json!({ "phase": "Succeeded" }));
        let (told, failures) = delete_all(&pods, options(None, true, 0)).await;
        assert_eq!(
            (told.as_slice(), failures.len()),
            (&["job".to_owned()][..], 0),
            "{failures:?}"
        );
        assert!(pods.records.is_gone(&uid) && !pods.paths.pod_run(&uid).exists());
    }

    #[tokio::test]
    async fn a_socket_that_a_dead_supervisor_left_is_no_supervisor() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[]);
        drop(UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap());
        assert!(!ask_supervisor(&pods.paths, &uid, None).await.unwrap());
        assert_eq!(delete_all(&pods, options(None, true, 0)).await.1, Vec::<String>::new());
        assert!(pods.records.is_gone(&uid));
    }

    #[tokio::test]
    async fn a_pod_that_takes_longer_than_the_timeout_is_told() {
        let pods = TestPods::new();
        let (uid, _lock) = pods.add_owned(&manifest("web"));
        let listener = UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap();
        let supervisor = supervise(listener, Some(Notice::Done), || {});
        let (_, (told, failures)) = tokio::join!(supervisor, delete_all(&pods, options(None, true, 50)));
        assert_eq!(told, ["web"]);
        assert_eq!(failures, ["timed out waiting for the condition on pods/web"]);
        assert!(!pods.records.is_gone(&uid));
    }

    #[tokio::test]
    async fn what_a_supervisor_refuses_is_told_and_other_pods_are_deleted() {
        let pods = TestPods::new();
        let (uid, _lock) = pods.add_owned(&manifest("web"));
        let listener = UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap();
        let refusal = Notice::Refused {
            message: "not today".to_owned(),
        };
        let (other, other_lock) = pods.add_owned(&manifest("other"));
        let other_listener = UnixListener::bind(pods.paths.supervisor_socket(&other)).unwrap();
        let records = pods.records.clone();
        let (_, _, (told, failures)) = tokio::join!(
            supervise(listener, Some(refusal), || {}),
            supervise(other_listener, Some(Notice::Done), move || {
                records.remove(&other).unwrap();
                drop(other_lock);
            }),
            delete_all(&pods, options(None, true, 0))
        );
        assert_eq!(told, ["other"]);
        assert_eq!(failures, ["cannot delete pod \"web\": not today"]);
    }

    #[tokio::test]
    async fn a_pod_deleted_by_force_is_gone_when_its_supervisor_has_hidden_it() {
        let pods = TestPods::new();
        let (uid, _lock) = pods.add_owned(&manifest("web"));
        let listener = UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap();
        pods.records.hide(&uid).unwrap();
        let record = pods.records.get(&uid).unwrap().unwrap();
        let supervisor = supervise(listener, Some(Notice::Done), || {});
        let options = options(Some(0), true, 0);
        let mut tell = |_: &PodRecord| Ok(());
        let deletion = delete(&pods.paths, vec![record], &options, &mut tell);
        let (request, failures) = tokio::join!(supervisor, deletion);
        let grace = Some(Duration::ZERO);
        assert_eq!(request, Some(Request::Delete { grace }));
        assert_eq!(failures.unwrap().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervisor_that_hangs_is_killed_by_a_deletion_by_force() {
        let pods = TestPods::new();
        let (uid, lock) = pods.add_owned(&manifest("web"));
        let _never_accepts = UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap();
        // It has the Pod's lock, as a supervisor does, and does nothing.
        let stuck = std::process::Command::new("sleep")
            .arg("1000")
            .stdin(std::fs::File::from(lock.as_fd().try_clone_to_owned().unwrap()))
            .spawn();
        let mut stuck = stuck.unwrap();
        drop(lock);
        let mut record = pods.records.get(&uid).unwrap().unwrap();
        record.supervisor = ProcessIdentity::of(i32::try_from(stuck.id()).unwrap());
        pods.records.save(&record).unwrap();

        let (told, failures) = delete_all(&pods, options(Some(0), false, 0)).await;

        assert_eq!((told.len(), failures.len()), (1, 0), "{failures:?}");
        assert!(pods.records.is_gone(&uid) && !pods.paths.pod_state(&uid).exists());
        assert!(!stuck.wait().unwrap().success());
    }

    #[tokio::test]
    async fn a_supervisor_that_is_only_starting_is_waited_for() {
        let pods = TestPods::new();
        let (uid, lock) = pods.add_owned(&manifest("web"));
        let path = pods.paths.supervisor_socket(&uid);
        let records = pods.records.clone();
        let starting = async move {
            // Whoever deletes has found no socket by now, or finds it at once: both must end well.
            tokio::task::yield_now().await;
            let listener = UnixListener::bind(path).unwrap();
            supervise(listener, Some(Notice::Done), move || {
                records.remove(&uid).unwrap();
                drop(lock);
            })
            .await
        };
        let (request, (told, failures)) = tokio::join!(starting, delete_all(&pods, options(None, true, 0)));
        assert_eq!(request, Some(Request::Delete { grace: None }));
        assert_eq!((told.len(), failures.len()), (1, 0), "{failures:?}");
    }
}
