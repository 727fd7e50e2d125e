//! Records on disk: their places, their atomic replacement, and their ownership when processes die.
//!
//! A record is the authoritative state of a Pod, on which the next process acts. `pod` interprets it.

mod event_log;
mod format_version;
mod object_events;
mod paths;
mod pod_owner;
mod pod_record;
mod pod_records;
mod process;
mod record;
mod status_record;

pub use event_log::{EventLog, EventRecord, MAX_EVENTS, MAX_MESSAGE_BYTES};
pub use format_version::{POD_RECORDS_VERSION, RecordFormat, encode as encode_record};
pub use object_events::{InvolvedObject, ObjectEvent, ObjectEventLog, Occurrence, object_events};
pub use paths::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, Paths, PathsError};
pub use pod_record::{PodRecord, PullSecretRecord};
pub use pod_records::{PodRecords, RecordsError};
pub use process::{ProcessError, ProcessIdentity};
#[cfg(test)]
pub(crate) use record::MAX_RECORD_BYTES;
pub use record::{
    Lifetime, LockedFile, RecordError, lock_exclusive, read_record, replace_file, replace_record, try_lock_exclusive,
};
pub use status_record::StatusRecord;
