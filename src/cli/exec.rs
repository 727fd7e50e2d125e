//! `microkube exec`: runs a command in a container.

use std::io::IsTerminal;
use std::process::ExitCode;

use super::failure::Failure;
use super::pods_host::{self, Place, Purpose};
use super::stream::arguments::SessionArgs;
use super::stream::running::with_reason_not_running;
use super::stream::session::{Ended, Endings, SessionTerminal, Streams, run_session};
use super::stream::target;
use crate::pod::client::ClientError;
use crate::pod::operations::exec::{self, ExecOptions};
use crate::pod::operations::session::{SessionEvents, SessionInput};
use crate::stderr::say;

/// The message if a terminal was requested and there is none.
pub(super) const NO_TERMINAL: &str = "Unable to use a TTY - input is not a terminal or the right kind of file";

/// Execute a command in a container
///
/// Exits with the command's exit code (128 + n if signal n ended it).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube exec web -- ls /usr/share/nginx\n  microkube exec -it web -c sidecar -- sh\n  microkube exec -i web -- sh -c 'cat > /tmp/file' < file"
)]
pub struct ExecArgs {
    #[command(flatten)]
    session: SessionArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(args: ExecArgs) -> Result<ExitCode, Failure> {
    let ExecArgs { session, command } = args;
    let paths = match pods_host::go_to_pods(Purpose::Look, None)? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let target = session.target(&paths, "exec into")?;
    let container = target::named_or_default(&target, session.container.as_deref(), session.quiet)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        // Before the terminal is in raw mode: nothing may end this process and leave it that way.
        let mut endings = Endings::new()?;
        let terminal = session_terminal(session.stdin, session.tty, session.quiet)?;
        let process = ExecOptions {
            container: container.name.clone(),
            command,
            stdin: session.stdin,
            tty: terminal.is_some(),
            tty_size: terminal.as_ref().and_then(SessionTerminal::size),
        };
        let opened = exec::exec(&paths, &target.record.uid, process).await;
        let ended = connect_standard_streams(opened, session.stdin, terminal, false, &mut endings).await;
        ended.map_err(|error| with_reason_not_running(error, &paths, &target.record, &container.name))
    });
    // A blocking read of a terminal cannot be cancelled.
    runtime.shutdown_background();
    let ended = ended?;
    if let Ended::Exited(code @ 1..) = ended
        && !session.quiet
    {
        say!("command terminated with exit code {code}");
    }
    Ok(ExitCode::from(ended.exit_code(|code| code)))
}

/// This process's terminal, in raw mode, for a session. As in kubectl, only together with standard input.
pub(super) fn session_terminal(stdin: bool, tty: bool, quiet: bool) -> anyhow::Result<Option<SessionTerminal>> {
    if !stdin || !tty {
        return Ok(None);
    }
    if !std::io::stdin().is_terminal() {
        if !quiet {
            say!("{NO_TERMINAL}");
        }
        return Ok(None);
    }
    Ok(Some(SessionTerminal::enter(&std::io::stdin())?))
}

/// Connects this process's standard streams to the session until it ends.
pub(super) async fn connect_standard_streams(
    opened: Result<(SessionEvents, SessionInput), ClientError>,
    stdin: bool,
    terminal: Option<SessionTerminal>,
    detachable: bool,
    endings: &mut Endings,
) -> anyhow::Result<Ended> {
    let (mut events, input) = opened?;
    let streams = Streams {
        input: stdin.then(tokio::io::stdin),
        output: tokio::io::stdout(),
        errors: tokio::io::stderr(),
        terminal,
        detachable,
    };
    run_session(&mut events, input, streams, endings).await
}
