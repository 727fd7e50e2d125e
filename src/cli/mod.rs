//! The command line: one file a verb, each with its arguments, its help and its output. No logic of Pods lives here.

use clap::{Parser, Subcommand};

mod machine;

#[derive(Debug, Parser)]
#[command(name = "microkube", version, about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The emulated host: Linux with KVM in software, for machines whose KVM cannot run guests
    Machine(machine::MachineArgs),
}

/// Runs the command line of this process.
pub fn main() -> std::process::ExitCode {
    match Arguments::parse().verb {
        Verb::Machine(args) => machine::run(args),
    }
}
