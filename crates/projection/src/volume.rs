//! The files of configMap, secret, downwardAPI and projected volumes
//! (`pkg/volume/{configmap,secret,downwardapi,projected}`).

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Secret, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};

use crate::bound_pod::BoundPod;
use crate::error::ProjectionError;
use crate::objects::{Namespaced, Objects};
use crate::payload::{File, Payload};
use crate::{pod_field, resource_field};

/// The mode of files if the manifest sets none.
pub const DEFAULT_MODE: i32 = 0o644;
/// The lifetime of a token if the manifest sets none.
pub const DEFAULT_TOKEN_SECONDS: i64 = 3600;
/// The mode of a token that only its owner, and a group that `fsGroup` adds, may read.
const PRIVATE_MODE: i32 = 0o600;

/// Whether the volume has files that [`volume_files`] computes.
pub fn is_projected(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// The files of a volume in the order of their paths; none for volumes of other kinds.
///
/// # Errors
/// If something that is not optional is missing, or the files do not fit into one volume. The text for the event is
/// [`failed_mount_message`](crate::failed_mount_message).
pub fn volume_files(pod: &BoundPod<'_>, volume: &Volume, objects: &dyn Objects) -> Result<Vec<File>, ProjectionError> {
    let mut namespaced = Namespaced::new(pod.namespace(), objects);
    let mut payload = Payload::default();
    if let Some(source) = &volume.config_map {
        let keys = Keys {
            items: source.items.as_deref().unwrap_or_default(),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            optional: source.optional == Some(true),
        };
        config_map(&source.name, &keys, &mut namespaced, &mut payload)?;
    } else if let Some(source) = &volume.secret {
        let keys = Keys {
            items: source.items.as_deref().unwrap_or_default(),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            optional: source.optional == Some(true),
        };
        let name = source.secret_name.as_deref().unwrap_or_default();
        secret(name, &keys, &mut namespaced, &mut payload)?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        downward_api(source.items.as_deref().unwrap_or_default(), mode, pod, &mut payload)?;
    } else if let Some(source) = &volume.projected {
        projected(source, pod, &mut namespaced, &mut payload)?;
    }
    payload.finish()
}

/// Which keys of an object become files.
struct Keys<'v> {
    /// All keys, if empty.
    items: &'v [KeyToPath],
    /// The mode of files without their own.
    mode: i32,
    /// Whether the object and its keys may be missing.
    optional: bool,
}

impl Keys<'_> {
    fn mode_of(&self, item: &KeyToPath) -> i32 {
        item.mode.unwrap_or(self.mode)
    }
}

fn config_map(
    name: &str,
    keys: &Keys<'_>,
    objects: &mut Namespaced<'_>,
    payload: &mut Payload,
) -> Result<(), ProjectionError> {
    let Some(config_map) = objects.config_map(name, keys.optional)? else {
        return Ok(());
    };
    let ConfigMap { data, binary_data, .. } = &*config_map;
    if keys.items.is_empty() {
        for (key, text) in data.iter().flatten() {
            payload.insert(key, text.as_bytes(), keys.mode)?;
        }
        return insert_all(binary_data.as_ref(), keys.mode, payload);
    }
    for item in keys.items {
        let text = data.as_ref().and_then(|data| data.get(&item.key));
        let bytes = || binary_data.as_ref()?.get(&item.key).map(|bytes| bytes.0.as_slice());
        match text.map(String::as_bytes).or_else(bytes) {
            Some(content) => payload.insert(&item.path, content, keys.mode_of(item))?,
            None if keys.optional => {}
            None => return Err(ProjectionError::ConfigMapItem(item.key.clone())),
        }
    }
    Ok(())
}

fn secret(
    name: &str,
    keys: &Keys<'_>,
    objects: &mut Namespaced<'_>,
    payload: &mut Payload,
) -> Result<(), ProjectionError> {
    let Some(secret) = objects.secret(name, keys.optional)? else {
        return Ok(());
    };
    let Secret { data, .. } = &*secret;
    if keys.items.is_empty() {
        return insert_all(data.as_ref(), keys.mode, payload);
    }
    for item in keys.items {
        match data.as_ref().and_then(|data| data.get(&item.key)) {
            Some(content) => payload.insert(&item.path, &content.0, keys.mode_of(item))?,
            None if keys.optional => {}
            None => return Err(ProjectionError::SecretItem(item.key.clone())),
        }
    }
    Ok(())
}

fn insert_all(
    data: Option<&BTreeMap<String, ByteString>>,
    mode: i32,
    payload: &mut Payload,
) -> Result<(), ProjectionError> {
    for (key, bytes) in data.into_iter().flatten() {
        payload.insert(key, &bytes.0, mode)?;
    }
    Ok(())
}

fn downward_api(
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    pod: &BoundPod<'_>,
    payload: &mut Payload,
) -> Result<(), ProjectionError> {
    let mut errors = Vec::new();
    for item in items {
        let value = if let Some(field) = &item.field_ref {
            pod_field::for_volume(&field.field_path, pod)
        } else if let Some(field) = &item.resource_field_ref {
            resource_field::for_volume(field, pod)
        } else {
            Ok(String::new())
        };
        match value {
            Ok(value) => payload.insert(&item.path, value.as_bytes(), item.mode.unwrap_or(mode))?,
            Err(error) => errors.push(error),
        }
    }
    ProjectionError::aggregate(errors).map_or(Ok(()), Err)
}

fn projected(
    volume: &ProjectedVolumeSource,
    pod: &BoundPod<'_>,
    objects: &mut Namespaced<'_>,
    payload: &mut Payload,
) -> Result<(), ProjectionError> {
    let mode = volume.default_mode.unwrap_or(DEFAULT_MODE);
    let sources = volume.sources.iter().flatten();
    let errors = sources.filter_map(|source| projection(source, mode, pod, objects, payload).err());
    ProjectionError::aggregate(errors.collect()).map_or(Ok(()), Err)
}

/// One source of a projected volume.
fn projection(
    source: &VolumeProjection,
    mode: i32,
    pod: &BoundPod<'_>,
    objects: &mut Namespaced<'_>,
    payload: &mut Payload,
) -> Result<(), ProjectionError> {
    if let Some(source) = &source.secret {
        let keys = Keys {
            items: source.items.as_deref().unwrap_or_default(),
            mode,
            optional: source.optional == Some(true),
        };
        secret(&source.name, &keys, objects, payload)
    } else if let Some(source) = &source.config_map {
        let keys = Keys {
            items: source.items.as_deref().unwrap_or_default(),
            mode,
            optional: source.optional == Some(true),
        };
        config_map(&source.name, &keys, objects, payload)
    } else if let Some(source) = &source.downward_api {
        downward_api(source.items.as_deref().unwrap_or_default(), mode, pod, payload)
    } else if let Some(source) = &source.service_account_token {
        token(source, mode, pod, objects.objects, payload)
    } else if source.cluster_trust_bundle.is_some() {
        Err(ProjectionError::Source("clusterTrustBundle"))
    } else if source.pod_certificate.is_some() {
        Err(ProjectionError::Source("podCertificate"))
    } else {
        Ok(())
    }
}

fn token(
    source: &ServiceAccountTokenProjection,
    mode: i32,
    pod: &BoundPod<'_>,
    objects: &dyn Objects,
    payload: &mut Payload,
) -> Result<(), ProjectionError> {
    let audience = source.audience.as_deref().filter(|audience| !audience.is_empty());
    let expiration_seconds = source.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
    let token = objects
        .token(audience, expiration_seconds)
        .map_err(ProjectionError::Token)?;
    let owner = pod.user();
    let is_private = owner.is_some() || pod.fs_group().is_some();
    let mode = if is_private { PRIVATE_MODE } else { mode };
    payload.insert_owned(&source.path, token.as_bytes(), mode, owner)
}

#[cfg(test)]
mod tests;
