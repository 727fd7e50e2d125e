//! `microkube delete`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{anyhow, bail};

use super::duration::{Timeout, duration};
use super::failure::{Failure, complain};
use super::pods::arguments::{ResourceArgs, Scope, ScopeArgs, SelectorArg};
use super::pods::selection::{NoSuchPod, select};
use super::pods_host::{self, Place, Purpose};
use super::print::emit;
use crate::pod::operations::delete::{DeleteError, DeleteOptions, delete};
use crate::state::PodRecords;
use crate::stderr::say;

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
    let paths = match pods_host::go_to_pods(Purpose::Change, consumed_stdin.as_deref())? {
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
    let options = DeleteOptions {
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
    errors.extend(failures.into_iter().map(DeleteError::into_report));
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

#[cfg(test)]
mod tests {
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
}
