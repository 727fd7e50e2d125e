//! Many cases in one boot: containers of one Pod, each with its expected lines of output.

use microkube_tests::manifest::{Container, Pod};

/// Containers and the lines that each writes.
#[derive(Default)]
pub struct Cases(Vec<(Container, Vec<String>)>);

impl Cases {
    pub fn expect<L: AsRef<str>>(mut self, container: Container, lines: &[L]) -> Self {
        let lines = lines.iter().map(|line| line.as_ref().to_owned()).collect();
        self.0.push((container, lines));
        self
    }

    /// Adds the containers to a Pod.
    pub fn add_to(&self, pod: Pod) -> Pod {
        let containers = self.0.iter().map(|(container, _)| container.clone());
        containers.fold(pod, Pod::container)
    }

    /// Compares the output of the Pod, whose lines begin with the names of the containers in brackets. Reports all
    /// differences together, because another run takes long.
    #[track_caller]
    pub fn assert_output(&self, output: &str) {
        let mut differences = String::new();
        for (container, expected) in &self.0 {
            let written = lines_of(output, container.name());
            if written != *expected {
                differences += &format!(
                    "{}:\n  expected {expected:#?}\n  written {written:#?}\n",
                    container.name()
                );
            }
        }
        assert!(differences.is_empty(), "{differences}");
    }
}

/// The lines of one container in the output of a Pod: `[name] line`, with `logs --prefix` `[pod/pod/name] line`.
pub fn lines_of<'t>(output: &'t str, container: &str) -> Vec<&'t str> {
    let line_of = |line: &'t str| {
        let (place, text) = line.strip_prefix('[')?.split_once("] ")?;
        (place.rsplit('/').next() == Some(container)).then_some(text)
    };
    output.lines().filter_map(line_of).collect()
}
