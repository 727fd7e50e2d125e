//! Records on disk: where they lie, how they are replaced, who owns them, and what is done about owners that died.
//!
//! A record is the truth about a Pod; whoever starts next acts on it. What a record means for a Pod's life is decided in
//! `pod`, not here.

mod event_log;
mod format_version;
mod paths;
mod pod_owner;
mod pod_record;
mod pod_records;
mod process;
mod record;
mod status_record;

pub use event_log::{EventLog, EventRecord, MAX_EVENTS, MAX_MESSAGE_BYTES};
pub use format_version::{POD_RECORDS_VERSION, RecordFormat, encode as encode_record};
pub(crate) use paths::create_private_dir;
pub use paths::{Paths, PathsError};
pub use pod_record::{PodRecord, PullSecretRecord};
pub use pod_records::{PodRecords, RecordsError};
pub use process::{ProcessError, ProcessIdentity};
#[cfg(test)]
pub(crate) use record::MAX_RECORD_BYTES;
pub use record::{
    Lifetime, LockedFile, RecordError, lock_exclusive, read_record, replace_file, replace_record, try_lock_exclusive,
};
pub use status_record::StatusRecord;
