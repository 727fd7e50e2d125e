//! "Did you mean …?": finds the known word nearest to an unknown one.

/// The candidate that is so close to `word` that it was probably meant.
pub fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    // The computation is quadratic in the length, and no field name is longer.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 4).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The number of insertions, deletions, replacements and swaps of neighbouring characters (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                let swapped = if swapped { rows[i - 2][j - 2] + 1 } else { usize::MAX };
                replaced.min(swapped).min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1)
            };
        }
    }
    rows[a.len()][b.len()]
}

/// A value for a message, truncated if it is long.
pub fn shorten(value: &str) -> String {
    const SHOWN: usize = 100;
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn typos_are_recognised_and_different_words_are_not() {
        let fields = [
            "name",
            "image",
            "imagePullPolicy",
            "command",
            "args",
            "ports",
            "env",
            "envFrom",
        ];
        assert_eq!(nearest("imagePullPolice", &fields), Some("imagePullPolicy"));
        assert_eq!(nearest("imagepullpolicy", &fields), Some("imagePullPolicy"));
        assert_eq!(nearest("images", &fields), Some("image"));
        assert_eq!(nearest("comand", &fields), Some("command"));
        assert_eq!(nearest("nmae", &fields), Some("name"));
        assert_eq!(nearest("entrypoint", &fields), None);
        assert_eq!(nearest("kind", &fields), None);
        assert_eq!(nearest(&"x".repeat(1000), &fields), None);
    }

    proptest! {
        #[test]
        fn distance_is_a_symmetric_measure(a in ".{0,12}", b in ".{0,12}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert!(distance(&a, &b) <= a.chars().count().max(b.chars().count()));
        }
    }
}
