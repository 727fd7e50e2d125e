//! What a Pod's containers say, with the times at which they said it: by the guest's clock, and by the host's when it arrived.

use jiff::Timestamp;

use crate::detached_pod::Detached;
use crate::host::{Running, host};

/// A shell function: says a word and the guest's uptime, which is one clock for all containers.
pub const SAY: &str = "say() { read -r up rest < /proc/uptime; echo \"$1 $up\"; }; ";

/// A word of a container's.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    pub container: String,
    pub word: String,
    /// The guest's uptime, seconds.
    pub at_s: f64,
    /// When the line arrived: never before it was written.
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

    /// All that was said until the Pod was gone.
    #[track_caller]
    pub fn finish(self) -> Timeline {
        let text = self.0.finish().success();
        Timeline(text.lines().filter_map(parse).collect())
    }
}

/// `[pod/POD/CONTAINER] TIMESTAMP WORD UPTIME`; other lines are of no interest here.
fn parse(line: &str) -> Option<Said> {
    let mut parts = line.split_whitespace();
    let container = parts.next()?.trim_matches(['[', ']']).rsplit('/').next()?.to_owned();
    let arrived = parts.next()?.parse().ok()?;
    let (word, at_s) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
    Some(Said {
        container,
        word,
        at_s,
        arrived,
    })
}

#[derive(Debug)]
pub struct Timeline(Vec<Said>);

impl Timeline {
    /// How often a container said this.
    pub fn count(&self, container: &str, word: &str) -> usize {
        self.all(container, word).count()
    }

    fn all(&self, container: &str, word: &str) -> impl Iterator<Item = &Said> {
        self.0
            .iter()
            .filter(move |said| said.container == container && said.word == word)
    }

    /// What a container said exactly once.
    #[track_caller]
    pub fn once(&self, container: &str, word: &str) -> &Said {
        let mut all = self.all(container, word);
        match (all.next(), all.next()) {
            (Some(said), None) => said,
            (said, _) => panic!(
                "{container} said {word:?} {} times: {self:#?}",
                said.map_or("0", |_| "several")
            ),
        }
    }

    /// Asserts that containers said these words once each and in this order, by the guest's clock.
    #[track_caller]
    pub fn assert_order(&self, words: &[(&str, &str)]) {
        for pair in words.windows(2) {
            let [before, after] = [pair[0], pair[1]].map(|(container, word)| self.once(container, word));
            assert!(before.at_s <= after.at_s, "{before:?} comes after {after:?}: {self:#?}");
        }
    }
}
