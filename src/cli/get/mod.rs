//! `microkube get`.

mod arguments;
mod events;
mod order;
mod watch;

use std::process::ExitCode;

use anyhow::bail;
use jiff::Timestamp;
use serde_json::Value;

use super::failure::{Failure, complain};
use super::objects::arguments::{Requested, not_found};
use super::objects::listing::{Listing, Reader};
use super::pods::format::Objects;
use super::pods_host::{self, Place, Purpose};
use super::print::emit;
use super::table::table;
use crate::stderr::say;
pub use arguments::GetArgs;
use arguments::{Show, shown};
use order::sort;

pub(super) fn run(mut args: GetArgs) -> Result<ExitCode, Failure> {
    args.show.prepare().map_err(Failure::from)?;
    if events::are_requested(&args) {
        return events::run(&args);
    }
    let field_selector = args.field_selector.field_selector.as_ref();
    let requested = Requested::new(&args.objects, &args.scope, &args.selector, field_selector)?;
    args.check(&requested)?;
    let follows = args.follows();
    // Objects other than Pods exist even while the emulated host does not run.
    let purpose = match requested.is_only_pods() && !follows {
        true => Purpose::Look,
        false => Purpose::Follow,
    };
    match pods_host::go_to_pods(purpose, requested.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => Ok(exit_code),
        Place::Here(paths) if follows => watch::watch(&Reader::new(paths), &requested, &args),
        Place::Here(paths) => show(&Reader::new(paths), &requested, &args),
    }
}

/// Shows the objects once.
fn show(reader: &Reader, requested: &Requested, args: &GetArgs) -> Result<ExitCode, Failure> {
    let listings = read(reader, requested, &args.show)?;
    emit(&text(&listings, requested, &args.show, Timestamp::now())?)?;
    let mut failed = false;
    for listing in &listings {
        for name in listing.missing.iter().filter(|_| !args.ignore_not_found) {
            complain(&not_found(listing.kind, &name.name));
            failed = true;
        }
    }
    let is_empty = listings.iter().all(|listing| listing.objects.is_empty());
    for error in listings.into_iter().flat_map(|listing| listing.damaged) {
        complain(&error);
        failed = true;
    }
    if args.show.is_table() && is_empty && !requested.has_names() && !args.ignore_not_found {
        say!("{}", requested.nothing_found());
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// Reads the objects of each group, sorted as requested.
fn read(reader: &Reader, requested: &Requested, show: &Show) -> anyhow::Result<Vec<Listing>> {
    let mut listings = Vec::new();
    for group in &requested.groups {
        let mut listing = reader.read(group, requested)?;
        if let Some(path) = &show.sort_by {
            // As in kubectl, a single object that is not in a table need not have the field.
            let may_lack_field = !show.is_table() && listing.objects.len() == 1;
            let is_found = sort(&mut listing.objects, path)?;
            if !is_found && !may_lack_field && !listing.objects.is_empty() {
                bail!(
                    "couldn't find any field with path {:?} in the list of objects",
                    path.text()
                );
            }
        }
        listings.push(listing);
    }
    Ok(listings)
}

/// The objects in the requested format.
fn text(listings: &[Listing], requested: &Requested, show: &Show, now: Timestamp) -> anyhow::Result<String> {
    let Some(format) = show.output.as_ref().filter(|_| !show.is_table()) else {
        return Ok(tables(listings, requested, show, now));
    };
    let objects = listings.iter().flat_map(|listing| listing.objects.iter().cloned());
    let objects: Vec<Value> = objects.map(|object| shown(object, show)).collect();
    // Print nothing for a named object that does not exist.
    if objects.is_empty() && requested.has_names() {
        return Ok(String::new());
    }
    format.print(&Objects::of(&objects, requested.is_single())?, !show.no_headers)
}

/// A table for each kind, with a line between them.
fn tables(listings: &[Listing], requested: &Requested, show: &Show, now: Timestamp) -> String {
    let columns = show.columns(requested);
    let mut text = String::new();
    for listing in listings.iter().filter(|listing| !listing.objects.is_empty()) {
        if !text.is_empty() && !show.no_headers {
            text.push('\n');
        }
        let objects = listing.objects.iter();
        let mut rows: Vec<Vec<String>> = objects.map(|object| columns.row(listing.kind, object, now)).collect();
        if !show.no_headers {
            rows.insert(0, columns.header(listing.kind));
        }
        text += &table(&rows);
    }
    text
}

#[cfg(test)]
mod tests;
