//! `microkube image`: listing, adding and removing images in the image store. One file per verb.

mod inspect;
mod load;
mod ls;
mod progress;
mod prune;
mod pull;
mod rm;
mod save;
mod tag;
mod users;
mod verify;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use microkube_image::ImageStore;

use super::print::{json_text, print};
use super::table;
use crate::state::Paths;
use users::Users;

/// Manage images
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  microkube image ls")]
pub struct ImageArgs {
    /// Directory of state that survives a reboot
    #[arg(long, global = true, hide = true)]
    state_dir: Option<PathBuf>,
    /// Use this machine's image store, even if Pods run in the emulated host
    #[arg(long, global = true, hide = true)]
    pub(super) on_this_host: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Pull(pull::PullArgs),
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    Inspect(inspect::InspectArgs),
    Load(load::LoadArgs),
    Save(save::SaveArgs),
    Tag(tag::TagArgs),
    Rm(rm::RmArgs),
    Prune(prune::PruneArgs),
    Verify(verify::VerifyArgs),
}

pub async fn run(args: ImageArgs) -> anyhow::Result<()> {
    let mut paths = Paths::from_env();
    if let Some(state_dir) = args.state_dir {
        paths = Paths::new(state_dir, paths.run_dir().to_path_buf());
    }
    let store = ImageStore::open(paths.images())?;
    match args.verb {
        Verb::Pull(args) => pull::run(&store, &args).await,
        verb => {
            let work = move || match verb {
                Verb::Pull(_) => Ok(()),
                Verb::Ls(args) => ls::run(&store, &args, &Users::read(&paths)?),
                Verb::Inspect(args) => inspect::run(&store, &args, &Users::read(&paths)?),
                Verb::Load(args) => load::run(&store, &args),
                Verb::Save(args) => save::run(&store, &args),
                Verb::Tag(args) => tag::run(&store, &args),
                Verb::Rm(args) => rm::run(&store, &args, &Users::read(&paths)?),
                Verb::Prune(args) => prune::run(&store, &args, &Users::read(&paths)?),
                Verb::Verify(args) => verify::run(&store, &args),
            };
            tokio::task::spawn_blocking(work)
                .await
                .context("the operation stopped unexpectedly")?
        }
    }
}
