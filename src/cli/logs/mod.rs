//! `microkube logs`: shows the output of containers.

mod source;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};

use self::source::Source;
use super::completion;
use super::failure::{Failure, complain};
use super::pods::arguments::Scope;
use super::pods::selection::select;
use super::pods_host::{self, Place, Purpose};
use super::print::{OutputError, for_terminal};
use super::selector::Selector;
use super::stream::target;
use crate::pod::logs::{LogReader, Progress, ReadOptions};
use crate::pod::operations::logs::wait_until_over;
use crate::pod::recorded_pod::{self, RecordedPod};
use crate::state::{Paths, PodRecords};
use crate::stderr::{report, say};

/// Lines shown of each log when a selector chooses the Pods.
const DEFAULT_TAIL_FOR_SELECTOR: i64 = 10;

/// How many bytes of an incomplete line are held back when several logs are mixed.
const MAX_HELD_BYTES: usize = 64 << 10;

/// Print the logs of containers
///
/// With -f, streams the log until the container ends for good, across its restarts.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube logs web\n  microkube logs -f --tail=20 web -c sidecar\n  microkube logs -p web\n  microkube logs -l app=shop --all-containers --prefix"
)]
pub struct LogsArgs {
    /// Pod name: NAME or pod/NAME
    #[arg(value_name = "POD", add = completion::pod_names())]
    pod: Option<String>,
    /// Container name, same as -c
    #[arg(value_name = "CONTAINER", add = completion::containers())]
    inline_container: Option<String>,
    /// Container name [default: the kubectl.kubernetes.io/default-container annotation, or the first container]
    #[arg(short, long, value_name = "NAME", add = completion::containers())]
    container: Option<String>,
    /// Stream the log
    #[arg(short, long)]
    follow: bool,
    /// Print the log of the previous instance of the container
    #[arg(short, long)]
    previous: bool,
    /// Only print lines newer than a relative duration such as 5s, 2m or 3h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<SignedDuration>,
    /// Only print lines after a time (RFC 3339), such as 2026-11-21T10:00:00Z
    #[arg(long, value_name = "TIME")]
    since_time: Option<Timestamp>,
    /// Number of most recent lines to print; -1: all [default: -1, or 10 with a selector]
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Include timestamps on each line
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, value_name = "true|false", hide_default_value = true, hide_possible_values = true)]
    timestamps: bool,
    /// Print the logs of all containers of the Pods
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, value_name = "true|false", hide_default_value = true, hide_possible_values = true)]
    all_containers: bool,
    /// Prefix each line with its source (Pod and container name)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, value_name = "true|false", hide_default_value = true, hide_possible_values = true)]
    prefix: bool,
    /// Label selector to filter Pods
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = str::parse::<Selector>)]
    selector: Option<Selector>,
    /// Maximum number of logs to follow at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    max_log_requests: usize,
    /// Maximum number of bytes of each log to print
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<u64>,
    /// Continue with the other logs if one cannot be read
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, value_name = "true|false", hide_default_value = true, hide_possible_values = true)]
    ignore_errors: bool,
    /// Namespace of the Pods
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
}

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration such as 5s, 2m or 3h")]
struct NotADuration(String);

/// Parses a duration in Go's notation: `90s`, `1h30m`, `0`.
fn parse_duration(text: &str) -> Result<SignedDuration, NotADuration> {
    if text == "0" {
        return Ok(SignedDuration::ZERO);
    }
    text.parse().map_err(|_| NotADuration(text.to_owned()))
}

impl LogsArgs {
    fn container(&self) -> Option<&str> {
        self.container.as_deref().or(self.inline_container.as_deref())
    }

    /// Refuses what kubectl refuses.
    fn check(&self) -> anyhow::Result<()> {
        if self.pod.is_none() && self.selector.is_none() {
            bail!(
                "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the \
                 logs command\nSee 'microkube logs -h' for help and examples"
            );
        }
        if self.pod.is_some() && self.selector.is_some() {
            bail!("only a selector (-l) or a POD name is allowed");
        }
        if self.container.is_some() && self.inline_container.is_some() {
            bail!("only one of -c or an inline [CONTAINER] arg is allowed");
        }
        if let (true, Some(container)) = (self.all_containers, self.container()) {
            bail!("--all-containers=true should not be specified with container name {container}");
        }
        if self.since.is_some() && self.since_time.is_some() {
            bail!("at most one of --since-time and --since may be used");
        }
        if self.since.is_some_and(|since| since.is_negative()) {
            bail!("--since must be greater than 0");
        }
        if self.tail.is_some_and(|tail| tail < -1) {
            bail!("--tail must be greater than or equal to -1");
        }
        if self.limit_bytes == Some(0) {
            bail!("--limit-bytes must be greater than 0");
        }
        Ok(())
    }

    fn options(&self, target: &RecordedPod, container: &str, now: Timestamp) -> anyhow::Result<ReadOptions> {
        let tail = self.tail.unwrap_or(match self.selector {
            Some(_) => DEFAULT_TAIL_FOR_SELECTOR,
            None => -1,
        });
        let since = self.since.filter(|since| !since.is_zero());
        let since = since.map(|since| now.checked_sub(since)).transpose();
        Ok(ReadOptions {
            tail_lines: u64::try_from(tail).ok(),
            since: since.context("--since goes back too far")?.or(self.since_time),
            limit_bytes: self.limit_bytes,
            timestamps: self.timestamps,
            prefix: match self.prefix {
                true => format!("[pod/{}/{container}] ", target.record.name),
                false => String::new(),
            },
            follow: self.follow,
        })
    }
}

pub(super) fn run(args: LogsArgs) -> Result<ExitCode, Failure> {
    args.check().map_err(Failure::from)?;
    let paths = match pods_host::go_to_pods(Purpose::Look, None)? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let (sources, incomplete) = sources(&args, &paths)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let written = runtime.block_on(show(&args, &paths, sources, &mut std::io::stdout().lock()));
    written?;
    Ok(ExitCode::from(u8::from(incomplete)))
}

/// The selected logs, and whether there may be others that cannot be found.
fn sources(args: &LogsArgs, paths: &Paths) -> anyhow::Result<(Vec<Source>, bool)> {
    let mut incomplete = false;
    let targets = match (&args.pod, &args.selector) {
        (Some(pod), _) => vec![target::find(paths, &args.namespace, pod)?],
        (None, selector) => {
            let records = PodRecords::new(paths.clone());
            let scope = Scope {
                selector: selector.clone().unwrap_or_default(),
                ..Scope::of_names(Some(&args.namespace), [])
            };
            let (mut selected, errors) = select(&records, &scope)?;
            errors.iter().for_each(complain);
            incomplete = !errors.is_empty();
            selected.sort_by(|a, b| a.name.cmp(&b.name));
            if selected.is_empty() && !incomplete {
                say!("No resources found in {} namespace.", for_terminal(&args.namespace));
            }
            let targets = selected.into_iter().map(|record| RecordedPod::of(&records, record));
            targets.collect::<Result<_, _>>()?
        }
    };
    let mut sources = Vec::new();
    for target in targets {
        let names = names(args, &target)?;
        sources.extend(names.into_iter().map(|container| Source {
            target: target.clone(),
            container,
        }));
    }
    if args.follow && sources.len() > args.max_log_requests.max(1) {
        bail!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use --max-log-requests to \
             increase the limit",
            sources.len(),
            args.max_log_requests
        );
    }
    Ok((sources, incomplete))
}

/// The selected containers of a Pod.
fn names(args: &LogsArgs, target: &RecordedPod) -> anyhow::Result<Vec<String>> {
    let pod = &target.record.pod;
    if args.all_containers {
        // In start order.
        let mut names: Vec<String> = recorded_pod::containers(pod)
            .map(|container| container.name.clone())
            .collect();
        let spec = pod.spec.as_ref();
        let mains = spec.map_or(0, |spec| spec.containers.len());
        let ephemeral = spec.and_then(|spec| spec.ephemeral_containers.as_ref());
        let regular = names.len().saturating_sub(ephemeral.map_or(0, Vec::len));
        if let Some(regular) = names.get_mut(..regular) {
            regular.rotate_left(mains.min(regular.len()));
        }
        return Ok(names);
    }
    match args.container() {
        Some(name) if recorded_pod::container(pod, name).is_none() => {
            bail!("container {name} is not valid for pod {}", target.record.name)
        }
        name => Ok(vec![target::named_or_default(target, name, false)?.name.clone()]),
    }
}

/// Writes the logs: concurrently if they are followed, otherwise one after another.
async fn show(args: &LogsArgs, paths: &Paths, sources: Vec<Source>, to: &mut impl Write) -> anyhow::Result<()> {
    let now = Timestamp::now();
    if args.follow && sources.len() > 1 {
        return follow_all(args, paths, sources, now, to).await;
    }
    for source in sources {
        let result = show_one(args, paths, &source, now, to).await;
        match result {
            Err(error) if args.ignore_errors && !error.is::<OutputError>() => report(&error),
            result => result?,
        }
    }
    Ok(())
}

fn report(error: &anyhow::Error) {
    say!("error: {}", for_terminal(&format!("{error:#}")));
}

fn open(args: &LogsArgs, paths: &Paths, source: &Source, now: Timestamp) -> anyhow::Result<LogReader> {
    let (dir, attempt) = source.log(paths, args.previous)?;
    if let Some(reason) = source.start_error() {
        report!("{reason}");
    }
    let options = args.options(&source.target, &source.container, now)?;
    let of = || format!("cannot read the log of container {:?}", source.container);
    LogReader::open(dir, attempt, options).with_context(of)
}

async fn show_one(
    args: &LogsArgs,
    paths: &Paths,
    source: &Source,
    now: Timestamp,
    to: &mut impl Write,
) -> anyhow::Result<()> {
    let mut reader = open(args, paths, source, now)?;
    if args.follow {
        let (chunks, mut received) = mpsc::channel(4);
        let follow = tokio::spawn(follow(paths.clone(), source.clone(), args.previous, reader, chunks));
        while let Some(chunk) = received.recv().await {
            write_flushed(to, &chunk)?;
        }
        return follow.await?;
    }
    loop {
        let mut chunk = Vec::new();
        let progress = reader.read(&mut chunk)?;
        write_flushed(to, &chunk)?;
        if progress != Progress::More {
            return Ok(());
        }
    }
}

/// Follows one log until its container has ended.
async fn follow(
    paths: Paths,
    source: Source,
    previous: bool,
    reader: LogReader,
    chunks: mpsc::Sender<Vec<u8>>,
) -> anyhow::Result<()> {
    // A previous container has already ended.
    let (over, is_over) = watch::channel(previous);
    let telling = async {
        if !previous {
            wait_until_over(&paths, &source.target.record.uid, &source.container).await;
            over.send_replace(true);
        }
        std::future::pending::<()>().await
    };
    tokio::select! {
        followed = reader.follow(is_over, chunks) => Ok(followed.with_context(|| format!("cannot follow the log of container {:?}", source.container))?),
        () = telling => Ok(()),
    }
}

/// Follows several logs; whole lines are mixed.
async fn follow_all(
    args: &LogsArgs,
    paths: &Paths,
    sources: Vec<Source>,
    now: Timestamp,
    to: &mut impl Write,
) -> anyhow::Result<()> {
    let (lines, mut received) = mpsc::channel::<anyhow::Result<Vec<u8>>>(4);
    for source in sources {
        let opened = open(args, paths, &source, now);
        let (paths, previous, lines) = (paths.clone(), args.previous, lines.clone());
        tokio::spawn(async move {
            let followed = async {
                let (chunks, mut received) = mpsc::channel(4);
                let follow = tokio::spawn(follow(paths, source, previous, opened?, chunks));
                let mut held = Vec::new();
                while let Some(chunk) = received.recv().await {
                    held.extend_from_slice(&chunk);
                    let whole = memchr::memrchr(b'\n', &held).map_or(0, |end| end + 1);
                    let mut rest = held.split_off(whole);
                    if rest.len() > MAX_HELD_BYTES {
                        held.append(&mut rest);
                        held.push(b'\n');
                    }
                    let whole = std::mem::replace(&mut held, rest);
                    if !whole.is_empty() && lines.send(Ok(whole)).await.is_err() {
                        return Ok(());
                    }
                }
                if !held.is_empty() {
                    held.push(b'\n');
                    let _ = lines.send(Ok(held)).await;
                }
                follow.await?
            };
            if let Err(error) = followed.await {
                // Fails if the verb has ended.
                let _ = lines.send(Err(error)).await;
            }
        });
    }
    drop(lines);
    while let Some(lines) = received.recv().await {
        match lines {
            Ok(lines) => write_flushed(to, &lines)?,
            Err(error) if args.ignore_errors => report(&error),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_flushed(to: &mut impl Write, bytes: &[u8]) -> Result<(), OutputError> {
    to.write_all(bytes)?;
    Ok(to.flush()?)
}
