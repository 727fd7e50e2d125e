//! The command line: one file a verb, each with its arguments, its help and its output. No logic of Pods lives here.

// What is printed goes through `print` and `stderr`, which know what to do about output that cannot be written.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod apply;
mod attach;
mod attached_run;
mod completion;
mod container_output;
mod cp;
mod create;
mod delete;
mod describe;
mod doctor;
mod duration;
mod events;
mod exec;
mod explain;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod generated_pod;
mod get;
mod image;
mod jsonpath;
mod log;
mod logs;
mod machine;
mod manifests;
mod namespace;
mod pods;
mod pods_host;
mod print;
mod readable;
mod recover;
mod remedy;
mod run;
mod selector;
mod stream;
mod supervise;
mod table;
mod top;
mod wait;
mod yaml;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::{Failure, complain};
use print::{OutputError, is_output_closed};

use crate::build_id::build;
use crate::pod;
use crate::state::Paths;

/// Runs every Kubernetes Pod as its own lightweight KVM microVM.
#[derive(Debug, Parser)]
#[command(
    name = "microkube",
    version = build(),
    max_term_width = 100,
    after_help = "Example:\n  microkube run examples/nginx-sidecar.yaml"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::RunArgs),
    Logs(logs::LogsArgs),
    Exec(exec::ExecArgs),
    Attach(attach::AttachArgs),
    Cp(cp::CpArgs),
    Top(top::TopArgs),
    Apply(apply::ApplyArgs),
    Create(create::CreateArgs),
    Get(get::GetArgs),
    Describe(describe::DescribeArgs),
    Events(events::EventsArgs),
    Wait(wait::WaitArgs),
    Delete(delete::DeleteArgs),
    Explain(explain::ExplainArgs),
    Recover(recover::RecoverArgs),
    Image(image::ImageArgs),
    Doctor(doctor::DoctorArgs),
    Machine(machine::MachineArgs),
    Completion(completion::CompletionArgs),
    #[command(hide = true)]
    Supervise(supervise::SuperviseArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(Cli::command)
        .var(completion::VARIABLE)
        .complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => error.exit(),
        // --help and --version
        Err(text) => {
            let printed = text.print().map_err(OutputError::from);
            return end(printed.map(|()| ExitCode::SUCCESS).map_err(Failure::from));
        }
    };
    // A supervisor's own log is opened when it is known whose it is.
    if !matches!(cli.verb, Verb::Supervise(_)) {
        log::to_stderr();
    }
    let result = match cli.verb {
        Verb::Run(args) => run::run(args),
        Verb::Logs(args) => logs::run(args),
        Verb::Exec(args) => exec::run(args),
        Verb::Attach(args) => attach::run(args),
        Verb::Cp(args) => cp::run(args),
        Verb::Top(args) => top::run(args),
        Verb::Apply(args) => apply::run(args),
        Verb::Create(args) => create::run(args),
        Verb::Get(args) => get::run(args),
        Verb::Describe(args) => describe::run(args),
        Verb::Events(args) => events::run(args),
        Verb::Wait(args) => wait::run(args),
        Verb::Delete(args) => delete::run(args),
        Verb::Explain(args) => explain::run(args),
        Verb::Recover(args) => recover::run(args),
        Verb::Image(args) => run_image(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Machine(args) => machine::run(args),
        Verb::Completion(args) => completion::run(args),
        Verb::Supervise(args) => supervise::run(args),
    };
    end(result)
}

/// Says what went wrong, and what this process exits with.
fn end(result: Result<ExitCode, Failure>) -> ExitCode {
    match result {
        Ok(exit_code) => exit_code,
        Err(Failure { error, .. }) if is_output_closed(&error) => ExitCode::from(print::EXIT_OUTPUT_CLOSED),
        Err(Failure { exit_code, error }) => {
            complain(&error);
            ExitCode::from(exit_code)
        }
    }
}

fn run_image(args: image::ImageArgs) -> Result<ExitCode, Failure> {
    // The store lies where the Pods run.
    if !args.on_this_host
        && let Some(exit_code) = pods_host::delegate_unless_kvm_works(None)?
    {
        return Ok(exit_code);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        pod::sweep(&Paths::from_env()).await?;
        image::run(args).await
    })?;
    Ok(ExitCode::SUCCESS)
}
