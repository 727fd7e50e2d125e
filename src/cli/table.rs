//! The layout of tables, durations and sizes.

use jiff::Timestamp;

use super::print::on_one_line;

/// Spaces between columns.
const GAP: usize = 3;

/// Minimum width of a column, including its gap.
const MIN_WIDTH: usize = 6;

/// Columns as wide as their widest cell, three spaces apart, as in `kubectl` and `docker`.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    Columns::default().lines(rows)
}

/// A table printed in parts, as when watched: columns never become narrower.
#[derive(Debug, Default)]
pub(super) struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    /// Formats the next rows.
    pub(super) fn lines(&mut self, rows: &[Vec<String>]) -> String {
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| on_one_line(cell)).collect())
            .collect();
        for row in &rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(&self.widths);
            let line: String = cells
                .map(|(cell, width)| padded(cell, (width + GAP).max(MIN_WIDTH)))
                .collect();
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Fills a text up with spaces. Rust's formatting panics at widths above 65535.
pub(super) fn padded(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(text.chars().count());
    format!("{text}{}", " ".repeat(missing))
}

/// Aligns lines whose cells end with tabs like Go's `text/tabwriter` for `kubectl describe`: in neighbouring lines, the
/// cells of a column are equally wide, two spaces more than the widest.
pub(super) fn aligned(text: &str) -> String {
    const PADDING: usize = 2;
    let mut lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|line| vec![0; line.len()]).collect();
    for column in 0..columns {
        let mut start = 0;
        while start < lines.len() {
            // Text after the last tab of a line is not a cell.
            let has_cell = |line: &Vec<&str>| line.len() > column + 1;
            let end = lines
                .iter()
                .skip(start)
                .position(|line| !has_cell(line))
                .map_or(lines.len(), |length| start + length);
            let block = lines.get(start..end).unwrap_or_default();
            let cells = block.iter().filter_map(|line| line.get(column));
            let width = cells.map(|cell| cell.chars().count()).max().unwrap_or(0) + PADDING;
            for line in widths.get_mut(start..end).unwrap_or_default() {
                line[column] = width;
            }
            start = end + 1;
        }
    }
    let mut aligned = String::with_capacity(text.len() * 2);
    for (cells, widths) in lines.drain(..).zip(widths) {
        for (cell, width) in cells.into_iter().zip(widths) {
            aligned += &padded(cell, width);
        }
        aligned.truncate(aligned.trim_end_matches(' ').len());
        aligned.push('\n');
    }
    aligned
}

/// How long ago something was, in kubectl's format; `<unknown>` without a time.
pub(super) fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or_else(
        || "<unknown>".to_owned(),
        |then| human_duration(now.duration_since(then)),
    )
}

/// A duration in Kubernetes' short format (`k8s.io/apimachinery/pkg/util/duration.HumanDuration`).
pub(super) fn human_duration(duration: jiff::SignedDuration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |first: i64, unit: &str, second: i64, smaller: &str| match second {
        0 => format!("{first}{unit}"),
        _ => format!("{first}{unit}{second}{smaller}"),
    };
    match seconds {
        // Clocks may differ slightly.
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

/// The age of an image in Docker's format.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
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

/// A size in Docker's format.
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_and_ages_are_abbreviated() {
        assert_eq!(size(999), "999B");
        assert_eq!(size(4_096), "4.1kB");
        assert_eq!(size(115_074_560), "115MB");
        let then: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(age(then, "2026-01-01T00:00:01Z".parse().unwrap()), "1 second ago");
        assert_eq!(age(then, "2026-01-04T00:00:00Z".parse().unwrap()), "3 days ago");
        assert_eq!(age(then, "2025-12-31T00:00:00Z".parse().unwrap()), "0 seconds ago");
    }

    #[test]
    fn a_cell_can_have_any_length() {
        let long = "ä".repeat(100_000);
        let rows = [vec![long.clone(), "b".to_owned()], vec!["a".to_owned(), "c".to_owned()]];
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("{long}   b"));
        assert_eq!(lines[1].trim_start_matches("a").trim_start(), "c");
        assert_eq!(lines[1].len(), 100_004);
        assert_eq!(aligned(&format!("{long}\tb")), format!("{long}  b\n"));
    }

    #[test]
    fn durations_are_formatted_as_by_kubectl() {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        for (seconds, expected) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (601, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 61, "3h1m"),
            (8 * HOUR + 61, "8h"),
            (2 * DAY - 1, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + HOUR, "2d1h"),
            (8 * DAY + HOUR, "8d"),
            (2 * 365 * DAY - 1, "729d"),
            (2 * 365 * DAY, "2y"),
            (2 * 365 * DAY + DAY, "2y1d"),
            (9 * 365 * DAY + DAY, "9y"),
        ] {
            assert_eq!(
                human_duration(jiff::SignedDuration::from_secs(seconds)),
                expected,
                "{seconds}"
            );
        }
    }

    #[test]
    fn columns_of_a_watched_table_never_shrink() {
        let mut columns = Columns::default();
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(
            columns.lines(&[row("NAME", "AGE"), row("longest", "1s")]),
            "NAME      AGE\nlongest   1s\n"
        );
        assert_eq!(columns.lines(&[row("a", "2s\n\u{1b}")]), "a         2s\\n\\u{1b}\n");
    }

    #[test]
    fn adjacent_lines_align_and_a_line_without_the_cell_ends_the_column() {
        let text = "Name:\ta\nLabels:\tx=1\n\ty=2\nContainers:\n  web:\n    Image:\tnginx\n    Container ID:\t\n";
        let expected = "\
Name:    a
Labels:  x=1
         y=2
Containers:
  web:
    Image:         nginx
    Container ID:
";
        assert_eq!(aligned(text), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_aligned_without_losing_a_word(text in "[a\t\n é]{0,60}") {
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(words(&aligned(&text)), words(&text));
        }

        #[test]
        fn any_duration_is_formatted_without_a_panic(seconds: i64) {
            prop_assert!(!human_duration(jiff::SignedDuration::from_secs(seconds)).is_empty());
        }
    }
}
