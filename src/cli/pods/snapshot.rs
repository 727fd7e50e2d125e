//! Pods at one moment, as Kubernetes API objects built from their records.

use k8s_openapi::api::core::v1::Pod;

use super::arguments::{PodName, Scope};
use crate::pod::recorded_pod::object;
use crate::state::{PodRecord, PodRecords, RecordsError};

/// The selected Pods, and why some cannot be shown.
#[derive(Debug, Default)]
pub(in crate::cli) struct Snapshot {
    /// Sorted by namespace and name.
    pub(in crate::cli) pods: Vec<Pod>,
    /// Requested names that do not exist.
    pub(in crate::cli) missing: Vec<PodName>,
    /// Each error names its file.
    pub(in crate::cli) damaged: Vec<RecordsError>,
}

impl Snapshot {
    /// Reads the Pods of a scope. A Pod that is removed in the meantime is left out.
    ///
    /// # Errors
    /// If the set of records cannot be read at all.
    pub(in crate::cli) fn read(records: &PodRecords, scope: &Scope) -> Result<Self, RecordsError> {
        let (found, damaged) = records.list_all()?;
        let mut snapshot = Self {
            damaged,
            ..Self::default()
        };
        let mut missing = scope.names.clone();
        for record in &found {
            missing.retain(|name| !name.is(&record.namespace, &record.name) || !is_in_scope(record, scope));
        }
        if missing.is_empty() && !scope.names.is_empty() {
            // All requested Pods are present, so the damaged records belong to others.
            snapshot.damaged.clear();
        }
        for record in found {
            if !is_in_scope(&record, scope) {
                continue;
            }
            match object(records, record) {
                Ok(pod) => snapshot.pods.extend(pod),
                Err(error) => snapshot.damaged.push(error),
            }
        }
        snapshot.missing = missing;
        let key = |pod: &Pod| {
            // Named Pods are sorted as on the command line.
            let position = scope.names.iter().position(|name| is_called(pod, name));
            (position, pod.metadata.namespace.clone(), pod.metadata.name.clone())
        };
        snapshot.pods.sort_by_cached_key(key);
        Ok(snapshot)
    }
}

/// Whether a Pod is in the scope.
pub(in crate::cli) fn is_in_scope(record: &PodRecord, scope: &Scope) -> bool {
    let is_in = |namespace: &String| *namespace == record.namespace;
    let is_called = |name: &PodName| name.is(&record.namespace, &record.name);
    (scope.names.is_empty() || scope.names.iter().any(is_called))
        && (!scope.names.is_empty() || scope.namespace.as_ref().is_none_or(is_in))
        && scope.selector.matches(record.pod.metadata.labels.as_ref())
}

fn is_called(pod: &Pod, name: &PodName) -> bool {
    let PodName { namespace, name: own } = PodName::of(pod);
    name.is(&namespace.unwrap_or_default(), &own)
}
