//! Selects Pod records, for the verbs that act on Pods rather than show them.

use super::arguments::{PodName, Scope, not_found};
use super::snapshot::is_in_scope;
use crate::state::{PodRecord, PodRecords};

/// A name without a Pod.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::cli) struct NoSuchPod(String);

/// The records of the selected Pods, and the errors of other possible ones: names without a Pod, unreadable records.
///
/// # Errors
/// If the set of records cannot be read at all.
pub(in crate::cli) fn select(
    records: &PodRecords,
    scope: &Scope,
) -> anyhow::Result<(Vec<PodRecord>, Vec<anyhow::Error>)> {
    let (all, damaged) = records.list_all()?;
    let selected: Vec<PodRecord> = all.into_iter().filter(|record| is_in_scope(record, scope)).collect();
    let is_missing = |name: &&PodName| !selected.iter().any(|record| name.is(&record.namespace, &record.name));
    let missing = scope.names.iter().filter(is_missing);
    let mut errors: Vec<anyhow::Error> = missing
        .map(|name| NoSuchPod(not_found(&name.name).to_string()).into())
        .collect();
    if !errors.is_empty() || scope.names.is_empty() {
        errors.extend(damaged.into_iter().map(Into::into));
    }
    Ok((selected, errors))
}

#[cfg(test)]
mod tests {
    use super::super::test_pods::TestPods;
    use super::*;

    #[test]
    fn pods_are_selected_once_and_unknown_names_are_reported() {
        let pods = TestPods::new();
        pods.add("web", &[("app", "shop")]);
        pods.add("db", &[]);
        let scope = |names: &[&'static str]| Scope::of_names(Some("default"), names.iter().copied());
        let (found, errors) = select(&pods.records, &scope(&["web", "web", "none"])).unwrap();
        assert_eq!((found.len(), errors.len()), (1, 1));
        assert_eq!(errors[0].to_string(), "Error (NotFound): pods \"none\" not found");
        let mut labelled = scope(&[]);
        labelled.selector = "app".parse().unwrap();
        assert_eq!(select(&pods.records, &labelled).unwrap().0.len(), 1);
    }

    #[test]
    fn a_damaged_record_is_reported_if_it_may_belong_to_a_selected_pod() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[]);
        pods.add("db", &[]);
        std::fs::write(pods.paths.pod_state(&uid).join("pod.json"), "{").unwrap();
        for (names, found, wrong) in [(&["db"][..], 1, 0), (&[], 1, 1), (&["web"], 0, 2)] {
            let scope = Scope::of_names(Some("default"), names.iter().copied());
            let (records, errors) = select(&pods.records, &scope).unwrap();
            assert_eq!((records.len(), errors.len()), (found, wrong), "{names:?}: {errors:?}");
        }
    }
}
