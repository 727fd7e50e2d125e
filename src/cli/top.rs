//! `microkube top`: resource usage of Pods.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Subcommand, ValueEnum};
use futures::future::join_all;

use super::completion;
use super::failure::{Failure, complain};
use super::pods::arguments::Scope;
use super::pods::selection::select;
use super::pods_host::{self, Place, Purpose};
use super::print::{emit, for_terminal};
use super::selector::Selector;
use super::stream::target::pod_name;
use super::table;
use crate::pod::client::{ClientError, SupervisorClient};
use crate::pod::supervisor_protocol::ContainerUsage;
use crate::state::{Paths, PodRecord, PodRecords};
use crate::stderr::{report, say};

/// How long a supervisor may take to report its Pod's usage. A supervisor that hangs does not hide the other Pods.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Display resource (CPU/memory) usage
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube top pod\n  microkube top pod web --containers\n  microkube top pod --sort-by=memory --sum"
)]
pub struct TopArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Display resource (CPU/memory) usage of Pods
    #[command(visible_aliases = ["pods", "po"])]
    Pod(TopPodArgs),
}

/// The column by which rows are sorted, largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SortBy {
    Cpu,
    Memory,
}

#[derive(Debug, clap::Args)]
struct TopPodArgs {
    /// Pod name: NAME or pod/NAME [default: all Pods]
    #[arg(value_name = "NAME", add = completion::pod_names())]
    name: Option<String>,
    /// Print usage of each container
    #[arg(long)]
    containers: bool,
    /// Label selector to filter Pods
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = str::parse::<Selector>)]
    selector: Option<Selector>,
    /// Sort by this column, largest first
    #[arg(long, value_name = "COLUMN")]
    sort_by: Option<SortBy>,
    /// Don't print column headers
    #[arg(long)]
    no_headers: bool,
    /// Print the sum of the resource usage
    #[arg(long)]
    sum: bool,
    /// Namespace of the Pods
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
    /// Use Pods of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

/// A Pod and its containers' resource usage.
#[derive(Debug, Clone)]
struct PodUsage {
    namespace: String,
    name: String,
    containers: Vec<ContainerUsage>,
}

pub(super) fn run(args: TopArgs) -> Result<ExitCode, Failure> {
    let What::Pod(args) = args.what;
    if args.name.is_some() && args.selector.is_some() {
        return Err(Failure::from(anyhow!("only one of NAME or --selector can be provided")));
    }
    let paths = match pods_host::go_to_pods(Purpose::Look, None)? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let (records, errors) = selected(&args, &paths)?;
    errors.iter().for_each(complain);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let usage = runtime.block_on(usage_of(&paths, &args, records))?;
    if usage.is_empty() && errors.is_empty() {
        say!(
            "{}",
            match args.all_namespaces {
                true => "No resources found".to_owned(),
                false => format!("No resources found in {} namespace.", for_terminal(&args.namespace)),
            }
        );
    } else if !usage.is_empty() {
        emit(&table(usage, &args))?;
    }
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

/// The selected Pods, and the errors of others.
fn selected(args: &TopPodArgs, paths: &Paths) -> anyhow::Result<(Vec<PodRecord>, Vec<anyhow::Error>)> {
    let name = args.name.as_deref().map(pod_name).transpose()?;
    let namespace = (!args.all_namespaces).then_some(args.namespace.as_str());
    let scope = Scope {
        selector: args.selector.clone().unwrap_or_default(),
        ..Scope::of_names(namespace, name)
    };
    select(&PodRecords::new(paths.clone()), &scope)
}

/// Asks all supervisors concurrently. A Pod that does not run has no supervisor; that is an error only if the Pod was
/// named.
async fn usage_of(paths: &Paths, args: &TopPodArgs, records: Vec<PodRecord>) -> anyhow::Result<Vec<PodUsage>> {
    let asked = records.into_iter().map(|record| async move {
        let stats = async { SupervisorClient::connect(paths, &record.uid).await?.stats().await };
        let stats = tokio::time::timeout(ANSWER_LIMIT, stats).await;
        (record, stats)
    });
    let mut all = Vec::new();
    for (record, stats) in join_all(asked).await {
        let label = format!("{}/{}", record.namespace, record.name);
        let error = match stats {
            Ok(Ok(containers)) => {
                all.push(PodUsage {
                    namespace: record.namespace,
                    name: record.name,
                    containers,
                });
                continue;
            }
            Ok(Err(ClientError::NotRunning(_))) if args.name.is_none() => continue,
            Ok(Err(error)) => anyhow::Error::from(error),
            Err(_) => anyhow!("the Pod's supervisor does not answer"),
        };
        let error = error.context(format!("Metrics not available for pod {label}"));
        if args.name.is_some() {
            return Err(error);
        }
        report!("{}", for_terminal(&format!("{error:#}")));
    }
    Ok(all)
}

/// kubectl's columns.
fn table(mut pods: Vec<PodUsage>, args: &TopPodArgs) -> String {
    let total = |pod: &PodUsage| {
        let sum = |of: fn(&ContainerUsage) -> u64| pod.containers.iter().map(of).fold(0, u64::saturating_add);
        (sum(|usage| usage.cpu_nanocores), sum(|usage| usage.memory_bytes))
    };
    let key = |(cpu, memory): (u64, u64)| match args.sort_by {
        Some(SortBy::Cpu) => std::cmp::Reverse(cpu),
        Some(SortBy::Memory) => std::cmp::Reverse(memory),
        None => std::cmp::Reverse(0),
    };
    pods.sort_by(|a, b| {
        let names = |pod: &PodUsage| (pod.namespace.clone(), pod.name.clone());
        key(total(a)).cmp(&key(total(b))).then_with(|| names(a).cmp(&names(b)))
    });
    let (cpu_sum, memory_sum) = pods.iter().map(total).fold((0, 0), |sum: (u64, u64), of_pod| {
        (sum.0.saturating_add(of_pod.0), sum.1.saturating_add(of_pod.1))
    });
    let cells = |cpu: u64, memory: u64| [format!("{}m", cpu.div_ceil(1_000_000)), format!("{}Mi", memory >> 20)];
    let mut rows = Vec::new();
    if !args.no_headers {
        let mut header = Vec::new();
        header.extend(args.all_namespaces.then_some("NAMESPACE"));
        header.extend(args.containers.then_some("POD"));
        header.extend(["NAME", "CPU(cores)", "MEMORY(bytes)"]);
        rows.push(header.into_iter().map(str::to_owned).collect());
    }
    for mut pod in pods {
        let (cpu, memory) = total(&pod);
        let mut row = |pod_name: Option<&str>, name: &str, cpu: u64, memory: u64| {
            let mut row = Vec::new();
            row.extend(args.all_namespaces.then(|| pod.namespace.clone()));
            row.extend(pod_name.map(str::to_owned));
            row.push(for_terminal(name));
            row.extend(cells(cpu, memory));
            rows.push(row);
        };
        if args.containers {
            pod.containers.sort_by(|a, b| {
                let usage = |usage: &ContainerUsage| key((usage.cpu_nanocores, usage.memory_bytes));
                usage(a).cmp(&usage(b)).then_with(|| a.container.cmp(&b.container))
            });
            for usage in &pod.containers {
                row(
                    Some(&pod.name),
                    &usage.container,
                    usage.cpu_nanocores,
                    usage.memory_bytes,
                );
            }
        } else {
            row(None, &pod.name, cpu, memory);
        }
    }
    if args.sum {
        // Under the two numeric columns, whatever precedes them.
        let names = 1 + usize::from(args.all_namespaces) + usize::from(args.containers);
        let line = "________".to_owned();
        for numbers in [[line.clone(), line], cells(cpu_sum, memory_sum)] {
            let mut row = vec![String::new(); names];
            row.extend(numbers);
            rows.push(row);
        }
    }
    table::table(&rows)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: TopPodArgs,
    }

    fn args(line: &str) -> TopPodArgs {
        CommandLine::try_parse_from(std::iter::once("pod").chain(line.split_whitespace()))
            .unwrap()
            .args
    }

    fn pod(name: &str, containers: &[(&str, u64, u64)]) -> PodUsage {
        let containers = containers
            .iter()
            .map(|(container, millicores, mebibytes)| ContainerUsage {
                container: (*container).to_owned(),
                cpu_nanocores: millicores * 1_000_000 - 1,
                memory_bytes: mebibytes << 20,
            });
        PodUsage {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            containers: containers.collect(),
        }
    }

    #[test]
    fn the_table_has_kubectls_columns_and_units() {
        let pods = vec![pod("web", &[("b", 30, 20), ("a", 5, 50)]), pod("db", &[("c", 100, 10)])];
        assert_eq!(
            table(pods.clone(), &args("")),
            "NAME   CPU(cores)   MEMORY(bytes)\ndb     100m         10Mi\nweb    35m          70Mi\n"
        );
        assert_eq!(
            table(pods.clone(), &args("--containers --sort-by=memory")),
            "POD   NAME   CPU(cores)   MEMORY(bytes)\nweb   a      5m           50Mi\nweb   b      30m          20Mi\ndb    c      100m         10Mi\n"
        );
        assert_eq!(
            table(pods.clone(), &args("--containers --sum --sort-by=cpu")),
            "\
POD   NAME   CPU(cores)   MEMORY(bytes)
db    c      100m         10Mi
web   b      30m          20Mi
web   a      5m           50Mi
             ________     ________
             135m         80Mi
"
        );
        assert_eq!(
            table(pods.clone(), &args("-A --sum --no-headers")),
            "\
default   db    100m       10Mi
default   web   35m        70Mi
                ________   ________
                135m       80Mi
"
        );
        assert_eq!(
            table(pods, &args("-A --no-headers --sort-by=cpu")),
            "default   db    100m   10Mi\ndefault   web   35m    70Mi\n"
        );
    }

    #[tokio::test]
    async fn pods_without_a_supervisor_are_skipped_unless_named() {
        use crate::pod::supervisor_protocol::{self, Notice, SupervisorFrame, SupervisorRequest, write_frame};
        use crate::pod::test_pods::asked;
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let record = |name: &str| -> PodRecord {
            serde_json::from_value(serde_json::json!({
                "uid": name, "namespace": "default", "name": name, "client": null, "supervisor": null, "vmm": null,
                "pod": { "apiVersion": "v1", "kind": "Pod", "metadata": {} },
            }))
            .unwrap()
        };
        let records = PodRecords::new(paths.clone());
        for name in ["runs", "ended"] {
            drop(records.create(&record(name)).unwrap());
        }
        let listener = supervisor_protocol::listen(&paths.pod_run("runs")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        let usage = pod("runs", &[("c", 7, 3)]).containers;
        let answer = SupervisorFrame::Notice(Notice::Stats(usage.clone()));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(asked(&mut stream).await, Some(SupervisorRequest::Stats));
            write_frame(&mut stream, &answer).await.unwrap();
        });
        let all = args("");
        let found = usage_of(&paths, &all, selected(&all, &paths).unwrap().0).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].containers, usage);

        let named = args("ended");
        let error = usage_of(&paths, &named, selected(&named, &paths).unwrap().0)
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("Metrics not available for pod default/ended"),
            "{error}"
        );
        assert!(
            selected(&args("nope"), &paths).unwrap().1[0]
                .to_string()
                .contains("pods \"nope\" not found")
        );
    }
}
