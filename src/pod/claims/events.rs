//! Records the events about claims and volumes. A Pod's supervisor records those about its Pod.

use std::time::SystemTime;

use microkube_base::causes::with_causes;
use microkube_claims::Event;

use crate::state::{InvolvedObject, ObjectEventLog, Occurrence, Paths, RecordError};

/// Records what has happened, and the states that last. The caller holds the lock of claims. An error is only logged,
/// because claims do not depend on events.
pub(super) fn record(paths: &Paths, happened: &[Event], lasting: &[Event]) {
    if let Err(error) = try_to_record(paths, happened, lasting) {
        tracing::warn!("cannot record events about claims: {}", with_causes(&error));
    }
}

fn try_to_record(paths: &Paths, happened: &[Event], lasting: &[Event]) -> Result<(), RecordError> {
    let happened = happened.iter().map(|event| (event, false));
    let events = happened.chain(lasting.iter().map(|event| (event, true)));
    let mut events = events.filter(|(event, _)| event.about.kind != "Pod").peekable();
    if events.peek().is_none() {
        return Ok(());
    }
    let mut log = ObjectEventLog::open(paths)?;
    let now = SystemTime::now();
    for (event, lasts) in events {
        let about = &event.about;
        let object = InvolvedObject {
            kind: about.kind.to_owned(),
            namespace: about.namespace.clone(),
            name: about.name.clone(),
            uid: about.uid.clone(),
        };
        let occurrence = Occurrence {
            warning: event.is_warning,
            reason: event.reason,
            message: &event.message,
            component: event.component,
            lasts,
        };
        log.add(&object, occurrence, now);
    }
    log.save()
}
