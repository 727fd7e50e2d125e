//! Names from `metadata.generateName`.

/// Characters that do not form words (`apimachinery/pkg/util/rand`).
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const MAX_PREFIX_BYTES: usize = 58;
const SUFFIX_CHARACTERS: usize = 5;

/// `SimpleNameGenerator` (`apiserver/pkg/storage/names/generate.go`): the prefix, cut to 58 bytes, and five random
/// characters.
#[must_use]
pub fn generate(prefix: &str) -> String {
    let mut end = prefix.len().min(MAX_PREFIX_BYTES);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let random = uuid::Uuid::new_v4().into_bytes();
    let suffix = random
        .iter()
        .take(SUFFIX_CHARACTERS)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
    prefix[..end].chars().chain(suffix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_random() {
        assert_ne!(generate("web-"), generate("web-"));
    }

    #[test]
    fn the_prefix_is_cut_to_58_bytes_of_whole_characters() {
        for (prefix, kept) in [
            ("web-".to_owned(), "web-".to_owned()),
            (String::new(), String::new()),
            ("a".repeat(70), "a".repeat(58)),
            (format!("{}é", "a".repeat(57)), "a".repeat(57)),
        ] {
            let name = generate(&prefix);
            let suffix = name.strip_prefix(&kept).unwrap();
            assert!(
                suffix.len() == 5 && suffix.bytes().all(|byte| ALPHABET.contains(&byte)),
                "{name}"
            );
        }
    }
}
