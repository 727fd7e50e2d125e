//! The manifest loader: any bytes are loaded or refused, with places inside the input, in bounded time and memory.
#![no_main]

use microkube_manifest::{Input, load};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));

/// Loads the bytes. Panics if a problem's place is outside them, or if the loaded Pods are refused when loaded again.
fn check(text: &[u8]) {
    let input = Input {
        source: "fuzz.yaml",
        text,
    };
    match load(&[input]) {
        Ok(manifests) => {
            assert!(!manifests.pods.is_empty());
            for pod in &manifests.pods {
                let json = serde_json::to_vec(pod).expect("a Pod is JSON");
                let again = Input {
                    source: "again.json",
                    text: &json,
                };
                let again = load(&[again]).expect("a loaded Pod can be loaded again");
                assert_eq!(&again.pods[0], pod);
            }
        }
        Err(error) => {
            let lines = text.split(|byte| matches!(byte, b'\n' | b'\r')).count();
            for problem in error.files.iter().flat_map(|file| &file.problems) {
                assert!(!problem.message.is_empty());
                if let Some(at) = problem.location {
                    assert!((1..=lines + 1).contains(&at.line) && at.column >= 1, "{problem:?}");
                }
            }
            assert!(!error.to_string().is_empty());
        }
    }
}
