//! The command line: one file a verb, each with its arguments, its help and its output. No logic of Pods lives here.

/// Runs the command line of this process.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
