//! How two processes of different builds agree on the version in which they talk. Each says which versions it speaks; they use the latest
//! that both do.

use crate::messages::ProtocolVersions;

/// The versions of a protocol that a build speaks. 0 is that of builds that say none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub oldest: u32,
    /// The latest.
    pub newest: u32,
}

/// There is no version that both speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCommonVersion {
    /// What this side speaks.
    pub own: Versions,
    /// What the other side says that it speaks.
    pub peer: Versions,
}

impl Versions {
    /// The version to talk in: the latest that both speak. Whatever a peer says, it is one that this side speaks.
    ///
    /// # Errors
    /// [`NoCommonVersion`].
    pub fn agree(self, peer: Self) -> Result<u32, NoCommonVersion> {
        let latest = self.newest.min(peer.newest);
        if latest >= self.oldest && latest >= peer.oldest {
            Ok(latest)
        } else {
            Err(NoCommonVersion { own: self, peer })
        }
    }
}

impl From<Option<&ProtocolVersions>> for Versions {
    fn from(said: Option<&ProtocolVersions>) -> Self {
        let (oldest, newest) = said.map_or((0, 0), |said| (said.oldest, said.newest));
        Self { oldest, newest }
    }
}

impl From<Versions> for ProtocolVersions {
    fn from(versions: Versions) -> Self {
        Self {
            oldest: versions.oldest,
            newest: versions.newest,
            ..Default::default()
        }
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { oldest, newest } = self;
        if oldest == newest {
            write!(f, "version {newest}")
        } else {
            write!(f, "versions {oldest} to {newest}")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn versions(oldest: u32, newest: u32) -> Versions {
        Versions { oldest, newest }
    }

    #[test]
    fn the_latest_version_that_both_speak_is_used() {
        let own = versions(1, 3);
        for (peer, agreed) in [
            (versions(0, 1), Some(1)),
            (versions(2, 2), Some(2)),
            (versions(3, 9), Some(3)),
            (versions(0, u32::MAX), Some(3)),
            (versions(0, 0), None),
            (versions(4, 5), None),
            // Nonsense.
            (versions(3, 2), None),
        ] {
            let found = own.agree(peer);
            assert_eq!(found.ok(), agreed, "{peer}");
            assert_eq!(found.is_err(), agreed.is_none());
        }
    }

    #[test]
    fn versions_are_named_as_people_do() {
        assert_eq!(versions(2, 2).to_string(), "version 2");
        assert_eq!(versions(0, 1).to_string(), "versions 0 to 1");
    }

    /// Messages of builds without versions, and what they make of those with.
    #[test]
    fn calls_of_builds_without_versions_are_understood_and_understand() {
        use crate::messages::{CreateSandboxRequest, ListContainersRequest, ListContainersResponse};
        use protobuf::Message as _;
        let old = CreateSandboxRequest::parse_from_bytes(b"\x0a\x03web\x48\x80\x80\x04").unwrap();
        assert_eq!((old.hostname.as_str(), old.shm_size_bytes), ("web", 65536));
        assert_eq!(Versions::from(old.versions.as_ref()), versions(0, 0));
        let old = ListContainersRequest::parse_from_bytes(b"").unwrap();
        assert_eq!(Versions::from(old.versions.as_ref()), versions(0, 0));
        let new = ListContainersRequest {
            versions: Some(versions(0, 1).into()).into(),
            ..Default::default()
        };
        // A field of a number that old builds skip, as protobuf has it.
        assert_eq!(new.write_to_bytes().unwrap(), b"\x0a\x02\x10\x01");
        let answer =
            ListContainersResponse::parse_from_bytes(b"\x0a\x09\x0a\x05web-0\x10\x01\x12\x02\x10\x01").unwrap();
        assert_eq!(answer.containers.len(), 1);
        assert_eq!(Versions::from(answer.versions.as_ref()), versions(0, 1));
    }

    proptest! {
        #[test]
        fn both_sides_agree_on_the_same_and_only_on_what_they_speak(
            one in (any::<u32>(), any::<u32>()), other in (any::<u32>(), any::<u32>()),
        ) {
            let (one, other) = (versions(one.0, one.1), versions(other.0, other.1));
            let agreed = one.agree(other).ok();
            prop_assert_eq!(agreed, other.agree(one).ok());
            if let Some(version) = agreed {
                prop_assert!((one.oldest..=one.newest).contains(&version));
            }
        }
    }
}
