//! How tables of images look.

/// Columns as wide as their widest cell, three spaces apart.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let width = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            line += &format!("{cell:width$}   ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Repository and tag; of an image known by its digest, `<none>` as Docker shows it, even if it was pulled with a tag beside: it is not
/// what the tag alone names.
pub(super) fn split_reference(reference: &str) -> (&str, &str) {
    let (name, has_digest) = match reference.split_once('@') {
        Some((name, _)) => (name, true),
        None => (reference, false),
    };
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, if has_digest { "<none>" } else { tag }),
        _ => (name, "<none>"),
    }
}

pub(super) fn age(then: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        172_800..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 {
        format!("{value:.0}{unit}")
    } else {
        format!("{value:.1}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_split_into_repository_and_tag() {
        assert_eq!(
            split_reference("docker.io/library/nginx:1"),
            ("docker.io/library/nginx", "1")
        );
        assert_eq!(
            split_reference("localhost:5000/a@sha256:00"),
            ("localhost:5000/a", "<none>")
        );
        assert_eq!(
            split_reference("localhost:5000/a:b@sha256:00"),
            ("localhost:5000/a", "<none>")
        );
    }

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!(size(999), "999B");
        assert_eq!(size(4_096), "4.1kB");
        assert_eq!(size(115_074_560), "115MB");
        let then: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(age(then, "2026-01-01T00:00:01Z".parse().unwrap()), "1 second ago");
        assert_eq!(age(then, "2026-01-04T00:00:00Z".parse().unwrap()), "3 days ago");
        assert_eq!(age(then, "2025-12-31T00:00:00Z".parse().unwrap()), "0 seconds ago");
    }
}
