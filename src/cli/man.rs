//! `microkube man`, a hidden verb: writes the manual pages that packages contain.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::failure::Failure;

/// Write the manual pages of microkube and its verbs
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  microkube man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Existing directory for the pages
    directory: PathBuf,
}

/// Runs the verb. `command` is the whole command line.
pub(super) fn run(args: &ManArgs, command: Command) -> Result<ExitCode, Failure> {
    for (name, page) in pages(command).context("cannot generate the manual pages")? {
        let path = args.directory.join(name);
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The pages of a command and of its visible verbs, with the names of their files.
fn pages(command: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = command.disable_help_subcommand(true);
    // Gives verbs their full names.
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        add_pages(verb, pages)?;
    }
    pages.push(page(command)?);
    Ok(())
}

fn page(command: &Command) -> io::Result<(String, Vec<u8>)> {
    // Omits the build, which would make every page differ between builds.
    let man = Man::new(command.clone())
        // roff would drop an empty argument and show the source in place of the date.
        .date(" ")
        .source(concat!("microkube ", env!("CARGO_PKG_VERSION")))
        .manual("microkube");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|verb| !verb.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(text) = command.get_after_help() {
        after_help(&text.to_string()).to_writer(&mut page)?;
    }
    Ok((man.get_filename(), page))
}

/// The text after the options in help: examples, kept verbatim, and notes.
fn after_help(text: &str) -> Roff {
    let mut roff = Roff::new();
    let (examples, notes): (Vec<&str>, Vec<&str>) = text
        .split("\n\n")
        .partition(|paragraph| paragraph.starts_with("Example"));
    if !notes.is_empty() {
        roff.control("SH", ["NOTES"]);
        for line in notes.iter().flat_map(|paragraph| paragraph.lines()) {
            roff.control("br", []).text([roman(line)]);
        }
    }
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples.iter().flat_map(|paragraph| paragraph.lines().skip(1)) {
            roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        }
        roff.control("fi", []);
    }
    roff
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::Cli;
    use super::*;

    #[test]
    fn every_visible_verb_and_no_hidden_one_has_a_page() {
        let pages = pages(Cli::command()).unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in [
            "microkube.1",
            "microkube-run.1",
            "microkube-image-pull.1",
            "microkube-version.1",
        ] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        for hidden in ["supervise", "inside", "man.1", "help"] {
            assert!(!names.iter().any(|name| name.contains(hidden)), "{hidden}: {names:?}");
        }
    }

    #[test]
    fn pages_are_the_same_in_every_build_of_a_version() {
        for (name, page) in pages(Cli::command()).unwrap() {
            let page = String::from_utf8(page).unwrap();
            let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
            assert!(
                title.contains(concat!(
                    "1 \" \" \"microkube ",
                    env!("CARGO_PKG_VERSION"),
                    "\" microkube"
                )),
                "{name}: {title}"
            );
            let build = crate::build_id::build();
            assert!(build == env!("CARGO_PKG_VERSION") || !page.contains(build), "{name}");
        }
    }

    #[test]
    fn examples_keep_their_lines_and_notes_are_apart() {
        let page = after_help("A note.\n\nExamples:\n  microkube one\n  microkube two \\\n    --flag").to_roff();
        let expected = [
            ".SH NOTES",
            ".br",
            "A note.",
            ".SH EXAMPLES",
            ".nf",
            "microkube one",
            "microkube two \\\\",
            "  \\-\\-flag",
            ".fi",
        ];
        assert_eq!(page.lines().collect::<Vec<_>>(), expected);
    }
}
