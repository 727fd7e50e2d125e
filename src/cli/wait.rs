//! `microkube wait`.

mod condition;
mod waiting;

use std::process::ExitCode;

use anyhow::anyhow;
use microkube_manifest::kinds::Kind;
use microkube_store::Object;

use self::condition::Condition;
use self::waiting::wait;
use super::duration::{Timeout, duration};
use super::failure::{Failure, complain};
use super::objects::arguments::{FieldSelectorArg, ObjectArgs, Requested};
use super::objects::listing::Reader;
use super::objects::table::type_in_names;
use super::pods::arguments::{ScopeArgs, SelectorArg};
use super::pods::format::{Format, Objects};
use super::pods::output::FormatArgs;
use super::pods_host::{self, Place, Purpose};
use super::print::emit;

/// Wait for a specific condition on Pods and other objects
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube wait --for=condition=Ready pod/web\n  microkube wait --for=jsonpath='{.status.phase}'=Succeeded \
                  pod/job --timeout=5m\n  microkube wait --for=delete pods -l app=shop\n  microkube wait --for=create secret/tls"
)]
pub struct WaitArgs {
    #[command(flatten)]
    objects: ObjectArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    selector: SelectorArg,
    #[command(flatten)]
    field_selector: FieldSelectorArg,
    /// Select all objects of these types in the namespace
    #[arg(long)]
    all: bool,
    /// The condition to wait for: create, delete, condition=NAME[=VALUE] or jsonpath='{PATH}'[=VALUE]
    #[arg(long = "for", value_name = "CONDITION", value_parser = str::parse::<Condition>)]
    condition: Condition,
    /// How long to wait before giving up, such as 30s or 5m; 0 checks once, a negative value waits a week
    #[arg(long, default_value = "30s", value_parser = duration, allow_hyphen_values = true, value_name = "DURATION")]
    timeout: Timeout,
    #[command(flatten)]
    format: FormatArgs,
}

pub(super) fn run(args: WaitArgs) -> Result<ExitCode, Failure> {
    let format = args.format.format()?;
    let requested = requested(&args)?;
    // Objects other than Pods exist even while the emulated host does not run.
    let purpose = match args.condition {
        Condition::Create => Purpose::Follow,
        _ if requested.is_only_pods() => Purpose::Look,
        _ => Purpose::Follow,
    };
    match pods_host::go_to_pods(purpose, requested.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => Ok(exit_code),
        Place::Here(paths) => {
            let reader = Reader::new(paths);
            let failures = wait(
                &reader,
                &requested,
                &args.condition,
                args.timeout.0,
                &mut |kind, object| emit(&text(kind, object, &args.format, format.as_ref())?),
            )?;
            failures.iter().for_each(complain);
            Ok(ExitCode::from(u8::from(!failures.is_empty())))
        }
    }
}

/// The output for an object that has met the condition.
fn text(kind: &Kind, object: &Object, args: &FormatArgs, format: Option<&Format>) -> anyhow::Result<String> {
    match format {
        None => Ok(format!("{}/{} condition met\n", type_in_names(kind), object.name())),
        Some(format) => format.print(&Objects::One(args.shown(object.value().clone(), format)), true),
    }
}

/// The requested objects.
fn requested(args: &WaitArgs) -> Result<Requested, Failure> {
    let field_selector = args.field_selector.field_selector.as_ref();
    let requested = Requested::new(&args.objects, &args.scope, &args.selector, field_selector)?;
    let has_selector = args.selector.selector.is_some() || field_selector.is_some();
    if args.all && (has_selector || requested.has_names()) {
        let error = anyhow!("--all cannot be combined with names or a selector");
        return Err(Failure::from(error));
    }
    if !args.all && !requested.has_names() && !has_selector {
        let error = anyhow!("resource(s) were provided, but no name was specified: specify names, -f, -l or --all");
        return Err(Failure::from(error));
    }
    Ok(requested)
}

#[cfg(test)]
mod tests;
