//! Finds this platform's manifest through indexes. An index may refer to other indexes, and may list documents that
//! this host does not need: other platforms' manifests, attestations, signatures.

use oci_spec::image::{Arch, Descriptor, Os, Platform};

use super::error::PullError;
use super::manifest::{self, Blob, MANIFEST_MEDIA_TYPES};
use super::reference::Digest;

/// Maximum depth of nested indexes. Builders create one or two levels.
const DEPTH_MAX: usize = 8;
/// Maximum number of documents examined for one image.
const DOCUMENTS_MAX: usize = 100;
/// Maximum number of platforms named in an error.
const SHOWN_MAX: usize = 20;

/// A manifest or index that may be, or lead to, the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub blob: Blob,
    /// The top-level document that led here; its own digest if there was none.
    pub root: Digest,
    /// Whether an index states that it is for this platform. Otherwise only its configuration shows that.
    stated: bool,
    depth: usize,
}

impl Candidate {
    /// The document that a name refers to in a registry.
    pub fn root(document: &[u8]) -> Self {
        let digest = Digest::of(document);
        Self {
            root: digest.clone(),
            blob: Blob {
                digest,
                size_bytes: document.len() as u64,
            },
            stated: true,
            depth: 0,
        }
    }
}

/// A depth-first search in the order of the indexes: the first match is taken (OCI image specification).
#[derive(Debug, Default)]
pub(super) struct Search {
    /// A stack: the last candidate is next.
    pending: Vec<Candidate>,
    count: usize,
    /// Platforms found so far that do not match.
    available: Vec<String>,
    /// Why the first rejected document is not an image.
    refusal: Option<PullError>,
}

impl Search {
    /// Starts a search at the entries of an archive's own index.
    pub fn among<'a>(entries: impl IntoIterator<Item = &'a Descriptor>) -> Result<Self, PullError> {
        let mut search = Self::default();
        search.add(None, entries)?;
        Ok(search)
    }

    /// The next document to examine; an error if nothing was found.
    pub fn next(&mut self) -> Result<Candidate, PullError> {
        self.count += 1;
        if self.count > DOCUMENTS_MAX {
            let why = format!("none of its first {DOCUMENTS_MAX} entries is an image for linux/amd64");
            return Err(PullError::invalid("index", why));
        }
        if let Some(candidate) = self.pending.pop() {
            return Ok(candidate);
        }
        if let Some(refusal) = self.refusal.take_if(|_| self.available.is_empty()) {
            return Err(refusal);
        }
        self.available.truncate(SHOWN_MAX);
        let available = match self.available.as_slice() {
            [] => "nothing".to_owned(),
            names => names.join(", "),
        };
        Err(PullError::Platform { available })
    }

    /// Continues the search in an index.
    pub fn enter<'a>(
        &mut self,
        index: &Candidate,
        entries: impl IntoIterator<Item = &'a Descriptor>,
    ) -> Result<(), PullError> {
        if index.depth >= DEPTH_MAX {
            let why = format!("indexes are nested more than {DEPTH_MAX} levels deep");
            return Err(PullError::invalid("index", why));
        }
        self.add(Some(index), entries)
    }

    fn add<'a>(
        &mut self,
        index: Option<&Candidate>,
        entries: impl IntoIterator<Item = &'a Descriptor>,
    ) -> Result<(), PullError> {
        let mut found = Vec::new();
        for entry in entries {
            let rank = match entry.platform() {
                Some(platform) => match rank(platform) {
                    Some(rank) => rank,
                    None => {
                        self.note(format!("{}/{}", platform.os(), platform.architecture()));
                        continue;
                    }
                },
                // Archives of one image often state no platform. Neither do signatures, but these have other types.
                None if MANIFEST_MEDIA_TYPES.contains(&entry.media_type().as_ref()) => 2,
                None => continue,
            };
            let blob = manifest::blob(entry)?;
            let root = index.map_or(&blob.digest, |index| &index.root).clone();
            let candidate = Candidate {
                root,
                blob,
                stated: entry.platform().is_some(),
                depth: index.map_or(0, |index| index.depth) + 1,
            };
            found.push((rank, candidate));
        }
        found.sort_by_key(|(rank, _)| *rank);
        self.pending
            .extend(found.into_iter().rev().map(|(_, candidate)| candidate));
        Ok(())
    }

    /// Records that a document is not the image; an error if it should have been.
    pub fn refuse(&mut self, candidate: &Candidate, error: PullError) -> Result<(), PullError> {
        match error {
            error if candidate.stated => return Err(error),
            PullError::Platform { available } => self.note(available),
            // The document is not an image, or is missing.
            error @ (PullError::Invalid { .. } | PullError::NotFound { .. } | PullError::Archive(_)) => {
                self.refusal.get_or_insert(error);
            }
            error => return Err(error),
        }
        Ok(())
    }

    fn note(&mut self, platform: String) {
        // Attestations have this platform.
        if platform != "unknown/unknown" && !self.available.contains(&platform) {
            self.available.push(platform);
        }
    }
}

/// The entries of one image, without those for variants of this platform that another entry fits better.
pub(super) fn without_worse_variants<'a>(entries: &[&'a Descriptor]) -> Vec<&'a Descriptor> {
    let rank_of = |entry: &Descriptor| entry.platform().as_ref().and_then(rank);
    let best = entries.iter().filter_map(|entry| rank_of(entry)).min();
    let mut kept = entries.to_vec();
    kept.retain(|entry| rank_of(entry).is_none_or(|rank| Some(rank) == best));
    kept
}

/// How well a platform fits; lower is better. Variants of amd64 need newer processors.
fn rank(platform: &Platform) -> Option<u8> {
    if *platform.os() != Os::Linux || *platform.architecture() != Arch::Amd64 {
        return None;
    }
    match platform.variant().as_deref() {
        None | Some("" | "v1") => Some(0),
        Some(_) => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn entry(number: u32, media_type: &str, platform: Value) -> Descriptor {
        let mut entry = json!({ "mediaType": media_type, "size": 1, "digest": digest(number).as_str() });
        if !platform.is_null() {
            entry["platform"] = platform;
        }
        serde_json::from_value(entry).unwrap()
    }

    fn amd64(variant: &str) -> Value {
        json!({ "os": "linux", "architecture": "amd64", "variant": variant })
    }

    fn digest(number: u32) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    fn order(search: &mut Search) -> Vec<u32> {
        std::iter::from_fn(|| search.next().ok())
            .map(|candidate| {
                (0..100)
                    .find(|number| digest(*number) == candidate.blob.digest)
                    .unwrap()
            })
            .collect()
    }

    #[test]
    fn the_best_match_comes_first_and_mismatches_never() {
        let entries = [
            entry(0, MANIFEST, json!({ "os": "linux", "architecture": "arm64" })),
            entry(1, MANIFEST, Value::Null),
            entry(2, "application/vnd.example.signature", Value::Null),
            entry(3, MANIFEST, amd64("v3")),
            entry(4, INDEX, Value::Null),
            entry(5, MANIFEST, amd64("v1")),
            entry(6, MANIFEST, json!({ "os": "unknown", "architecture": "unknown" })),
            entry(7, MANIFEST, amd64("")),
            entry(8, MANIFEST, json!({ "os": "windows", "architecture": "amd64" })),
        ];
        let mut search = Search::among(&entries).unwrap();
        assert_eq!(order(&mut search), [5, 7, 3, 1, 4]);
        let error = search.next().unwrap_err().to_string();
        assert!(error.contains("only for linux/arm64, windows/amd64"), "{error}");
    }

    #[test]
    fn only_the_best_variants_of_each_platform_are_kept() {
        let arm64 = json!({ "os": "linux", "architecture": "arm64" });
        let kept = |platforms: &[Value]| {
            let entries: Vec<_> = platforms.iter().map(|one| entry(0, MANIFEST, one.clone())).collect();
            let all: Vec<_> = entries.iter().collect();
            let kept = without_worse_variants(&all);
            let place = |one: &Descriptor| entries.iter().position(|other| std::ptr::eq(one, other)).unwrap();
            kept.into_iter().map(place).collect::<Vec<_>>()
        };
        assert_eq!(kept(&[amd64("v3"), arm64.clone(), amd64(""), Value::Null]), [1, 2, 3]);
        assert_eq!(kept(&[amd64("v3"), arm64]), [0, 1]);
        assert_eq!(kept(&[amd64(""), amd64("v1")]), [0, 1]);
    }

    #[test]
    fn a_nested_index_is_searched_before_the_entries_after_it() {
        let outer = [entry(1, INDEX, amd64("")), entry(2, MANIFEST, amd64(""))];
        let mut search = Search::among(&outer).unwrap();
        let index = search.next().unwrap();
        search.enter(&index, &[entry(3, MANIFEST, amd64(""))]).unwrap();
        let inner = search.next().unwrap();
        assert_eq!((inner.blob.digest, inner.root), (digest(3), digest(1)));
        assert_eq!(order(&mut search), [2]);
    }

    #[test]
    fn nesting_depth_and_number_of_indexes_are_limited() {
        let mut candidate = Candidate::root(b"");
        let mut search = Search::default();
        let mut depth = 0;
        let error = loop {
            if let Err(error) = search.enter(&candidate, &[entry(depth, INDEX, amd64(""))]) {
                break error;
            }
            candidate = search.next().unwrap();
            depth += 1;
        };
        assert_eq!(depth as usize, DEPTH_MAX);
        assert!(error.to_string().contains("nested more than"), "{error}");
        let entries: Vec<_> = (0..1000).map(|number| entry(number, MANIFEST, Value::Null)).collect();
        let mut search = Search::among(&entries).unwrap();
        assert_eq!(std::iter::from_fn(|| search.next().ok()).count(), DOCUMENTS_MAX);
    }

    #[test]
    fn only_entries_without_a_platform_may_fail() {
        let promised = [entry(1, MANIFEST, amd64("")), entry(2, MANIFEST, amd64(""))];
        let missing = || PullError::Archive("missing".into());
        let mut search = Search::among(&promised).unwrap();
        let candidate = search.next().unwrap();
        assert!(search.refuse(&candidate, missing()).is_err());

        let silent = [entry(1, MANIFEST, Value::Null), entry(2, MANIFEST, Value::Null)];
        let mut search = Search::among(&silent).unwrap();
        for _ in 0..2 {
            let candidate = search.next().unwrap();
            search.refuse(&candidate, missing()).unwrap();
        }
        assert_eq!(search.next().unwrap_err().to_string(), "missing");
        let mut search = Search::among(&silent).unwrap();
        let candidate = search.next().unwrap();
        let corrupt = PullError::Digest {
            what: String::new(),
            expected: String::new(),
            actual: String::new(),
        };
        assert!(search.refuse(&candidate, corrupt).is_err());
    }
}
