//! `microkube completion`, and the completion of names of Pods and containers for the shell.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::{ExitCode, Stdio};

use clap_complete::CompletionCandidate;
use clap_complete::engine::{ArgValueCompleter, PathCompleter, ValueCompleter as _};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use microkube_base::child;
use microkube_manifest::kinds;

use super::failure::Failure;
use super::pods_host;
use super::print::emit;
use crate::state::{Paths, PodRecords};

/// Set by the shell's script when it calls this program for completions.
pub(super) const VARIABLE: &str = "MICROKUBE_COMPLETE";

/// Output shell completion code for verbs, flags, Pods and containers
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  source <(microkube completion bash)\n  microkube completion bash > /etc/bash_completion.d/microkube\n  microkube \
                  completion fish > ~/.config/fish/completions/microkube.fish"
)]
pub struct CompletionArgs {
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: CompletionArgs) -> Result<ExitCode, Failure> {
    emit(&script(args.shell)?)?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell) -> anyhow::Result<String> {
    let shell: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "microkube", "microkube", "microkube", &mut script)?;
    Ok(String::from_utf8(script)?)
}

/// Completes types, names of Pods after `pods`, and `pod/NAME`.
pub(super) fn objects() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let names = names().into_iter().map(|(pod, _)| pod).collect::<BTreeSet<_>>();
        let current = current.to_string_lossy();
        let types = types(&current).into_iter().map(str::to_owned);
        let fitting = fitting(&names, &current).into_iter();
        types.chain(fitting).map(CompletionCandidate::new).collect()
    })
}

/// The plurals of all kinds that match the typed text.
fn types(current: &str) -> Vec<&'static str> {
    let plurals = kinds::all().iter().map(|kind| kind.plural);
    plurals.filter(|plural| plural.starts_with(current)).collect()
}

/// Completes `NAME` and `pod/NAME`, for verbs that take one Pod.
pub(super) fn pod_names() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let names = names().into_iter().map(|(pod, _)| pod).collect::<BTreeSet<_>>();
        let fitting = fitting(&names, &current.to_string_lossy());
        fitting.into_iter().map(CompletionCandidate::new).collect()
    })
}

/// Completes names of containers: those of the Pod named earlier on the command line, if any.
pub(super) fn containers() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        // The shell's script passes the whole command line.
        let words: Vec<String> = std::env::args_os()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        containers_of(&names(), &words, &current.to_string_lossy())
            .into_iter()
            .map(CompletionCandidate::new)
            .collect()
    })
}

/// Completes arguments of `cp`: local files, and Pods followed by a colon.
pub(super) fn files_and_pods() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let mut found = PathCompleter::any().complete(current);
        let names = names().into_iter().map(|(pod, _)| format!("{pod}:")).collect();
        let fitting = fitting(&names, &current.to_string_lossy());
        found.extend(fitting.into_iter().map(CompletionCandidate::new));
        found
    })
}

/// The containers of the Pods named on the command line, or of all Pods.
fn containers_of(names: &[(String, String)], words: &[String], current: &str) -> BTreeSet<String> {
    let is_named = |pod: &str| {
        let bare = |word: &str| word.rsplit_once('/').map_or(word, |(_, name)| name).to_owned();
        words
            .iter()
            .any(|word| bare(word.split(':').next().unwrap_or(word)) == pod)
    };
    let any_is_named = names.iter().any(|(pod, _)| is_named(pod));
    names
        .iter()
        .filter(|(pod, container)| (!any_is_named || is_named(pod)) && container.starts_with(current))
        .map(|(_, container)| container.clone())
        .collect()
}

/// Names in the notation of the typed text.
fn fitting(names: &BTreeSet<String>, current: &str) -> Vec<String> {
    let kind = current.split_once('/').map(|(kind, _)| kind);
    let full = names.iter().map(|name| match kind {
        Some(kind) => format!("{kind}/{name}"),
        None => name.clone(),
    });
    full.filter(|name| name.starts_with(current)).collect()
}

/// Pods with each of their containers. Errors are ignored during completion.
fn names() -> Vec<(String, String)> {
    if pods_host::pods_are_here() {
        return of_records(&PodRecords::new(Paths::from_env()));
    }
    // In the emulated host, if it is running.
    let template = "jsonpath={range .items[*]}{range .spec['initContainers','containers'][*]}{.name}{\"\\n\"}{end}/{.metadata.name}{\"\\n\"}{end}";
    let Ok(program) = std::env::current_exe() else {
        return Vec::new();
    };
    let output = child::command(program)
        .args(["get", "pods", "-A", "-o", template])
        .env_remove(VARIABLE)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    output.map_or_else(
        |_| Vec::new(),
        |output| of_lines(&String::from_utf8_lossy(&output.stdout)),
    )
}

fn of_records(records: &PodRecords) -> Vec<(String, String)> {
    let Ok((found, _)) = records.list_all() else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for record in found {
        if let Some(spec) = &record.pod.spec {
            let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
            names.extend(containers.map(|container| (record.name.clone(), container.name.clone())));
        }
    }
    names
}

/// Parses lines of container names; a slash with the Pod's name follows the containers of each Pod.
fn of_lines(text: &str) -> Vec<(String, String)> {
    let (mut names, mut containers) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match line.strip_prefix('/') {
            Some(pod) => names.extend(containers.drain(..).map(|container| (pod.to_owned(), container))),
            None => containers.push(line.to_owned()),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;
    use super::super::pods::test_pods::TestPods;
    use super::*;

    #[test]
    fn every_shell_has_a_script_that_calls_this_program() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell).unwrap();
            assert!(
                script.contains("MICROKUBE_COMPLETE") && script.contains("microkube"),
                "{script}"
            );
        }
    }

    #[test]
    fn verbs_and_flags_are_completed() {
        let complete = |words: &[&str]| {
            let mut command = Cli::command();
            let words = words.iter().map(|word| (*word).into()).collect::<Vec<_>>();
            let index = words.len() - 1;
            let found = clap_complete::engine::complete(&mut command, words, index, None).unwrap();
            found
                .iter()
                .map(|candidate| candidate.get_value().to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        };
        assert!(complete(&["microkube", "des"]).contains(&"describe".to_owned()));
        assert!(complete(&["microkube", "delete", "--gr"]).contains(&"--grace-period".to_owned()));
        assert!(!complete(&["microkube", ""]).contains(&"supervise".to_owned()));
    }

    #[test]
    fn pods_are_completed_in_both_notations() {
        let names = ["db", "web-1", "web-2"].map(str::to_owned).into();
        assert_eq!(fitting(&names, ""), ["db", "web-1", "web-2"]);
        assert_eq!(fitting(&names, "we"), ["web-1", "web-2"]);
        assert_eq!(fitting(&names, "pod/we"), ["pod/web-1", "pod/web-2"]);
        assert_eq!(fitting(&names, "po/d"), ["po/db"]);
    }

    #[test]
    fn types_are_completed() {
        assert_eq!(types("s"), ["secrets", "serviceaccounts", "storageclasses"]);
        assert_eq!(types("configmaps"), ["configmaps"]);
        assert_eq!(types("pod/"), [""; 0]);
    }

    #[test]
    fn containers_of_the_named_pod_are_completed() {
        let names = [("web", "main"), ("web", "sidecar"), ("db", "main"), ("db", "exporter")]
            .map(|(pod, container)| (pod.to_owned(), container.to_owned()));
        let complete = |line: &str, current: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            containers_of(&names, &words, current).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(complete("logs web -c", ""), ["main", "sidecar"]);
        assert_eq!(complete("exec pod/db -c", "e"), ["exporter"]);
        assert_eq!(complete("cp web:/var/log . -c", "s"), ["sidecar"]);
        assert_eq!(complete("logs -c", ""), ["exporter", "main", "sidecar"]);
        assert_eq!(complete("logs other -c", "m"), ["main"]);
    }

    #[test]
    fn every_verb_about_one_pod_completes_pods_and_containers() {
        let command = Cli::command();
        for (verb, arguments) in [
            ("logs", &["pod", "inline_container", "container"][..]),
            ("exec", &["pod", "container"]),
            ("attach", &["pod", "container"]),
            ("cp", &["source", "target", "container"]),
            ("get", &["resources"]),
            ("describe", &["resources"]),
            ("delete", &["resources"]),
            ("wait", &["resources"]),
            ("events", &["of"]),
        ] {
            let verb = command.find_subcommand(verb).unwrap();
            for argument in arguments {
                let found = verb.get_arguments().find(|found| found.get_id() == argument);
                let found = found.unwrap_or_else(|| panic!("{} {argument}", verb.get_name()));
                assert!(
                    found.get::<ArgValueCompleter>().is_some(),
                    "{} {argument}",
                    verb.get_name()
                );
            }
        }
    }

    #[test]
    fn names_are_read_from_the_records_or_the_emulated_host() {
        let pods = TestPods::new();
        pods.add("web", &[]);
        let expected = [("web".to_owned(), "main".to_owned())];
        assert_eq!(of_records(&pods.records), expected);
        assert_eq!(of_lines("main\n/web\n"), expected);
    }
}
