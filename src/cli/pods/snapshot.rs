//! Pods as their records say they are at one moment, as the objects that Kubernetes' API would give.

use k8s_openapi::api::core::v1::Pod;

use super::arguments::{PodName, Scope};
use crate::state::{PodRecord, PodRecords, RecordsError, StatusRecord};

/// The Pods that were asked for, and why some cannot be shown.
#[derive(Debug, Default)]
pub(in crate::cli) struct Snapshot {
    /// By namespace and name.
    pub(in crate::cli) pods: Vec<Pod>,
    /// Names that were asked for and do not exist.
    pub(in crate::cli) missing: Vec<PodName>,
    /// Each names its file.
    pub(in crate::cli) damaged: Vec<RecordsError>,
}

impl Snapshot {
    /// Reads the Pods of a scope. A Pod that goes away meanwhile is not in it.
    ///
    /// # Errors
    /// When the set of records cannot be read at all.
    pub(in crate::cli) fn read(records: &PodRecords, scope: &Scope) -> Result<Self, RecordsError> {
        let (found, damaged) = records.list_all()?;
        let mut snapshot = Self {
            damaged,
            ..Self::default()
        };
        let mut missing = scope.names.clone();
        for record in &found {
            missing.retain(|name| !name.is(&record.namespace, &record.name) || !is_meant(record, scope));
        }
        if missing.is_empty() && !scope.names.is_empty() {
            // Those that were asked for are all there: what is damaged is another one.
            snapshot.damaged.clear();
        }
        for record in found {
            if !is_meant(&record, scope) {
                continue;
            }
            match object(records, record) {
                Ok(pod) => snapshot.pods.extend(pod),
                Err(error) => snapshot.damaged.push(error),
            }
        }
        snapshot.missing = missing;
        let key = |pod: &Pod| {
            // Named ones in the order of their names on the command line.
            let position = scope.names.iter().position(|name| is_called(pod, name));
            (position, pod.metadata.namespace.clone(), pod.metadata.name.clone())
        };
        snapshot.pods.sort_by_cached_key(key);
        Ok(snapshot)
    }
}

/// Whether a Pod is of the scope.
pub(in crate::cli) fn is_meant(record: &PodRecord, scope: &Scope) -> bool {
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

/// The Pod with its status, in the shape of Kubernetes' API; `None` if it is gone.
///
/// # Errors
/// When its status cannot be read.
pub(in crate::cli) fn object(records: &PodRecords, record: PodRecord) -> Result<Option<Pod>, RecordsError> {
    let status = match records.status(&record.uid)? {
        Some(status) => status,
        // Not there yet, or not there any more.
        None if records.visible(&record.uid)?.is_none() => return Ok(None),
        None => StatusRecord::pending(),
    };
    let mut pod = record.pod;
    pod.metadata.uid = Some(record.uid);
    pod.metadata.name = Some(record.name);
    pod.metadata.namespace = Some(record.namespace);
    if status.deletion_timestamp.is_some() {
        // As the API server counts it (`BeforeDelete`).
        pod.metadata.generation = pod.metadata.generation.map(|generation| generation.saturating_add(1));
    }
    pod.metadata.deletion_timestamp = status.deletion_timestamp;
    pod.metadata.deletion_grace_period_seconds = status.deletion_grace_period_seconds;
    pod.status = Some(status.status);
    Ok(Some(pod))
}
