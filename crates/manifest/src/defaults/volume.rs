//! The defaults of volumes and of the files in them.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, Volume};

use super::fill::fill;
use super::image;

/// The default permissions of files: 0644.
const DEFAULT_MODE: i32 = 0o644;
/// The lifetime of a token in seconds.
const TOKEN_SECONDS: i64 = 3600;

/// Sets the defaults of a Pod's volume. A volume without a kind is an emptyDir.
pub(super) fn volume(volume: &mut Volume) {
    let bare = Volume {
        name: volume.name.clone(),
        ..Volume::default()
    };
    if *volume == bare {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(DEFAULT_MODE);
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(DEFAULT_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(DEFAULT_MODE);
        downward.items.iter_mut().flatten().for_each(file);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(DEFAULT_MODE);
        for source in projected.sources.iter_mut().flatten() {
            if let Some(downward) = &mut source.downward_api {
                downward.items.iter_mut().flatten().for_each(file);
            }
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
            }
        }
    }
    volume.host_path.iter_mut().for_each(host_path);
    if let Some(image) = &mut volume.image {
        let reference = image.reference.as_deref().unwrap_or_default();
        fill(&mut image.pull_policy, image::pull_policy(reference));
    }
    if let Some(template) = volume
        .ephemeral
        .as_mut()
        .and_then(|ephemeral| ephemeral.volume_claim_template.as_mut())
    {
        volume_mode(&mut template.spec.volume_mode);
    }
}

fn file(file: &mut DownwardAPIVolumeFile) {
    if let Some(field) = &mut file.field_ref {
        fill(&mut field.api_version, "v1");
    }
}

/// Sets the type that checks nothing.
pub(super) fn host_path(source: &mut HostPathVolumeSource) {
    source.type_.get_or_insert_default();
}

/// Sets a missing volume mode. An empty one stays, because it is invalid.
pub(super) fn volume_mode(mode: &mut Option<String>) {
    mode.get_or_insert_with(|| "Filesystem".to_owned());
}
