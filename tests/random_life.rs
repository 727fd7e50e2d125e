//! Shared by the tests with random verbs and kills: repeatable randomness, and invariants of a Pod.

use serde_json::Value;

/// xorshift64*: it only has to be repeatable from its seed.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Seeded by the environment variable, or else by the clock. Prints how to repeat the run.
    pub fn seeded_by(variable: &str) -> Self {
        let seed = number(variable).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.unwrap().as_secs()
        });
        println!("replay with {variable}={seed}");
        Self(seed.max(1))
    }

    /// A number from 0 to `sides` - 1.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % sides
    }

    /// One of these; `None` if there are none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        (!from.is_empty()).then(|| &from[self.roll(from.len())])
    }
}

/// A number from an environment variable.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Asserts the invariants of a Pod's status after any history.
pub fn assert_allowed(pod: &Value) {
    let status = &pod["status"];
    let phase = status["phase"].as_str().unwrap();
    let policy = pod["spec"]["restartPolicy"].as_str().unwrap();
    for container in status["containerStatuses"].as_array().into_iter().flatten() {
        let state = container["state"].as_object().unwrap();
        assert!(state.len() <= 1, "{pod}");
        let running = state.contains_key("running");
        match phase {
            "Succeeded" => assert_eq!(state["terminated"]["exitCode"], 0, "{pod}"),
            "Failed" => assert!(!running, "{pod}"),
            "Pending" => assert!(!running || status["initContainerStatuses"].is_array(), "{pod}"),
            "Running" => {}
            other => panic!("the phase {other}: {pod}"),
        }
        if policy == "Never" {
            // A lost container counts as restarted, so that it is not run twice.
            assert!(container["restartCount"].as_u64().unwrap() <= 1, "{pod}");
        }
    }
    if policy == "Always" && !pod["metadata"]["deletionTimestamp"].is_string() {
        assert!(!matches!(phase, "Succeeded" | "Failed"), "{pod}");
    }
}
