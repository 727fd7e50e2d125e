//! Durations of the stages of a Pod's start.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// One stage and its duration. Stages may overlap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// `manifest`, `image`, `network`, `vmm`, `kernel`, `agent`, `container` or `total`.
    pub name: String,
    pub milliseconds: f64,
}

impl Stage {
    #[must_use]
    pub fn new(name: &str, duration: Duration) -> Self {
        Self {
            name: name.to_owned(),
            milliseconds: duration.as_secs_f64() * 1000.0,
        }
    }

    /// A stage that began at `start` and ends now.
    #[must_use]
    pub fn since(name: &str, start: Instant) -> Self {
        Self::new(name, start.elapsed())
    }
}

/// The stages as a table for display.
#[must_use]
pub fn table(stages: &[Stage]) -> String {
    let mut table = String::from("STAGE        MILLISECONDS\n");
    for stage in stages {
        table.push_str(&format!("{:<12} {:>12.1}\n", stage.name, stage.milliseconds));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_one_line_per_stage() {
        let stages = [
            Stage::new("kernel", Duration::from_micros(20_500)),
            Stage::new("agent", Duration::from_millis(3)),
        ];
        assert_eq!(
            table(&stages),
            "STAGE        MILLISECONDS\nkernel               20.5\nagent                 3.0\n"
        );
    }
}
