//! The events on the page (`DescribeEvents`).

use jiff::Timestamp;

use super::super::events::{age, kind};
use super::page::Page;
use crate::state::EventRecord;

/// An event, and the part of Kubernetes or microkube that reports it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed<'e> {
    pub(super) from: &'e str,
    pub(super) event: &'e EventRecord,
}

/// The events, those that were seen last at the end.
pub(super) fn list<'e>(page: &mut Page, events: impl IntoIterator<Item = Listed<'e>>, now: Timestamp) {
    let mut events: Vec<Listed<'_>> = events.into_iter().collect();
    if events.is_empty() {
        page.field(0, "Events", "<none>");
        return;
    }
    events.sort_by_key(|listed| listed.event.last_seen);
    page.section();
    page.title(0, "Events");
    page.cells(1, &["Type", "Reason", "Age", "From", "Message"]);
    page.cells(1, &["----", "------", "----", "----", "-------"]);
    for Listed { from, event } in events {
        page.cells(
            1,
            &[kind(event), &event.reason, &age(event, now), from, event.message.trim()],
        );
    }
}
