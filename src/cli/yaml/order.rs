//! The order of keys: numbers in keys count as numbers, so `b2` is before `b10`, and letters are after everything else.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// The entries of a map in go-yaml's order.
pub(super) fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    // Most maps are in this order already.
    if !entries.is_sorted_by(|(one, _), (other, _)| compare(one, other).is_le()) {
        entries = merge_sorted(entries);
    }
    entries
}

/// Merge sort. The order is not total: `a10` is before `a1b`, which is before `a9`, which is before `a10`. Sorting of the
/// standard library may panic then.
fn merge_sorted<T>(mut entries: Vec<(&String, T)>) -> Vec<(&String, T)> {
    if entries.len() < 2 {
        return entries;
    }
    let second = merge_sorted(entries.split_off(entries.len() / 2));
    let first = merge_sorted(entries);
    let mut merged = Vec::with_capacity(first.len().saturating_add(second.len()));
    let (mut first, mut second) = (first.into_iter().peekable(), second.into_iter().peekable());
    loop {
        let next = match (first.peek(), second.peek()) {
            (Some((one, _)), Some((other, _))) if compare(one, other).is_gt() => second.next(),
            (Some(_), _) => first.next(),
            (None, _) => second.next(),
        };
        match next {
            Some(entry) => merged.push(entry),
            None => return merged,
        }
    }
}

fn compare(one: &str, other: &str) -> Ordering {
    // Common characters before the first difference.
    let mut zeros_matter = false;
    let (mut a, mut b) = (one.chars(), other.chars());
    loop {
        let (rest_a, rest_b) = (a.as_str(), b.as_str());
        let (x, y) = match (a.next(), b.next()) {
            (Some(x), Some(y)) => (x, y),
            (x, y) => return x.is_some().cmp(&y.is_some()),
        };
        if x == y {
            // A zero after another digit has a value.
            zeros_matter = x.is_ascii_digit() && (zeros_matter || x != '0');
            continue;
        }
        return match (x.is_alphabetic(), y.is_alphabetic()) {
            (true, true) => x.cmp(&y),
            (false, true) => Ordering::Less,
            (true, false) => Ordering::Greater,
            (false, false) => {
                let start = i64::from(zeros_matter && (x == '0' || y == '0'));
                let ((number_a, digits_a), (number_b, digits_b)) = (number(rest_a, start), number(rest_b, start));
                (number_a, digits_a, x).cmp(&(number_b, digits_b, y))
            }
        };
    }
}

/// The number at the beginning of a text, and the count of its digits. It wraps, as in Go.
fn number(text: &str, start: i64) -> (i64, usize) {
    let digits = text.bytes().take_while(u8::is_ascii_digit);
    digits.fold((start, 0), |(number, count), digit| {
        let digit = i64::from(digit.wrapping_sub(b'0'));
        (number.wrapping_mul(10).wrapping_add(digit), count.saturating_add(1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_go_yamls_order() {
        for keys in [
            &["a", "b"][..],
            &["a", "ab"],
            &["b2", "b10", "b10a"],
            &["1", "2", "10", "a"],
            &["a-1", "a.1", "a1", "aB", "ab"],
            &["A", "Z", "a"],
            &["file9.txt", "file10.txt"],
            &["a1", "a01", "a2"],
            &["a10", "a100"],
            &["_x", "x"],
            &["app.kubernetes.io/name", "app.kubernetes.io/version", "example.com/a"],
        ] {
            for (index, one) in keys.iter().enumerate() {
                for other in &keys[index + 1..] {
                    assert_eq!(compare(one, other), Ordering::Less, "{one} {other}");
                    assert_eq!(compare(other, one), Ordering::Greater, "{other} {one}");
                }
            }
            let map: Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
            let found: Vec<&String> = sorted(&map).into_iter().map(|(key, _)| key).collect();
            assert_eq!(found, keys);
        }
    }

    #[test]
    fn keys_in_a_circle_are_written_once_each() {
        let mut keys: Vec<String> = (0..200).flat_map(|n| [format!("a{n}"), format!("a{n}b")]).collect();
        let map: Map<String, Value> = keys.iter().map(|key| (key.clone(), Value::Null)).collect();
        let mut found: Vec<String> = sorted(&map).into_iter().map(|(key, _)| key.clone()).collect();
        keys.sort();
        found.sort();
        assert_eq!(found, keys);
    }
}
