//! Removes files that dead writers left.

use std::io;

use microkube_base::file_lock::Sharing;
use microkube_base::replaced_file;

use crate::disk::Directory;
use crate::error::StoreError;
use crate::revisions::{self, tidy};
use crate::store::{Store, open};

impl Store {
    /// Removes incomplete files and outdated revisions of objects that killed writers left. These files are harmless,
    /// but revisions may contain old Secrets. Files that the store did not write stay.
    ///
    /// # Errors
    /// If a directory cannot be read. The other directories are swept.
    pub fn sweep(&self) -> Result<(), StoreError> {
        let mut failed = None;
        let mut keep = |swept: Result<(), StoreError>| {
            if let Err(error) = swept {
                failed.get_or_insert(error);
            }
        };
        keep(self.remove_leftovers());
        let types = self.objects();
        for of_type in children(types)? {
            let of_type = match open(types, &of_type) {
                Ok(Some(of_type)) => of_type,
                Ok(None) => continue,
                Err(error) => {
                    keep(Err(error));
                    continue;
                }
            };
            let namespaces = children(&of_type).unwrap_or_else(|error| {
                keep(Err(error));
                Vec::new()
            });
            for namespace in namespaces {
                keep(sweep_namespace(&of_type, &namespace));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Removes incomplete files of the counter and the journal, which only the holder of the lock writes.
    fn remove_leftovers(&self) -> Result<(), StoreError> {
        let _locked = self.lock(Sharing::Exclusive)?;
        for directory in [self.root(), self.journal_directory()] {
            match replaced_file::remove_leftovers(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("sweep", directory)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn sweep_namespace(of_type: &Directory, name: &str) -> Result<(), StoreError> {
    let Some(namespace) = open(of_type, name)? else {
        return Ok(());
    };
    for bucket in children(&namespace)? {
        let Some(bucket) = open(&namespace, &bucket)? else {
            continue;
        };
        let error = || StoreError::io("sweep", bucket.path());
        let (objects, _) = revisions::all(bucket.entries().map_err(error())?);
        let untidy: Vec<_> = objects
            .iter()
            .filter(|(_, (revisions, _))| !revisions.is_tidy())
            .collect();
        if !untidy.is_empty() {
            // The newest revisions must be durable before others are removed.
            bucket.sync().map_err(error())?;
        }
        for (stem, (revisions, _)) in untidy {
            tidy(&bucket, stem, revisions).map_err(error())?;
        }
    }
    Ok(())
}

/// Names of the directories in a directory.
fn children(directory: &Directory) -> Result<Vec<String>, StoreError> {
    let entries = directory.entries().map_err(StoreError::io("read", directory.path()))?;
    let directories = entries.into_iter().filter(|entry| !entry.is_no_directory);
    Ok(directories.filter_map(|entry| entry.name).collect())
}
