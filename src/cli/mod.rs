//! The command line: one file per verb, with its arguments, help and output. Contains no Pod logic.

// Output goes through `print` and `stderr`, which handle output that cannot be written.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod annotate;
mod api_resources;
mod apply;
mod attach;
mod attached_run;
mod completion;
mod config;
mod container_output;
mod cores;
mod cp;
mod create;
mod debug;
mod delete;
mod describe;
mod diff;
mod doctor;
mod duration;
mod edit;
mod events;
mod exec;
mod explain;
mod failure;
mod field_manager;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod generated_pod;
mod get;
mod image;
mod journal;
mod jsonpath;
mod label;
mod local;
mod log;
mod logs;
mod machine;
mod man;
mod manifests;
mod metadata_pairs;
mod namespace;
mod object_failure;
mod objects;
mod panic_report;
mod patch;
mod pods;
mod pods_host;
mod port_forward;
mod print;
mod readable;
mod recover;
mod remedy;
mod replace;
mod results;
mod run;
mod save_config;
mod selector;
mod stream;
mod supervise;
mod swap;
mod table;
mod targets;
mod top;
mod validate;
mod version;
mod wait;
mod yaml;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use failure::{Failure, complain};
use print::{OutputError, is_output_closed};

use crate::build_id::build;
use crate::config::Config;
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
    PortForward(port_forward::PortForwardArgs),
    Debug(debug::DebugArgs),
    Top(top::TopArgs),
    Apply(apply::ApplyArgs),
    Create(create::CreateArgs),
    Replace(replace::ReplaceArgs),
    Patch(patch::PatchArgs),
    Label(label::LabelArgs),
    Annotate(annotate::AnnotateArgs),
    Edit(edit::EditArgs),
    Diff(diff::DiffArgs),
    Get(get::GetArgs),
    Describe(describe::DescribeArgs),
    Events(events::EventsArgs),
    Wait(wait::WaitArgs),
    Delete(delete::DeleteArgs),
    Explain(explain::ExplainArgs),
    ApiResources(api_resources::ApiResourcesArgs),
    Recover(recover::RecoverArgs),
    Image(image::ImageArgs),
    Doctor(doctor::DoctorArgs),
    Machine(machine::MachineArgs),
    Config(config::ConfigArgs),
    Completion(completion::CompletionArgs),
    Version(version::VersionArgs),
    #[command(hide = true)]
    Man(man::ManArgs),
    #[command(hide = true)]
    Supervise(supervise::SuperviseArgs),
}

/// Runs this process's command line.
pub fn main() -> ExitCode {
    cores::forbid();
    swap::forbid();
    panic_report::install();
    // Load the configuration before parsing the command line, because completion in the shell also has settings.
    let config = if machine::is_part_of_emulated_host(std::env::args_os().skip(1)) {
        Config::without_file()
    } else {
        crate::config::load()
    };
    if let Ok(config) = &config {
        // SAFETY: this process has started no thread yet.
        unsafe { config.export() };
    }
    clap_complete::CompleteEnv::with_factory(Cli::command)
        .var(completion::VARIABLE)
        .complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // Standard error may be closed.
            let _ = error.print();
            return diff::exit_code_of_usage(std::env::args_os().nth(1).as_deref());
        }
        Err(error) if error.kind() == ErrorKind::DisplayVersion => return end(version::print_line()),
        // --help
        Err(text) => {
            let printed = text.print().map_err(OutputError::from);
            return end(printed.map(|()| ExitCode::SUCCESS).map_err(Failure::from));
        }
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            let exit_code = match &cli.verb {
                Verb::Machine(args) => args.exit_code_of_wrong_config(),
                _ => 1,
            };
            let error = error.into();
            return end(Err(Failure { exit_code, error }));
        }
    };
    // A supervisor opens its own log once it has read its Pod's record.
    if !matches!(cli.verb, Verb::Supervise(_)) {
        log::of_command();
    }
    let result = match cli.verb {
        Verb::Run(args) => run::run(args),
        Verb::Logs(args) => logs::run(args),
        Verb::Exec(args) => exec::run(args),
        Verb::Attach(args) => attach::run(args),
        Verb::Cp(args) => cp::run(args),
        Verb::PortForward(args) => port_forward::run(args),
        Verb::Debug(args) => debug::run(args),
        Verb::Top(args) => top::run(args),
        Verb::Apply(args) => apply::run(args),
        Verb::Create(args) => create::run(args),
        Verb::Replace(args) => replace::run(args),
        Verb::Patch(args) => patch::run(args),
        Verb::Label(args) => label::run(&args),
        Verb::Annotate(args) => annotate::run(&args),
        Verb::Edit(args) => edit::run(args),
        Verb::Diff(args) => diff::run(args),
        Verb::Get(args) => get::run(args),
        Verb::Describe(args) => describe::run(args),
        Verb::Events(args) => events::run(args),
        Verb::Wait(args) => wait::run(args),
        Verb::Delete(args) => delete::run(args),
        Verb::Explain(args) => explain::run(args),
        Verb::ApiResources(args) => api_resources::run(&args),
        Verb::Recover(args) => recover::run(args),
        Verb::Image(args) => run_image(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Machine(args) => machine::run(args),
        Verb::Config(args) => config::run(args, &config),
        Verb::Completion(args) => completion::run(args),
        Verb::Version(args) => version::run(&args),
        Verb::Man(args) => man::run(&args, Cli::command()),
        Verb::Supervise(args) => supervise::run(args),
    };
    end(result)
}

/// Reports an error, and returns this process's exit code.
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
    // The store is on the host where Pods run.
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
