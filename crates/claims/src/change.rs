//! What the rules ask for: writes of objects, work on disks, and events.

use std::fmt;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::fields::text;

/// A step. Objects keep the `resourceVersion` that was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    CreateClaim(Box<PersistentVolumeClaim>),
    CreateVolume(Box<PersistentVolume>),
    /// Replaces a volume with its status.
    UpdateVolume(Box<PersistentVolume>),
    /// Replaces a claim with its status.
    UpdateClaim(Box<PersistentVolumeClaim>),
    /// Requests the deletion of the claim with this UID.
    DeleteClaim {
        namespace: String,
        name: String,
        uid: String,
    },
    /// Requests the deletion of the volume with this UID.
    DeleteVolume {
        name: String,
        uid: String,
    },
    /// Creates a disk image with an empty file system. No disk with this name exists. A disk must appear complete or
    /// not at all.
    CreateDisk(DiskChange),
    /// Enlarges a disk image and, if possible now, its file system.
    GrowDisk(DiskChange),
    /// Deletes a disk image. No Pod uses it.
    DeleteDisk(DiskChange),
    Event(Event),
}

/// Work on a volume's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskChange {
    /// The PersistentVolume.
    pub volume: String,
    /// The name of the disk image.
    pub disk: String,
    /// The size of the disk afterwards.
    pub bytes: u64,
}

/// An event for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub about: About,
    /// Whether its type is `Warning` instead of `Normal`.
    pub is_warning: bool,
    pub reason: &'static str,
    pub message: String,
    /// The part of Kubernetes that reports it.
    pub component: &'static str,
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub kind: &'static str,
    pub namespace: Option<String>,
    pub name: String,
    pub uid: String,
}

/// `Warning FailedBinding default/data: …`
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_warning { "Warning" } else { "Normal" };
        let About { namespace, name, .. } = &self.about;
        let slash = if namespace.is_some() { "/" } else { "" };
        let namespace = text(namespace);
        write!(f, "{kind} {} {namespace}{slash}{name}: {}", self.reason, self.message)
    }
}

impl About {
    pub(crate) fn claim(claim: &PersistentVolumeClaim) -> Self {
        Self::object("PersistentVolumeClaim", &claim.metadata)
    }

    pub(crate) fn volume(volume: &PersistentVolume) -> Self {
        Self::object("PersistentVolume", &volume.metadata)
    }

    pub(crate) fn pod(pod: &Pod) -> Self {
        Self::object("Pod", &pod.metadata)
    }

    fn object(kind: &'static str, metadata: &ObjectMeta) -> Self {
        Self {
            kind,
            namespace: metadata.namespace.clone(),
            name: text(&metadata.name).to_owned(),
            uid: text(&metadata.uid).to_owned(),
        }
    }
}
