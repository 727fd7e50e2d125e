//! `microkube image prune`.

use clap::Args;
use microkube_image::{Image, ImageStore};

use super::print;
use super::table::size;
use super::users::Users;
use crate::stderr::report;

/// Remove unused content and, with --all, unused images
#[derive(Debug, Args)]
#[command(
    after_help = "Content replaced by a newer pull of the same name is removed automatically, once no images are being added.\n\n\
                  Example:\n  microkube image prune --all --filter until=240h"
)]
pub struct PruneArgs {
    /// Remove all images that no Pod uses
    #[arg(short, long)]
    all: bool,
    /// Only remove images created before a time or longer ago than a duration: until=2026-01-31, until=36h
    #[arg(long, value_name = "until=TIME", requires = "all", value_parser = parse_filter)]
    filter: Option<Until>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Until(jiff::Timestamp);

/// Why a text is not a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum FilterError {
    #[error("unknown filter: the only one is until=TIME")]
    Unknown,
    #[error(
        "{value:?} is neither a time (2026-01-31, 2026-01-31T12:00:00Z, seconds since 1970) nor a duration (36h, 1h30m)"
    )]
    NotATime { value: String },
}

fn parse_filter(text: &str) -> Result<Until, FilterError> {
    let Some(value) = text.strip_prefix("until=") else {
        return Err(FilterError::Unknown);
    };
    until(value, jiff::Timestamp::now()).ok_or_else(|| FilterError::NotATime {
        value: value.to_owned(),
    })
}

fn until(value: &str, now: jiff::Timestamp) -> Option<Until> {
    if let Ok(time) = value.parse::<jiff::Timestamp>() {
        return Some(Until(time));
    }
    if let Ok(date) = value.parse::<jiff::civil::DateTime>() {
        return Some(Until(date.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp()));
    }
    if let Ok(seconds) = value.parse::<i64>() {
        return Some(Until(jiff::Timestamp::from_second(seconds).ok()?));
    }
    let duration: jiff::SignedDuration = value.parse().ok()?;
    Some(Until(now.checked_sub(duration.abs()).ok()?))
}

impl Until {
    /// An image without a creation time does not count as old.
    fn covers(self, image: &Image) -> bool {
        let created = image.created().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        created.is_some_and(|created| created < self.0)
    }
}

pub(super) fn run(store: &ImageStore, args: &PruneArgs, users: &Users) -> anyhow::Result<()> {
    let images = store.list()?;
    let unused = |image: &Image| {
        let covered = args.filter.is_none_or(|until| until.covers(image));
        covered && users.of_image(image, &images).is_empty()
    };
    let removed = store.prune(args.all, unused)?;
    for reference in &removed.references {
        print(&format!("removed {reference}\n"))?;
    }
    print(&format!("freed {}\n", size(removed.freed_bytes)))?;
    if !removed.swept {
        report!("other commands are adding images; unused content will be removed when they are done");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_are_parsed() {
        let now: jiff::Timestamp = "2026-02-01T00:00:00Z".parse().unwrap();
        let time = |text: &str| until(text, now).unwrap().0.to_string();
        assert_eq!(time("36h"), "2026-01-30T12:00:00Z");
        assert_eq!(time("1h30m"), "2026-01-31T22:30:00Z");
        assert_eq!(time("2026-01-31T12:00:00Z"), "2026-01-31T12:00:00Z");
        assert_eq!(time("1700000000"), "2023-11-14T22:13:20Z");
        assert!(until("2026-01-31", now).is_some());
        for text in ["", "soon", "-"] {
            assert!(until(text, now).is_none(), "{text}");
        }
        assert!(parse_filter("label=x").is_err());
    }
}
