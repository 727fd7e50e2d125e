//! How two processes of different builds agree on a protocol version: each states the versions it supports, and they
//! use the latest common one.

use crate::messages::ProtocolVersions;

/// The range of protocol versions that a build supports. 0 stands for builds that do not state one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub oldest: u32,
    /// The latest.
    pub newest: u32,
}

/// There is no common version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCommonVersion {
    /// The versions that this side supports.
    pub own: Versions,
    /// The versions that the other side states.
    pub peer: Versions,
}

impl Versions {
    /// The version to use: the latest that both sides support. Whatever the peer states, this side supports the result.
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
    fn the_latest_common_version_is_used() {
        let own = versions(1, 3);
        for (peer, agreed) in [
            (versions(0, 1), Some(1)),
            (versions(2, 2), Some(2)),
            (versions(3, 9), Some(3)),
            (versions(0, u32::MAX), Some(3)),
            (versions(0, 0), None),
            (versions(4, 5), None),
            // An empty range.
            (versions(3, 2), None),
        ] {
            let found = own.agree(peer);
            assert_eq!(found.ok(), agreed, "{peer}");
            assert_eq!(found.is_err(), agreed.is_none());
        }
    }

    #[test]
    fn version_ranges_are_displayed_readably() {
        assert_eq!(versions(2, 2).to_string(), "version 2");
        assert_eq!(versions(0, 1).to_string(), "versions 0 to 1");
    }

    /// Messages from builds without versions, and how such builds read messages with versions.
    #[test]
    fn messages_are_compatible_with_builds_without_versions() {
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
        // Old builds skip fields with unknown numbers, as protobuf requires.
        assert_eq!(new.write_to_bytes().unwrap(), b"\x0a\x02\x10\x01");
        let answer =
            ListContainersResponse::parse_from_bytes(b"\x0a\x09\x0a\x05web-0\x10\x01\x12\x02\x10\x01").unwrap();
        assert_eq!(answer.containers.len(), 1);
        assert_eq!(Versions::from(answer.versions.as_ref()), versions(0, 1));
    }

    /// Messages of version 2, byte for byte.
    #[test]
    fn messages_of_file_volumes_are_those_of_version_2() {
        use crate::messages::{FileProjection, FileVolume, Volume, WriteFileVolumeRequest};
        use protobuf::Message as _;
        let volume = Volume {
            name: "cfg".to_owned(),
            file_volume: Some(FileVolume {
                fs_group: Some(0),
                ..Default::default()
            })
            .into(),
            ..Default::default()
        };
        // Agents of version 1 skip field 3, so both sources are missing and they refuse the volume.
        assert_eq!(volume.write_to_bytes().unwrap(), b"\x0a\x03cfg\x1a\x02\x08\x00");
        let request = WriteFileVolumeRequest {
            volume: "cfg".to_owned(),
            part: 1,
            last: true,
            files: vec![FileProjection {
                path: "a/b".to_owned(),
                content: b"x\n".to_vec(),
                mode: 0o644,
                fs_user: Some(7),
                ..Default::default()
            }],
            ..Default::default()
        };
        let bytes = b"\x0a\x03cfg\x10\x01\x18\x01\x22\x0e\x0a\x03a/b\x12\x02x\n\x18\xa4\x03\x20\x07";
        assert_eq!(request.write_to_bytes().unwrap(), bytes);
        assert_eq!(WriteFileVolumeRequest::parse_from_bytes(bytes).unwrap(), request);
    }

    /// Fields of version 3, byte for byte.
    #[test]
    fn fields_of_security_contexts_are_those_of_version_3() {
        use crate::messages::{CreateSandboxRequest, EmptyDir, Mount, MountPropagation, Security, Sysctl};
        use protobuf::Message as _;
        let sandbox = CreateSandboxRequest {
            share_process_namespace: true,
            sysctls: vec![Sysctl {
                name: "a.b".to_owned(),
                value: "1".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(
            sandbox.write_to_bytes().unwrap(),
            b"\x58\x01\x62\x08\x0a\x03a.b\x12\x011"
        );
        let empty_dir = EmptyDir {
            fs_group: Some(0),
            ..Default::default()
        };
        assert_eq!(empty_dir.write_to_bytes().unwrap(), b"\x18\x00");
        let security = Security {
            seccomp_programs: vec![b"ab".to_vec()],
            ..Default::default()
        };
        assert_eq!(security.write_to_bytes().unwrap(), b"\x32\x02ab");
        let mount = Mount {
            propagation: MountPropagation::MOUNT_PROPAGATION_BIDIRECTIONAL.into(),
            recursive_read_only: true,
            ..Default::default()
        };
        assert_eq!(mount.write_to_bytes().unwrap(), b"\x28\x02\x30\x01");
    }

    /// Fields of version 5, byte for byte.
    #[test]
    fn fields_of_user_namespaces_are_those_of_version_5() {
        use crate::messages::{CreateSandboxRequest, Security};
        use protobuf::Message as _;
        let sandbox = CreateSandboxRequest {
            user_namespace: true,
            ..Default::default()
        };
        assert_eq!(sandbox.write_to_bytes().unwrap(), b"\x68\x01");
        let security = Security {
            unmasked_proc: true,
            ..Default::default()
        };
        assert_eq!(security.write_to_bytes().unwrap(), b"\x38\x01");
    }

    /// Fields of version 6, byte for byte.
    #[test]
    fn image_volumes_are_those_of_version_6() {
        use crate::messages::{ImageVolume, Volume};
        use protobuf::Message as _;
        let volume = Volume {
            name: "m".to_owned(),
            image: Some(ImageVolume {
                layer_ids: vec!["l0".to_owned()],
                ..Default::default()
            })
            .into(),
            ..Default::default()
        };
        // Agents of version 5 skip field 5, so all types are missing and they refuse the volume.
        assert_eq!(volume.write_to_bytes().unwrap(), b"\x0a\x01m\x2a\x04\x0a\x02l0");
    }

    /// Messages of version 6, byte for byte.
    #[test]
    fn messages_of_storage_are_those_of_version_6() {
        use crate::messages::{StorageUsage, WatchStorageRequest};
        use protobuf::Message as _;
        let request = WatchStorageRequest {
            known: vec![
                StorageUsage {
                    volume: "data".to_owned(),
                    used_bytes: 4096,
                    ..Default::default()
                },
                StorageUsage {
                    container_id: "web-0".to_owned(),
                    ..Default::default()
                },
            ],
            interval_ms: 1000,
            ..Default::default()
        };
        let bytes = b"\x0a\x09\x0a\x04data\x18\x80\x20\x0a\x07\x12\x05web-0\x10\xe8\x07";
        assert_eq!(request.write_to_bytes().unwrap(), bytes);
    }

    /// Messages of version 6, byte for byte.
    #[test]
    fn messages_of_connections_to_ports_are_those_of_version_6() {
        use crate::messages::ConnectPortRequest;
        use protobuf::Message as _;
        let request = ConnectPortRequest {
            connection_id: "c-1".to_owned(),
            port: 80,
            ..Default::default()
        };
        assert_eq!(request.write_to_bytes().unwrap(), b"\x0a\x03c-1\x10\x50");
        let stream = crate::DataStream::Port { id: "c-1".to_owned() };
        let header = crate::encode_stream_header(&stream).unwrap();
        assert_eq!(header, b"\x00\x07\x08\x05\x2a\x03c-1");
    }

    proptest! {
        #[test]
        fn both_sides_agree_on_the_same_version_and_both_support_it(
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
