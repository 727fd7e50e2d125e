//! `microkube attach`: connects to the process of a container.

use std::process::ExitCode;

use anyhow::Context as _;

use super::Failure;
use super::exec::{session_terminal, talk};
use super::kvm::{self, Place, Purpose};
use super::print::print;
use super::stream::arguments::SessionArgs;
use super::stream::session::SessionTerminal;
use super::stream::target;
use crate::pod::attach::Request;
use crate::stderr::say;

/// Attach to a container that runs
///
/// Shows what the container writes from now on, and with -i passes standard input to it. Ctrl-C leaves it running; on a
/// terminal (-it), where Ctrl-C is the container's, Ctrl-P Ctrl-Q does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  microkube attach web\n  microkube attach -it shell -c sh")]
pub struct AttachArgs {
    #[command(flatten)]
    session: SessionArgs,
}

/// Runs the verb.
pub(super) fn run(args: AttachArgs) -> Result<ExitCode, Failure> {
    let AttachArgs { session: args } = args;
    let paths = match kvm::go_to_pods(Purpose::Look, None)? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let target = args.target(&paths, "attach")?;
    let container = target::named_or_default(&target, args.container.as_deref(), args.quiet)
        .context("cannot attach to the container")?;
    let has_tty = container.tty == Some(true);
    if args.tty && !has_tty && !args.quiet {
        say!(
            "error: Unable to use a TTY - container {} did not allocate one",
            container.name
        );
    }
    if args.stdin && container.stdin != Some(true) && !args.quiet {
        say!(
            "microkube: warning: container {} has no standard input (spec.containers[].stdin)",
            container.name
        );
    }
    if !args.quiet {
        say!("If you don't see a command prompt, try pressing enter.");
    }
    // A container that has a terminal needs one here, asked for or not.
    let terminal = session_terminal(args.stdin, has_tty, args.quiet || !args.tty)?;
    let on_terminal = terminal.is_some();
    let request = Request::Attach {
        container: container.name.clone(),
        stdin: args.stdin,
        tty_size: terminal.as_ref().and_then(SessionTerminal::size),
    };
    let ended = talk(&paths, &target, request, args.stdin, terminal, true)?;
    let always = target
        .record
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref());
    if on_terminal && !args.quiet && matches!(always, None | Some("Always")) {
        print(&format!(
            "Session ended, resume using 'microkube attach {} -c {} -i -t' command when the pod is running\n",
            target.record.name, container.name
        ))?;
    }
    // As kubectl: the container's own end is no failure of this command.
    Ok(ended.exit_code(|_| 0))
}
