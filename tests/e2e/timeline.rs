//! The output of a Pod's containers with two times for each line: when it was written, by the guest's clock, and when
//! it arrived, by the host's.

use jiff::Timestamp;

use crate::detached_pod::Detached;
use crate::host::{Running, host};

/// A shell function that prints a word and the guest's uptime, a clock shared by all containers.
pub const SAY: &str = "say() { read -r up rest < /proc/uptime; echo \"$1 $up\"; }; ";

/// A word printed by a container.
#[derive(Debug, Clone, PartialEq)]
pub struct PrintedWord {
    pub container: String,
    pub word: String,
    /// The guest's uptime in seconds.
    pub at_s: f64,
    /// When the line arrived, which is never before it was written.
    pub arrived: Timestamp,
}

/// `logs -f` of all containers of a Pod.
pub struct Follower(Running);

impl Follower {
    pub fn start(pod: &Detached) -> Self {
        Self(host().begin([
            "logs",
            "-f",
            &pod.0,
            "--all-containers",
            "--prefix",
            "--timestamps",
            "--max-log-requests=9",
        ]))
    }

    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        self.0.wait_for(text);
    }

    /// Everything printed until the Pod was gone.
    #[track_caller]
    pub fn finish(self) -> Timeline {
        let text = self.0.finish().success();
        Timeline(text.lines().filter_map(parse).collect())
    }
}

/// Parses `[pod/POD/CONTAINER] TIMESTAMP WORD UPTIME`; ignores other lines.
fn parse(line: &str) -> Option<PrintedWord> {
    let mut parts = line.split_whitespace();
    let container = parts.next()?.trim_matches(['[', ']']).rsplit('/').next()?.to_owned();
    let arrived = parts.next()?.parse().ok()?;
    let (word, at_s) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
    Some(PrintedWord {
        container,
        word,
        at_s,
        arrived,
    })
}

#[derive(Debug)]
pub struct Timeline(Vec<PrintedWord>);

impl Timeline {
    /// How many times a container printed this word.
    pub fn count(&self, container: &str, word: &str) -> usize {
        self.all(container, word).count()
    }

    fn all(&self, container: &str, word: &str) -> impl Iterator<Item = &PrintedWord> {
        self.0
            .iter()
            .filter(move |said| said.container == container && said.word == word)
    }

    /// The word, which the container must have printed exactly once.
    #[track_caller]
    pub fn once(&self, container: &str, word: &str) -> &PrintedWord {
        let mut all = self.all(container, word);
        match (all.next(), all.next()) {
            (Some(said), None) => said,
            (said, _) => panic!(
                "{container} said {word:?} {} times: {self:#?}",
                said.map_or("0", |_| "several")
            ),
        }
    }

    /// Asserts that containers printed these words once each, in this order by the guest's clock.
    #[track_caller]
    pub fn assert_order(&self, words: &[(&str, &str)]) {
        for pair in words.windows(2) {
            let [before, after] = [pair[0], pair[1]].map(|(container, word)| self.once(container, word));
            assert!(before.at_s <= after.at_s, "{before:?} comes after {after:?}: {self:#?}");
        }
    }
}
