//! Changes of Pods, as all readers see them. Each takes the next number of the counter that all objects of the node share
//! as its `resourceVersion`, and so appears in the lists and watches of the store.
//!
//! A change is made while the Pod's run directory is locked: readers that have found its number wait for the change.

use std::sync::{Arc, OnceLock};

use microkube_base::causes::with_causes;
use microkube_store::{Key, RecordChange, Store, StoreError};

use super::claims::{has_claims, settle_or_warn};
use crate::objects::{self, PODS};
use crate::state::{LockedFile, Paths, PodRecord, PodRecords, RecordsError, StatusRecord};

/// A Pod could not be written with a new version.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It gets no version.
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Opens the node's store when the first version is taken.
#[derive(Debug, Clone)]
pub struct PodVersions {
    records: PodRecords,
    paths: Paths,
    store: Arc<OnceLock<Store>>,
}

impl PodVersions {
    #[must_use]
    pub fn new(paths: &Paths) -> Self {
        Self {
            records: PodRecords::new(paths.clone()),
            paths: paths.clone(),
            store: Arc::default(),
        }
    }

    /// Creates the record of a new Pod with its first version. The returned lock makes its holder the Pod's owner. Blocks.
    ///
    /// # Errors
    /// See [`PodRecords::create`].
    pub fn create(&self, record: &mut PodRecord) -> Result<LockedFile, RecordsError> {
        self.records.create_with(record, |record| {
            record.pod.metadata.resource_version = self.next_or_none(record, false);
        })
    }

    /// Replaces the Pod in its record. The record then has its version. Only the Pod's owner may call this. Blocks.
    ///
    /// # Errors
    /// If the version cannot be taken, or the record not be written.
    pub fn save(&self, record: &mut PodRecord) -> Result<(), SaveError> {
        let _changing = self.records.lock_change(&record.uid)?;
        let version = self.next(record, false)?;
        record.pod.metadata.resource_version = Some(version);
        Ok(self.records.save(record)?)
    }

    /// Replaces the status of a Pod. Without a version, it still counts. Only the Pod's owner may call this. Blocks.
    ///
    /// # Errors
    /// See [`PodRecords::save_status`].
    pub fn save_status(&self, record: &PodRecord, mut status: StatusRecord) -> Result<(), RecordsError> {
        let _changing = self.records.lock_change(&record.uid)?;
        status.resource_version = self.next_or_none(record, false);
        self.records.save_status(&record.uid, &status)
    }

    /// Hides a Pod from all readers. Only the Pod's owner may call this. Blocks.
    ///
    /// # Errors
    /// See [`PodRecords::hide`].
    pub fn hide(&self, uid: &str) -> Result<(), RecordsError> {
        let _changing = self.records.lock_change(uid)?;
        self.number_removal(uid);
        self.records.hide(uid)
    }

    /// Removes a Pod's directories with their content. Only the Pod's owner may call this. Blocks.
    ///
    /// # Errors
    /// See [`PodRecords::remove`].
    pub fn remove(&self, uid: &str) -> Result<(), RecordsError> {
        let changing = self.records.lock_change(uid)?;
        self.number_removal(uid);
        let had_claims = matches!(self.records.get(uid), Ok(Some(record)) if has_claims(&record.pod));
        self.records.remove_record(uid)?;
        // The rest may be large.
        drop(changing);
        self.records.remove(uid)?;
        if had_claims {
            // The Pod has protected its claims, and its ephemeral volumes end with it.
            settle_or_warn(&self.paths);
        }
        Ok(())
    }

    fn number_removal(&self, uid: &str) {
        // Readers do not see a Pod that is hidden or whose record is damaged.
        if let Ok(Some(record)) = self.records.visible(uid) {
            self.next_or_none(&record, true);
        }
    }

    /// The next version. A Pod must live and end even if the store cannot be written; watches then miss the change.
    fn next_or_none(&self, record: &PodRecord, is_removal: bool) -> Option<String> {
        let version = self.next(record, is_removal);
        if let Err(error) = &version {
            let uid = &record.uid;
            tracing::warn!("a change of Pod {uid} gets no version: {}", with_causes(error));
        }
        version.ok()
    }

    fn next(&self, record: &PodRecord, is_removal: bool) -> Result<String, StoreError> {
        let store = match self.store.get() {
            Some(store) => store,
            None => {
                let opened = objects::open(&self.paths)?;
                self.store.get_or_init(|| opened)
            }
        };
        let change = RecordChange {
            key: &Key::namespaced(&record.namespace, &record.name),
            uid: &record.uid,
            is_removal,
        };
        Ok(store.number_change(&PODS, change)?.to_string())
    }
}

#[cfg(test)]
mod tests;
