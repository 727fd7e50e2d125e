//! `microkube completion`, and the completion of types and names of objects and containers for the shell.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::{ExitCode, Stdio};

use clap_complete::CompletionCandidate;
use clap_complete::engine::{ArgValueCompleter, PathCompleter, ValueCompleter as _};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use microkube_base::child;
use microkube_manifest::kinds::{self, Kind};
use microkube_store::Scope;

use super::failure::Failure;
use super::pods_host;
use super::print::emit;
use crate::emulated_host;
use crate::objects::{self, DEFAULT_NAMESPACE};
use crate::state::{Paths, PodRecords};

/// Set by the shell's script when it calls this program for completions.
pub(super) const VARIABLE: &str = "MICROKUBE_COMPLETE";
/// Flags before a type or a name whose values are separate words.
const FLAGS_WITH_VALUES: [&str; 16] = [
    "-f",
    "--filename",
    "-l",
    "--selector",
    "--field-selector",
    "--field-manager",
    "-L",
    "--label-columns",
    "-o",
    "--output",
    "-p",
    "--patch",
    "--sort-by",
    "--subresource",
    "--chunk-size",
    "--type",
];

/// Output shell completion code for verbs, flags, types, names of objects and containers
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

/// Completes types, names after a type, and `TYPE/NAME`.
pub(super) fn objects() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let current = current.to_string_lossy();
        let found = objects_for(&words(), &current, &mut object_names);
        found.into_iter().map(CompletionCandidate::new).collect()
    })
}

/// Completes namespaces.
pub(super) fn namespaces() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let kinds: Vec<&'static Kind> = kinds::named("namespaces").into_iter().collect();
        let found = fitting(&object_names(&kinds, DEFAULT_NAMESPACE), &current.to_string_lossy());
        found.into_iter().map(CompletionCandidate::new).collect()
    })
}

/// The command line to complete.
fn words() -> Vec<String> {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    // The shell's script passes it after `--`.
    words.skip_while(|word| word != "--").skip(1).collect()
}

/// The types or names that match the typed text, which is the last of the words. `names_of` gets types and a namespace.
fn objects_for(
    words: &[String],
    current: &str,
    names_of: &mut dyn FnMut(&[&'static Kind], &str) -> BTreeSet<String>,
) -> Vec<String> {
    let before = match words.split_last() {
        Some((last, before)) if last == current => before,
        _ => words,
    };
    let line = Line::of(before);
    let stated = match current.split_once('/') {
        Some((stated, _)) => kinds_named(stated),
        None => line.kinds,
    };
    match stated {
        Some(kinds) => fitting(&names_of(&kinds, line.namespace), current),
        None => types(current).into_iter().map(str::to_owned).collect(),
    }
}

/// The objects that the words of a command line name.
struct Line<'w> {
    kinds: Option<Vec<&'static Kind>>,
    namespace: &'w str,
}

impl<'w> Line<'w> {
    fn of(words: &'w [String]) -> Self {
        let mut line = Self {
            kinds: None,
            namespace: DEFAULT_NAMESPACE,
        };
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            if ["-n", "--namespace"].contains(&word) {
                line.namespace = words.next().unwrap_or(DEFAULT_NAMESPACE);
            } else if let Some(namespace) = word.strip_prefix("--namespace=").or_else(|| word.strip_prefix("-n")) {
                line.namespace = namespace.trim_start_matches('=');
            } else if FLAGS_WITH_VALUES.contains(&word) {
                words.next();
            } else if line.kinds.is_none() && !word.starts_with('-') {
                line.kinds = kinds_named(word);
            }
        }
        line
    }
}

/// The plurals of all kinds that match the typed text.
fn types(current: &str) -> Vec<&'static str> {
    let plurals = kinds::all().iter().map(|kind| kind.plural);
    plurals.filter(|plural| plural.starts_with(current)).collect()
}

/// The kinds in `cm,secrets`.
fn kinds_named(types: &str) -> Option<Vec<&'static Kind>> {
    types.split(',').map(kinds::named).collect()
}

/// The names of objects of these kinds. Errors are ignored during completion.
fn object_names(kinds: &[&'static Kind], namespace: &str) -> BTreeSet<String> {
    if pods_host::pods_are_here() {
        return names_in(&Paths::from_env(), kinds, namespace);
    }
    // Completion does not start the emulated host.
    if matches!(emulated_host::status(), Ok(emulated_host::Status::Stopped) | Err(_)) {
        return BTreeSet::new();
    }
    let types: Vec<&str> = kinds.iter().map(|kind| kind.plural).collect();
    let template = "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}";
    let text = printed_inside(&["get", &types.join(","), "-n", namespace, "-o", template]);
    text.lines().map(str::to_owned).collect()
}

fn names_in(paths: &Paths, kinds: &[&'static Kind], namespace: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for kind in kinds {
        if kind.kind == "Pod" {
            let records = PodRecords::new(paths.clone()).list_all();
            let records = records.map(|(records, _)| records).unwrap_or_default();
            let own = records.into_iter().filter(|record| record.namespace == namespace);
            names.extend(own.map(|record| record.name));
            continue;
        }
        let scope = match kind.namespaced {
            true => Scope::Namespace(namespace.to_owned()),
            false => Scope::All,
        };
        let listed = objects::open(paths).and_then(|store| store.list(&objects::resource(kind), &scope));
        if let Ok(listed) = listed {
            names.extend(listed.items.iter().map(|object| object.name().to_owned()));
        }
    }
    names
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
    let template = "jsonpath={range .items[*]}{range .spec['initContainers','containers'][*]}{.name}{\"\\n\"}{end}/{.metadata.name}{\"\\n\"}{end}";
    of_lines(&printed_inside(&["get", "pods", "-A", "-o", template]))
}

/// The output of this command in the emulated host, if that is running.
fn printed_inside(arguments: &[&str]) -> String {
    let Ok(program) = std::env::current_exe() else {
        return String::new();
    };
    let output = child::command(program)
        .args(arguments)
        .env_remove(VARIABLE)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
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
    use serde_json::json;

    use super::super::Cli;
    use super::super::pods::test_pods::TestPods;
    use super::*;
    use crate::objects::Objects;

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
    fn names_of_the_type_on_the_command_line_are_completed() {
        let complete = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let current = words.last().unwrap().clone();
            objects_for(&words, &current, &mut |kinds, namespace| {
                let names = ["a", "b"].iter().flat_map(|name| {
                    let kinds = kinds.iter();
                    kinds.map(move |kind| format!("{name}-{}-{namespace}", kind.singular))
                });
                names.collect()
            })
        };
        for (line, found) in [
            ("microkube get sec", &["secrets"][..]),
            ("microkube get -n shop cm ", &["a-configmap-shop", "b-configmap-shop"]),
            ("microkube get configmaps a", &["a-configmap-default"]),
            ("microkube get cm a -nshop b", &["b-configmap-shop"]),
            ("microkube get --namespace=shop -o yaml po b", &["b-pod-shop"]),
            ("microkube get -o cm sec", &["secrets"]),
            (
                "microkube delete cm,secrets a",
                &["a-configmap-default", "a-secret-default"],
            ),
            ("microkube get cm/a", &["cm/a-configmap-default"]),
            (
                "microkube label pod/x secret/b -n shop secret/b",
                &["secret/b-secret-shop"],
            ),
            ("microkube get nothing/a", &[]),
        ] {
            assert_eq!(complete(line), found, "{line}");
        }
    }

    #[test]
    fn names_of_all_kinds_are_read_from_records_and_the_store() {
        let pods = TestPods::new();
        pods.add("web", &[]);
        pods.add_to("shop", "db", &[]);
        let store = Objects::open(&pods.paths).unwrap();
        for (kind, name, namespace) in [("cm", "c", "default"), ("cm", "d", "shop"), ("secret", "s", "default")] {
            let object = json!({ "metadata": { "name": name, "namespace": namespace } });
            store.create(kinds::named(kind).unwrap(), &object).unwrap();
        }
        let names = |types: &str, namespace: &str| {
            let names = names_in(&pods.paths, &kinds_named(types).unwrap(), namespace);
            names.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("pods", "default"), "web");
        assert_eq!(names("pods", "shop"), "db");
        assert_eq!(names("cm", "shop"), "d");
        assert_eq!(names("cm,secrets,pods", "default"), "c s web");
        assert_eq!(names("ns", "none"), "default shop");
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
            ("port-forward", &["pod", "namespace"]),
            ("get", &["resources"]),
            ("describe", &["resources", "namespace"]),
            ("edit", &["resources"]),
            ("label", &["words"]),
            ("annotate", &["words"]),
            ("patch", &["resources"]),
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
