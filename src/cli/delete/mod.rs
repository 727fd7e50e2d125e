//! `microkube delete`.

mod cascade;
mod objects;
mod replaced;
mod selected;

use std::io::{BufRead, Read as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{anyhow, bail};

use self::cascade::Cascade;
use self::objects::Deleted;
pub(super) use self::replaced::ReplacedArgs;
use self::selected::Selected;
use super::duration::{Timeout, duration};
use super::failure::{Failure, complain};
use super::objects::arguments::{FieldSelectorArg, ObjectArgs, Requested};
use super::objects::dry_run::DryRun;
use super::objects::listing::Reader;
use super::pods::arguments::{ScopeArgs, SelectorArg};
use super::pods_host::{self, Place, Purpose};
use super::print::emit;
use crate::pod::operations::delete::DeleteOptions;
use crate::state::Paths;
use crate::stderr::say;

/// Maximum length of the answer to --interactive.
const MAX_ANSWER_BYTES: u64 = 1024;

/// Delete Pods and other objects by file names, stdin, names or label selector
///
/// Each container of a Pod runs its preStop hook, receives its stop signal, and is killed when the grace period ends.
/// The command returns when the Pods and their resources on the host are gone. With --force, the Pods disappear from
/// all commands and their names are free immediately; their containers get two seconds to stop. Deleting a namespace
/// deletes all objects in it. Objects with finalizers stay until the finalizers are removed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube delete pod web\n  microkube delete -f pod.yaml\n  microkube delete pods -l app=shop --grace-period=5\n  \
                  microkube delete pods --all --now\n  microkube delete cm/settings secret/tls\n  microkube delete namespace shop"
)]
pub struct DeleteArgs {
    #[command(flatten)]
    objects: ObjectArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    selector: SelectorArg,
    #[command(flatten)]
    field_selector: FieldSelectorArg,
    /// Delete all objects of these types in the namespace
    #[arg(long, conflicts_with = "selector")]
    all: bool,
    #[command(flatten)]
    grace: GraceArgs,
    /// Wait for the objects to be gone before returning [default: true, or false with --force]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    wait: Option<bool>,
    /// How long to wait before giving up; 0 means no limit
    #[arg(long, default_value = "0s", value_parser = duration, allow_hyphen_values = true, value_name = "DURATION")]
    timeout: Timeout,
    /// Don't fail if an object does not exist
    #[arg(long)]
    ignore_not_found: bool,
    /// Print what would be deleted, without deleting it: client, server or none
    #[arg(long, value_enum, default_value_t = DryRun::None, num_args = 0..=1, require_equals = true, default_missing_value = "client", value_name = "WHERE")]
    dry_run: DryRun,
    /// Delete the dependents of the deleted objects (background, foreground) or keep them (orphan)
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_value_t = Cascade::Background, default_missing_value = "background", value_name = "HOW")]
    cascade: Cascade,
    /// Show what would be deleted, and delete it only after "y"
    #[arg(short, long)]
    interactive: bool,
    /// Output format; use "name" for shorter output (pod/NAME)
    #[arg(short, long, value_parser = ["name"], value_name = "FORMAT")]
    output: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
struct GraceArgs {
    /// Give the Pods this many seconds to terminate; -1 means each Pod's own grace period; without --force, 0 means 1
    #[arg(long, default_value_t = -1, allow_hyphen_values = true, value_name = "SECONDS")]
    grace_period: i64,
    /// Delete immediately, without graceful termination
    #[arg(long)]
    force: bool,
    /// Signal the Pods to shut down immediately (same as --grace-period=1)
    #[arg(long)]
    now: bool,
}

impl GraceArgs {
    /// The requested grace period by kubectl's rules; `None` for the Pod's own.
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

pub(super) fn run(args: DeleteArgs) -> Result<ExitCode, Failure> {
    let grace = args.grace.period().map_err(Failure::from)?;
    let requested = requested(&args)?;
    // Objects other than Pods exist even while the emulated host does not run.
    let purpose = match requested.is_only_pods() {
        true => Purpose::Change,
        false => Purpose::Start,
    };
    let paths = match pods_host::go_to_pods(purpose, requested.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let errors = perform(&paths, &requested, &args, grace, &emit)?;
    errors.iter().for_each(complain);
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

/// Deletes the requested objects, and passes an output line for each to `tell`. Returns why objects still exist.
fn perform(
    paths: &Paths,
    requested: &Requested,
    args: &DeleteArgs,
    grace: Option<Duration>,
    tell: &dyn Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<anyhow::Error>> {
    let Selected {
        pods,
        deletions,
        mut errors,
    } = Selected::read(&Reader::new(paths.clone()), requested, args.ignore_not_found)?;
    if pods.is_empty() && deletions.is_empty() && errors.is_empty() {
        if !args.ignore_not_found {
            tell("No resources found\n")?;
        }
        return Ok(errors);
    }
    let is_dry_run = args.dry_run != DryRun::None;
    if args.interactive && !is_dry_run {
        let names = pods.iter().map(|record| format!("pod/{}", record.name));
        let names: Vec<String> = names.chain(deletions.names()).collect();
        if !is_confirmed(&names, tell, &mut std::io::stdin().lock())? {
            tell("deletion is cancelled\n")?;
            return Ok(errors);
        }
    }
    let at_once = grace == Some(Duration::ZERO);
    if at_once {
        say!(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may \
             continue to run indefinitely."
        );
    }
    if args.scope.namespace.namespace.is_some() && requested.groups.iter().any(|group| !group.kind.namespaced) {
        say!("Warning: deleting cluster-scoped resources, not scoped to the provided namespace");
    }
    let options = DeleteOptions {
        grace,
        waits: args.wait.unwrap_or(!at_once),
        timeout: Some(args.timeout.0).filter(|timeout| !timeout.is_zero()),
    };
    let tell = |deleted: Deleted<'_>| tell(&line(&deleted, args, at_once));
    if is_dry_run {
        deletions.begin(paths, true, &tell, &mut errors)?;
        pods.iter().try_for_each(|record| tell(Deleted::pod(record)))?;
        return Ok(errors);
    }
    let selected = Selected {
        pods,
        deletions,
        errors,
    };
    selected.delete(paths, args.cascade, &options, &tell)
}

/// Asks whether to delete these objects.
fn is_confirmed(
    names: &[String],
    tell: &dyn Fn(&str) -> anyhow::Result<()>,
    input: &mut dyn BufRead,
) -> anyhow::Result<bool> {
    let mut question = format!("You are about to delete the following {} resource(s):\n", names.len());
    for name in names {
        question += name;
        question.push('\n');
    }
    tell(&(question + "Do you want to continue? (y/N): "))?;
    let mut answer = String::new();
    // An answer that cannot be read is none.
    let is_read = input.take(MAX_ANSWER_BYTES).read_line(&mut answer).is_ok();
    Ok(is_read && answer.trim().eq_ignore_ascii_case("y"))
}

/// The output line about a deleted object.
fn line(deleted: &Deleted<'_>, args: &DeleteArgs, at_once: bool) -> String {
    let Deleted { kind, namespace, name } = deleted;
    if args.output.is_some() {
        return format!("{kind}/{name}\n");
    }
    let force = if at_once { "force " } else { "" };
    let place = namespace.map(|namespace| format!(" from {namespace} namespace"));
    format!(
        "{kind} {name:?} {force}deleted{}{}\n",
        args.dry_run.note(),
        place.unwrap_or_default()
    )
}

/// The requested objects.
fn requested(args: &DeleteArgs) -> Result<Requested, Failure> {
    let field_selector = args.field_selector.field_selector.as_ref();
    let requested = Requested::new(&args.objects, &args.scope, &args.selector, field_selector)?;
    if args.all && requested.has_names() {
        let error = anyhow!("name cannot be provided when --all is specified");
        return Err(Failure::from(error));
    }
    let has_selector = args.selector.selector.is_some() || field_selector.is_some();
    if !requested.has_names() && !args.all && !has_selector {
        let error = anyhow!("resource(s) were provided, but no name was specified: specify names, -f, -l or --all");
        return Err(Failure::from(error));
    }
    Ok(requested)
}

#[cfg(test)]
mod tests;
