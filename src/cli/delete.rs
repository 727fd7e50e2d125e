//! `microkube delete`.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::net::UnixStream;

use super::duration::{Timeout, duration};
use super::failure::{Failure, complain};
use super::kvm::{self, Place, Purpose};
use super::pods::arguments::{ResourceArgs, Scope, ScopeArgs, SelectorArg};
use super::pods::changes::{Changed, Changes};
use super::pods::selection::{NoSuchPod, select};
use super::print::emit;
use crate::pod;
use crate::pod::attach::{self, Frame, Notice, Request, read_frame, write_frame};
use crate::state::{Paths, PodRecord, PodRecords, ProcessIdentity};
use crate::stderr::say;

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

/// Delete Pods
///
/// Every container gets its preStop hook and its stop signal, and is killed when the grace period is over. The Pod is gone, with
/// everything it has on the host, when this command ends. With --force the Pod is gone for every command and its name free at once; its
/// containers have two seconds.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube delete pod web\n  microkube delete -f pod.yaml\n  microkube delete pods -l app=shop --grace-period=5\n  \
                  microkube delete pods --all --now"
)]
pub struct DeleteArgs {
    #[command(flatten)]
    resources: ResourceArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    selector: SelectorArg,
    /// All Pods of the namespace
    #[arg(long, conflicts_with = "selector")]
    all: bool,
    #[command(flatten)]
    grace: GraceArgs,
    /// Wait until the Pods are gone [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    wait: Option<bool>,
    /// How long to wait at most; 0 waits as long as it takes
    #[arg(long, default_value = "0s", value_parser = duration, allow_hyphen_values = true, value_name = "DURATION")]
    timeout: Timeout,
    /// No error if a Pod does not exist
    #[arg(long)]
    ignore_not_found: bool,
    /// `name`: print only pod/NAME
    #[arg(short, long, value_parser = ["name"], value_name = "FORMAT")]
    output: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
struct GraceArgs {
    /// Seconds instead of the Pod's own grace period; 0 only with --force
    #[arg(long, default_value_t = -1, allow_hyphen_values = true, value_name = "SECONDS")]
    grace_period: i64,
    /// With --grace-period=0: at once
    #[arg(long)]
    force: bool,
    /// The same as --grace-period=1
    #[arg(long)]
    now: bool,
}

impl GraceArgs {
    /// The grace that is asked for, by kubectl's rules; `None` leaves it to the Pod.
    fn period(self) -> anyhow::Result<Option<Duration>> {
        let seconds = match self.grace_period {
            -1 if self.now => 1,
            _ if self.now => bail!("--now and --grace-period cannot be specified together"),
            ..-1 => bail!("--grace-period must be -1 or greater"),
            -1 if self.force => 0,
            0 if !self.force => 1,
            seconds => seconds,
        };
        if seconds > 0 && self.force {
            bail!("--force and --grace-period greater than 0 cannot be specified together");
        }
        Ok(u64::try_from(seconds).ok().map(Duration::from_secs))
    }
}

/// Runs the verb.
pub(super) fn run(args: DeleteArgs) -> Result<ExitCode, Failure> {
    let grace = args.grace.period().map_err(Failure::usage)?;
    let (scope, consumed_stdin) = scope(&args)?;
    let paths = match kvm::go_to_pods(Purpose::Change, consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let (records, mut errors) = select(&PodRecords::new(paths.clone()), &scope)?;
    if args.ignore_not_found {
        errors.retain(|error| !error.is::<NoSuchPod>());
    }
    if records.is_empty() && errors.is_empty() {
        if !args.ignore_not_found {
            emit("No resources found\n")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let at_once = grace == Some(Duration::ZERO);
    if at_once {
        say!(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may \
             continue to run on the cluster indefinitely."
        );
    }
    let options = Options {
        grace,
        waits: args.wait.unwrap_or(!at_once),
        timeout: Some(args.timeout.0).filter(|timeout| !timeout.is_zero()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let failures = runtime.block_on(delete(&paths, records, &options, &mut |record| {
        emit(&match args.output {
            Some(_) => format!("pod/{}\n", record.name),
            None => format!(
                "pod {:?} {}deleted from {} namespace\n",
                record.name,
                if at_once { "force " } else { "" },
                record.namespace
            ),
        })
    }))?;
    errors.extend(failures);
    errors.iter().for_each(complain);
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

/// Which Pods are meant, and what was read of standard input.
fn scope(args: &DeleteArgs) -> Result<(Scope, Option<Vec<u8>>), Failure> {
    let (scope, consumed_stdin) = Scope::new(&args.resources, &args.scope, &args.selector)?;
    if args.all && !scope.names.is_empty() {
        let error = anyhow!("name cannot be provided when --all is specified");
        return Err(Failure::usage(error));
    }
    if scope.names.is_empty() && !args.all && args.selector.selector.is_none() {
        let error = anyhow!("resource(s) were provided, but no name was specified: name Pods, or use -f, -l or --all");
        return Err(Failure::usage(error));
    }
    Ok((scope, consumed_stdin))
}

/// Deletes a Pod and waits until it is gone. Without `grace`, it has its own grace period.
pub(super) async fn delete_one(paths: &Paths, record: PodRecord, grace: Option<Duration>) -> anyhow::Result<()> {
    let options = Options {
        grace,
        waits: true,
        timeout: None,
    };
    let failures = delete(paths, vec![record], &options, &mut |_| Ok(())).await?;
    failures.into_iter().next().map_or(Ok(()), Err)
}

#[derive(Debug, Clone, Copy)]
struct Options {
    grace: Option<Duration>,
    waits: bool,
    timeout: Option<Duration>,
}

/// Asks for the end of all Pods, all at the same time, tells of each when that is certain, and waits until they are gone. Returns what
/// went wrong.
async fn delete(
    paths: &Paths,
    records: Vec<PodRecord>,
    options: &Options,
    tell: &mut dyn FnMut(&PodRecord) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<anyhow::Error>> {
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
            Err(error) => failures.push(error.context(format!("cannot delete pod {:?}", record.name))),
        }
    }
    if options.waits {
        failures.extend(wait_until_gone(paths, ending, options.grace, deadline).await?);
    }
    Ok(failures)
}

/// Makes sure that a Pod ends: its supervisor has promised it, or it had none any more and is gone. By force it is gone in any case, but what
/// the supervisor still has to end.
async fn ask(paths: &Paths, uid: &str, grace: Option<Duration>) -> anyhow::Result<()> {
    let records = PodRecords::new(paths.clone());
    let started = tokio::time::Instant::now();
    let patience = if is_force(grace) { FORCE_PATIENCE } else { PATIENCE };
    loop {
        let is_promised = match tokio::time::timeout(patience, ask_supervisor(paths, uid, grace)).await {
            Ok(answer) => answer?,
            Err(_) if is_force(grace) => false,
            Err(_) => bail!(
                "its supervisor does not answer on {}",
                paths.supervisor_socket(uid).display()
            ),
        };
        if is_promised || pod::remove_ownerless(paths, uid).await? || records.is_gone(uid) {
            return Ok(());
        }
        // It has an owner that does not listen: it has only just been started, or is about to be gone, or hangs.
        if is_force(grace) && started.elapsed() > FORCE_PATIENCE {
            kill_supervisor(&records, uid).await?;
        }
        if started.elapsed() > PATIENCE {
            bail!(
                "its supervisor does not listen on {} (its log is in {})",
                paths.supervisor_socket(uid).display(),
                paths.logs().display()
            );
        }
        // Whether somebody listens, or a lock is free, is only found out by trying.
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn is_force(grace: Option<Duration>) -> bool {
    grace == Some(Duration::ZERO)
}

/// Kills a supervisor that does not do its work. Its Pod has no owner then.
async fn kill_supervisor(records: &PodRecords, uid: &str) -> anyhow::Result<()> {
    let supervisor = records.get(uid)?.and_then(|record| record.supervisor);
    let Some(supervisor) = supervisor.filter(ProcessIdentity::is_alive) else {
        return Ok(());
    };
    let pid = supervisor.pid();
    if !tokio::task::spawn_blocking(move || supervisor.kill(KILL_PATIENCE)).await?? {
        bail!("its supervisor, process {pid}, does not answer and cannot be killed");
    }
    Ok(())
}

/// Asks the supervisor to delete its Pod. Returns whether it will; not if none listens.
async fn ask_supervisor(paths: &Paths, uid: &str, grace: Option<Duration>) -> anyhow::Result<bool> {
    let socket = paths.supervisor_socket(uid);
    let connected = attach::connect(&paths.pod_run(uid)).and_then(UnixStream::from_std);
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", socket.display())),
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
            Ok(Some(Frame::Notice(Notice::Refused { message }))) => bail!("{message}"),
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
) -> anyhow::Result<Vec<anyhow::Error>> {
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
                        bail!("the supervisor of pod {:?} dies again and again", record.name);
                    }
                    pod::sweep(paths).await?;
                    ask(paths, &record.uid, grace).await?;
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
            let timed_out = |record: &PodRecord| anyhow!("timed out waiting for the condition on pods/{}", record.name);
            return Ok(ending.iter().map(timed_out).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::UnixListener;

    use super::super::pods::test_pods::TestPods;
    use super::*;

    fn grace(grace_period: i64, force: bool, now: bool) -> Result<Option<u64>, String> {
        let args = GraceArgs {
            grace_period,
            force,
            now,
        };
        args.period()
            .map(|period| period.map(|period| period.as_secs()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn grace_periods_follow_the_rules_of_kubectl() {
        assert_eq!(grace(-1, false, false), Ok(None));
        assert_eq!(grace(5, false, false), Ok(Some(5)));
        assert_eq!(grace(0, false, false), Ok(Some(1)), "a whole second without --force");
        assert_eq!(grace(0, true, false), Ok(Some(0)));
        assert_eq!(grace(-1, true, false), Ok(Some(0)));
        assert_eq!(grace(-1, false, true), Ok(Some(1)));
        assert!(grace(5, false, true).unwrap_err().contains("--now and --grace-period"));
        assert!(
            grace(5, true, false)
                .unwrap_err()
                .contains("--force and --grace-period")
        );
        assert!(
            grace(-1, true, true)
                .unwrap_err()
                .contains("--force and --grace-period")
        );
        assert!(grace(-2, false, false).unwrap_err().contains("-1 or greater"));
    }

    fn manifest(name: &str) -> serde_json::Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": "nginx:1" }] },
        })
    }

    fn options(grace_s: Option<u64>, waits: bool, timeout_ms: u64) -> Options {
        Options {
            grace: grace_s.map(Duration::from_secs),
            waits,
            timeout: Some(Duration::from_millis(timeout_ms)).filter(|timeout| !timeout.is_zero()),
        }
    }

    async fn delete_all(pods: &TestPods, options: Options) -> (Vec<String>, Vec<String>) {
        let scope = Scope::default();
        let (records, errors) = select(&pods.records, &scope).unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        let mut told = Vec::new();
        let failures = delete(&pods.paths, records, &options, &mut |record| {
            told.push(record.name.clone());
            Ok(())
        })
        .await
        .unwrap();
        (told, failures.iter().map(|error| format!("{error:#}")).collect())
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
