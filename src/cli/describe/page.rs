//! The lines of the page: names and values in columns, indented by level.

use jiff::tz::TimeZone;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::print::on_one_line;
use super::super::table::aligned;

/// The page so far.
#[derive(Debug)]
pub(super) struct Page {
    zone: TimeZone,
    /// Sections with aligned columns.
    finished: String,
    text: String,
}

impl Page {
    /// An empty page, with times in this zone.
    pub(super) fn new(zone: TimeZone) -> Self {
        Self {
            zone,
            finished: String::new(),
            text: String::new(),
        }
    }

    /// `Name:  value`
    pub(super) fn field(&mut self, level: usize, name: &str, value: &str) {
        self.line(level, &format!("{name}:\t{}", on_one_line(value)));
    }

    /// `Name:` with more lines below it.
    pub(super) fn title(&mut self, level: usize, name: &str) {
        self.line(level, &format!("{name}:"));
    }

    /// A single text without a name.
    pub(super) fn word(&mut self, level: usize, text: &str) {
        self.line(level, &on_one_line(text));
    }

    /// A row of a table.
    pub(super) fn cells(&mut self, level: usize, cells: &[&str]) {
        let cells: Vec<String> = cells.iter().map(|cell| on_one_line(cell)).collect();
        self.line(level, &cells.join("\t"));
    }

    /// `Name:  first`, with the others below the first.
    pub(super) fn list(&mut self, level: usize, name: &str, values: &[String]) {
        match values {
            [] => self.field(level, name, "<none>"),
            [first, others @ ..] => {
                self.field(level, name, first);
                for other in others {
                    self.line(level, &format!("\t{}", on_one_line(other)));
                }
            }
        }
    }

    /// A time as in RFC 1123, with the zone's offset.
    pub(super) fn time(&mut self, level: usize, name: &str, time: Option<&Time>) {
        let text = self.shown_time(time);
        self.field(level, name, &text);
    }

    /// A time as [`Self::time`] shows it.
    pub(super) fn shown_time(&self, time: Option<&Time>) -> String {
        time.map_or_else(String::new, |time| {
            let zoned = time.0.to_zoned(self.zone.clone());
            zoned.strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
        })
    }

    /// Starts a section, whose columns are aligned independently.
    pub(super) fn section(&mut self) {
        self.finished += &aligned(&self.text);
        self.text.clear();
    }

    /// Text as it is, without alignment.
    pub(super) fn verbatim(&mut self, text: &str) {
        self.section();
        self.finished += text;
        self.finished.push('\n');
    }

    /// An empty line.
    pub(super) fn gap(&mut self) {
        self.line(0, "");
    }

    /// The whole page.
    pub(super) fn finish(mut self) -> String {
        self.section();
        self.finished
    }

    fn line(&mut self, level: usize, text: &str) {
        for _ in 0..level {
            self.text += "  ";
        }
        self.text += text;
        self.text.push('\n');
    }
}
