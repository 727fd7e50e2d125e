//! `microkube wait`.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::Pod;

use super::duration::{Timeout, duration};
use super::failure::{Failure, complain};
use super::jsonpath::Template;
use super::pods::arguments::{PodName, ResourceArgs, Scope, ScopeArgs, SelectorArg, not_found};
use super::pods::snapshot::{self, Snapshot};
use super::pods_host::{self, Place, Purpose};
use super::print::emit;
use crate::pod::changes::{Changed, Changes};
use crate::state::{Paths, PodRecord, PodRecords};

/// Wait for a specific condition on Pods
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube wait --for=condition=Ready pod/web\n  microkube wait --for=jsonpath='{.status.phase}'=Succeeded \
                  pod/job --timeout=5m\n  microkube wait --for=delete pods -l app=shop"
)]
pub struct WaitArgs {
    #[command(flatten)]
    resources: ResourceArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    selector: SelectorArg,
    /// Select all Pods in the namespace
    #[arg(long)]
    all: bool,
    /// The condition to wait for: create, delete, condition=NAME[=VALUE] or jsonpath='{PATH}'[=VALUE]
    #[arg(long = "for", value_name = "CONDITION", value_parser = str::parse::<Condition>)]
    condition: Condition,
    /// How long to wait before giving up, such as 30s or 5m; 0 checks once, a negative value waits a week
    #[arg(long, default_value = "30s", value_parser = duration, allow_hyphen_values = true, value_name = "DURATION")]
    timeout: Timeout,
}

/// The condition to wait for.
#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Status { name: String, value: String },
    Delete,
    Create,
    JsonPath { path: Template, value: Option<String> },
}

impl FromStr for Condition {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, value) = condition.split_once('=').unwrap_or((condition, "true"));
            if name.is_empty() {
                bail!("condition name must not be empty");
            }
            return Ok(Self::Status {
                name: name.to_owned(),
                value: value.to_owned(),
            });
        }
        if let Some(expression) = text.strip_prefix("jsonpath=") {
            return jsonpath_condition(expression);
        }
        match text.to_ascii_lowercase().as_str() {
            "delete" => Ok(Self::Delete),
            "create" => Ok(Self::Create),
            _ => bail!("unrecognized condition: {text:?}"),
        }
    }
}

/// `{PATH}`, `{PATH}=VALUE` or `.PATH=VALUE`; the path may contain equals signs in quotes or braces.
fn jsonpath_condition(expression: &str) -> anyhow::Result<Condition> {
    let mut quote = None;
    let mut depth = 0_usize;
    let mut split = None;
    for (at, character) in expression.char_indices() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if depth > 0 => quote = Some(character),
            (None, '{' | '[' | '(') => depth += 1,
            (None, '}' | ']' | ')') => depth = depth.saturating_sub(1),
            (None, '=') if depth == 0 => {
                split = Some(at);
                break;
            }
            _ => {}
        }
    }
    let (path, value) = match split {
        Some(at) => {
            let value = expression.get(at + 1..).unwrap_or_default();
            let bare = |quote: char| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
            let value = bare('\'').or_else(|| bare('"')).unwrap_or(value);
            (expression.get(..at).unwrap_or_default(), Some(value.to_owned()))
        }
        None => (expression, None),
    };
    if path.is_empty() {
        bail!("jsonpath expression cannot be empty");
    }
    if value.as_deref() == Some("") {
        bail!("jsonpath wait value cannot be empty");
    }
    Ok(Condition::JsonPath {
        path: Template::parse_relaxed(path)?,
        value,
    })
}

impl Condition {
    /// Whether an existing Pod meets the condition.
    fn is_met(&self, pod: &Pod) -> anyhow::Result<bool> {
        match self {
            Self::Status { name, value } => {
                let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
                let mut named = conditions.filter(|condition| condition.type_.eq_ignore_ascii_case(name));
                Ok(named
                    .next()
                    .is_some_and(|condition| condition.status.eq_ignore_ascii_case(value)))
            }
            Self::Delete => Ok(false),
            Self::Create => Ok(true),
            Self::JsonPath { path, value } => {
                let object = serde_json::to_value(pod)?;
                let found = path.find(&object)?;
                let Some(wanted) = value else {
                    return Ok(!found.is_empty());
                };
                match found.as_slice() {
                    [] => Ok(false),
                    [only] if only.is_object() || only.is_array() => {
                        bail!("jsonpath leads to a nested object or list and cannot be compared")
                    }
                    [only] => Ok(only.as_str().map_or_else(|| only.to_string(), str::to_owned) == *wanted),
                    _ => bail!("given jsonpath expression matches more than one value"),
                }
            }
        }
    }
}

pub(super) fn run(args: WaitArgs) -> Result<ExitCode, Failure> {
    let (scope, consumed_stdin) = Scope::new(&args.resources, &args.scope, &args.selector)?;
    if args.all && (args.selector.selector.is_some() || !scope.names.is_empty()) {
        let error = anyhow!("--all cannot be combined with names or a selector");
        return Err(Failure::usage(error));
    }
    if !args.all && scope.names.is_empty() && args.selector.selector.is_none() {
        let error = anyhow!("resource(s) were provided, but no name was specified: specify Pod names, -f, -l or --all");
        return Err(Failure::usage(error));
    }
    let purpose = match args.condition {
        Condition::Create => Purpose::Follow,
        _ => Purpose::Look,
    };
    match pods_host::go_to_pods(purpose, consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => Ok(exit_code),
        Place::Here(paths) => {
            let failures = wait(&paths, &scope, &args.condition, args.timeout.0, &mut |name| {
                emit(&format!("pod/{name} condition met\n"))
            })?;
            failures.iter().for_each(complain);
            Ok(ExitCode::from(u8::from(!failures.is_empty())))
        }
    }
}

/// A Pod that has not met the condition yet.
#[derive(Debug)]
struct Waiting {
    /// `None` for the first Pod that matches the selector.
    name: Option<PodName>,
    /// UID of the awaited Pod; a new Pod with the same name does not count.
    uid: Option<String>,
}

/// Waits for all Pods of the scope and reports each that meets the condition. Returns why the others do not meet it.
fn wait(
    paths: &Paths,
    scope: &Scope,
    condition: &Condition,
    timeout: Duration,
    met: &mut dyn FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<anyhow::Error>> {
    let deadline = Instant::now() + timeout;
    let mut changes = Changes::of(paths)?;
    let records = PodRecords::new(paths.clone());
    let snapshot = Snapshot::read(&records, scope)?;
    let mut failures: Vec<anyhow::Error> = snapshot.damaged.into_iter().map(Into::into).collect();
    let mut waiting: Vec<Waiting> = Vec::new();
    for pod in snapshot.pods {
        let name = PodName::of(&pod);
        if condition.is_met(&pod)? {
            met(&name.name)?;
        } else {
            waiting.push(Waiting {
                name: Some(name),
                uid: pod.metadata.uid,
            });
        }
    }
    for name in snapshot.missing {
        match condition {
            Condition::Create => waiting.push(Waiting {
                name: Some(name),
                uid: None,
            }),
            // A missing Pod counts as deleted; kubectl prints nothing about it.
            Condition::Delete => {}
            _ => failures.push(not_found(&name.name)),
        }
    }
    let nothing_in_scope = waiting.is_empty() && failures.is_empty();
    if nothing_in_scope && scope.names.is_empty() && has_no_records(&records, scope)? && *condition != Condition::Delete
    {
        if *condition != Condition::Create {
            bail!("no matching resources found");
        }
        // Waits for the first Pod that matches the selector.
        waiting.push(Waiting { name: None, uid: None });
    }
    while !waiting.is_empty() {
        if changes.wait(Some(deadline), &[])? == Changed::Nothing {
            break;
        }
        let mut still = Vec::new();
        for one in waiting {
            match check(&records, scope, condition, &one)? {
                Check::Met(name) => met(&name)?,
                Check::NotYet => still.push(one),
                Check::Failed(error) => failures.push(error),
            }
        }
        waiting = still;
    }
    let timed_out = waiting.iter().map(|one| match &one.name {
        None => anyhow!("timed out waiting for the condition on pods"),
        Some(PodName { name, .. }) => anyhow!("timed out waiting for the condition on pods/{name}"),
    });
    failures.extend(timed_out);
    Ok(failures)
}

fn has_no_records(records: &PodRecords, scope: &Scope) -> anyhow::Result<bool> {
    let (found, _) = records.list_all()?;
    Ok(!found.iter().any(|record| snapshot::is_in_scope(record, scope)))
}

enum Check {
    Met(String),
    NotYet,
    Failed(anyhow::Error),
}

/// A Pod's state after a change.
fn check(records: &PodRecords, scope: &Scope, condition: &Condition, one: &Waiting) -> anyhow::Result<Check> {
    let record = match &one.uid {
        Some(uid) => records.visible(uid)?,
        None => {
            let (found, _) = records.list_all()?;
            let is_it = |record: &PodRecord| {
                let is_called = |name: &PodName| name.is(&record.namespace, &record.name);
                one.name.as_ref().is_none_or(is_called)
            };
            found
                .into_iter()
                .find(|record| snapshot::is_in_scope(record, scope) && is_it(record))
        }
    };
    let pod = match record {
        Some(record) => snapshot::object(records, record)?,
        None => None,
    };
    let name = one.name.as_ref().map_or("", |name| &name.name);
    Ok(match (pod, condition) {
        (None, Condition::Delete) => Check::Met(name.to_owned()),
        (None, Condition::Create) => Check::NotYet,
        (None, _) => Check::Failed(not_found(name)),
        (Some(pod), _) if condition.is_met(&pod)? => Check::Met(pod.metadata.name.unwrap_or_default()),
        (Some(_), _) => Check::NotYet,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::pods::test_pods::TestPods;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn scope(names: &[&str]) -> Scope {
        Scope::of_names(Some("default"), names.iter().copied())
    }

    fn result(pods: &TestPods, names: &[&str], condition: &str, timeout: Duration) -> (Vec<String>, Vec<String>) {
        let mut met = Vec::new();
        let condition = condition.parse().unwrap();
        let failures = wait(&pods.paths, &scope(names), &condition, timeout, &mut |name| {
            met.push(name.to_owned());
            Ok(())
        });
        let failures = failures.unwrap_or_else(|error| vec![error]);
        (met, failures.iter().map(|error| format!("{error:#}")).collect())
    }

    fn ready(status: &str) -> serde_json::Value {
        json!({ "phase": "Running", "podIP": "10.88.0.2", "conditions": [{ "type": "Ready", "status": status }] })
    }

    #[test]
    fn a_condition_already_met_is_reported_at_once() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[]);
        pods.set_status(&uid, ready("True"));
        for condition in [
            "condition=Ready",
            "condition=ready=TRUE",
            "jsonpath={.status.phase}=Running",
            "jsonpath={.status.podIP}",
            "jsonpath=.status.conditions[?(@.type==\"Ready\")].status=True",
            "create",
        ] {
            let (met, failures) = result(&pods, &["web"], condition, Duration::ZERO);
            assert_eq!(
                (met.as_slice(), failures.len()),
                (&["web".to_owned()][..], 0),
                "{condition}: {failures:?}"
            );
        }
    }

    #[test]
    fn a_condition_accepts_dotted_keys_in_brackets_or_after_a_dot() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[("app.kubernetes.io/name", "shop"), ("tier", "front")]);
        pods.set_status(&uid, ready("True"));
        for condition in [
            r"jsonpath={.metadata.labels['app\.kubernetes\.io/name']}=shop",
            r"jsonpath={.metadata.labels.app\.kubernetes\.io/name}=shop",
            r"jsonpath=.metadata.labels['app\.kubernetes\.io/name']=shop",
            "jsonpath={['metadata.labels.tier']}=front",
        ] {
            let (met, failures) = result(&pods, &["web"], condition, Duration::ZERO);
            assert_eq!((met, failures), (vec!["web".to_owned()], vec![]), "{condition}");
        }
    }

    #[test]
    fn timeouts_and_missing_pods_are_reported_with_kubectls_messages() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[]);
        pods.set_status(&uid, ready("False"));
        let timed_out = ["timed out waiting for the condition on pods/web"];
        for condition in [
            "condition=Ready",
            "delete",
            "jsonpath={.status.phase}=Failed",
            "jsonpath={.none}=1",
        ] {
            assert_eq!(
                result(&pods, &["web"], condition, Duration::ZERO).1,
                timed_out,
                "{condition}"
            );
        }
        assert_eq!(
            result(&pods, &["web"], "condition=Ready=false", Duration::ZERO).0,
            ["web"]
        );
        assert_eq!(
            result(&pods, &["none"], "condition=Ready", LONG).1,
            ["Error (NotFound): pods \"none\" not found"]
        );
        assert_eq!(result(&pods, &["none"], "delete", LONG), (vec![], vec![]));
        let empty = TestPods::new();
        assert_eq!(
            result(&empty, &[], "condition=Ready", LONG).1,
            ["no matching resources found"]
        );
        assert_eq!(result(&empty, &[], "delete", LONG), (vec![], vec![]));
    }

    #[test]
    fn changes_end_the_wait() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[]);
        std::thread::scope(|scope| {
            let waits = [("web", "condition=Ready"), ("web", "delete"), ("new", "create")].map(|(name, condition)| {
                let pods = &pods;
                scope.spawn(move || result(pods, &[name], condition, LONG))
            });
            pods.add("new", &[]);
            pods.set_status(&uid, ready("True"));
            let [is_ready, is_deleted, is_created] = waits;
            assert_eq!(is_ready.join().unwrap().0, ["web"]);
            pods.records.remove(&uid).unwrap();
            assert_eq!(is_deleted.join().unwrap().0, ["web"]);
            assert_eq!(is_created.join().unwrap().0, ["new"]);
        });
    }

    #[test]
    fn a_force_deleted_pod_counts_as_deleted_during_its_termination() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[]);
        let scope = Scope::of_names(Some("default"), ["web"]);
        let deleted: Condition = "delete".parse().unwrap();
        let one = Waiting {
            name: scope.names.first().cloned(),
            uid: Some(uid.clone()),
        };
        let check = || check(&pods.records, &scope, &deleted, &one).unwrap();
        assert!(matches!(check(), Check::NotYet));
        pods.records.hide(&uid).unwrap();
        pods.set_status(&uid, ready("True"));
        assert!(matches!(check(), Check::Met(name) if name == "web"));
    }

    #[test]
    fn invalid_conditions_are_refused() {
        for (condition, part) in [
            ("ready", "unrecognized condition: \"ready\""),
            ("condition=", "must not be empty"),
            ("jsonpath=", "cannot be empty"),
            ("jsonpath={.a}=", "value cannot be empty"),
            ("jsonpath={.a[}", "error parsing jsonpath"),
        ] {
            let error = condition.parse::<Condition>().unwrap_err().to_string();
            assert!(error.contains(part), "{condition}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_condition_is_parsed_or_refused(text in "(condition=|jsonpath=|)[{}.\\[\\]a=\"'()]{0,20}") {
            let _ = text.parse::<Condition>();
        }
    }
}
