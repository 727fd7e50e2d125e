//! `microkube exec`: runs a command in a container.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::anyhow;

use super::stream::session::{Ended, SessionTerminal, Streams, converse};
use super::stream::target::{self, Target};
use super::{Failure, kvm};
use crate::pod::attach::Request;
use crate::pod::client::Client;
use crate::state::Paths;

/// What is said when a terminal is asked for and there is none.
pub(super) const NO_TERMINAL: &str = "Unable to use a TTY - input is not a terminal or the right kind of file";

/// Run a command in a container
///
/// Exits with the exit code of the command (128 + n for signal n).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube exec web -- ls /usr/share/nginx\n  microkube exec -it web -c sidecar -- sh\n  microkube exec -i web -- sh -c 'cat > /tmp/file' < file"
)]
pub struct ExecArgs {
    /// The Pod: NAME or pod/NAME
    #[arg(value_name = "POD")]
    pod: String,
    /// The container [default: the Pod's default or first container]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input to the command
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal: with -i and on a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Print nothing but what the command prints
    #[arg(short, long)]
    quiet: bool,
    /// The Pod's namespace
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the verb.
pub(super) fn run(args: ExecArgs) -> Result<ExitCode, Failure> {
    if let Some(exit_code) = kvm::delegate_unless_usable(None)? {
        return Ok(exit_code);
    }
    let paths = Paths::from_env();
    let target = Target::find(&paths, &args.namespace, &args.pod)?;
    if target.is_completed() {
        return Err(anyhow!(
            "cannot exec into a container in a completed pod; current phase is {}",
            target.phase()
        )
        .into());
    }
    let container = target::named_or_default(&target, args.container.as_deref(), args.quiet)?;
    let terminal = session_terminal(args.stdin, args.tty, args.quiet)?;
    let request = Request::Exec {
        container: container.name.clone(),
        command: args.command,
        stdin: args.stdin,
        tty: terminal.is_some(),
        tty_size: terminal.as_ref().and_then(SessionTerminal::size),
    };
    let ended = talk(&paths, &target, request, args.stdin, terminal, false)?;
    if let Ended::Exited(code @ 1..) = ended
        && !args.quiet
    {
        eprintln!("command terminated with exit code {code}");
    }
    Ok(ended.exit_code(|code| code))
}

/// The terminal, in raw mode, that a process is to be connected to. As kubectl: only with standard input.
pub(super) fn session_terminal(stdin: bool, tty: bool, quiet: bool) -> anyhow::Result<Option<SessionTerminal>> {
    if !stdin || !tty {
        return Ok(None);
    }
    if !std::io::stdin().is_terminal() {
        if !quiet {
            eprintln!("{NO_TERMINAL}");
        }
        return Ok(None);
    }
    Ok(Some(SessionTerminal::enter(&std::io::stdin())?))
}

/// Connects this process's standard streams to what is asked for.
pub(super) fn talk(
    paths: &Paths,
    target: &Target,
    request: Request,
    stdin: bool,
    terminal: Option<SessionTerminal>,
    detachable: bool,
) -> anyhow::Result<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let client = Client::connect(paths, &target.record.uid)?;
        let streams = Streams {
            input: stdin.then(tokio::io::stdin),
            output: tokio::io::stdout(),
            errors: tokio::io::stderr(),
            terminal,
            detachable,
        };
        converse(client, request, streams).await
    });
    // A read of a terminal cannot be called off.
    runtime.shutdown_background();
    ended
}
