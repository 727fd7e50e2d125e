//! The `microkube` command.
fn main() -> std::process::ExitCode {
    microkube::cli::main()
}
