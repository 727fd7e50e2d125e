//! `microkube image`: what is in the image store, and what gets in and out of it. One file a verb.

mod load;
mod ls;
mod progress;
mod pull;
mod rm;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::image::ImageStore;

/// Manage the images on this host
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  microkube image ls")]
pub struct ImageArgs {
    /// Directory of the state that survives a reboot
    #[arg(
        long,
        env = "MICROKUBE_STATE_DIR",
        default_value = "/var/lib/microkube",
        global = true,
        hide = true
    )]
    state_dir: PathBuf,
    /// Use this machine's own store, even where Pods run in the emulated host because KVM does not work
    #[arg(long, global = true, hide = true)]
    pub(super) on_this_host: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Pull(pull::PullArgs),
    Ls(ls::LsArgs),
    Rm(rm::RmArgs),
    Load(load::LoadArgs),
}

/// Runs a verb of `microkube image`.
pub async fn run(args: ImageArgs) -> anyhow::Result<()> {
    let store = ImageStore::open(args.state_dir.join("images"))?;
    match args.verb {
        Verb::Pull(args) => pull::run(&store, &args).await,
        verb => {
            let work = move || match verb {
                Verb::Pull(_) => Ok(()),
                Verb::Ls(args) => ls::run(&store, &args),
                Verb::Rm(args) => rm::run(&store, &args),
                Verb::Load(args) => load::run(&store, &args),
            };
            tokio::task::spawn_blocking(work).await.context("the work stopped")?
        }
    }
}

/// Prints to standard output at once.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}
