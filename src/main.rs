//! The command `microkube`.
fn main() -> std::process::ExitCode {
    microkube::cli::main()
}
