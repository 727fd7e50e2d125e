//! Kubernetes' rules for volumes with files from objects: `configMap`, `secret`, `downwardAPI` and `projected`.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, DownwardAPIVolumeFile, KeyToPath, ServiceAccountTokenProjection, VolumeProjection,
};

use super::super::error::FieldPath;
use super::super::names;
use super::downward_api::{self, FILE_FIELDS, Place};
use super::found::Found;
use super::scheduling;

/// Largest mode of a file.
const MAX_MODE: i32 = 0o777;
/// Shortest lifetime of a token in seconds.
const MIN_TOKEN_SECONDS: i64 = 10 * 60;
/// Longest lifetime of a token in seconds.
const MAX_TOKEN_SECONDS: i64 = 1 << 32;

/// Checks that an object is named. Kubernetes does not check the name itself.
pub(super) fn object(name: &str, path: &FieldPath, found: &mut Found) {
    if name.is_empty() {
        found.required(path, "");
    }
}

/// Checks the permissions of a file.
pub(super) fn mode(mode: Option<i32>, path: &FieldPath, found: &mut Found) {
    if let Some(mode) = mode.filter(|mode| !(0..=MAX_MODE).contains(mode)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        found.invalid(path, mode, detail);
    }
}

/// `validateKeyToPath` for each element.
pub(super) fn items(items: Option<&[KeyToPath]>, path: &FieldPath, found: &mut Found) {
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        if item.key.is_empty() {
            found.required(&path.field("key"), "");
        }
        if item.path.is_empty() {
            found.required(&path.field("path"), "");
        }
        found.local_path(&path.field("path"), &item.path);
        mode(item.mode, &path.field("mode"), found);
    }
}

/// `validateDownwardAPIVolumeFile` for each element. Kubernetes' paths lack the element, so problems get their places
/// separately.
pub(super) fn files(files: Option<&[DownwardAPIVolumeFile]>, path: &FieldPath, found: &mut Found) {
    for (index, file) in files.unwrap_or_default().iter().enumerate() {
        let mut own = Found::default();
        self::file(file, path, &mut own);
        found.extend_inside(own, path, &path.field("items").index(index));
    }
}

fn file(file: &DownwardAPIVolumeFile, path: &FieldPath, found: &mut Found) {
    if file.path.is_empty() {
        found.required(&path.field("path"), "");
    }
    found.local_path(&path.field("path"), &file.path);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            downward_api::pod_field(field, FILE_FIELDS, &path.field("fieldRef"), found);
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                found.invalid(path, "resource", detail);
            }
        }
        (None, Some(resource)) => {
            downward_api::resource_field(resource, Place::File, &path.field("resourceFieldRef"), found);
        }
        (None, None) => found.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file.mode, &path.field("mode"), found);
}

/// `validateProjectionSources`
pub(super) fn sources(sources: &[VolumeProjection], path: &FieldPath, found: &mut Found) {
    let mut paths = HashSet::new();
    let mut unique = |own: &str, shown: &str, place: &FieldPath, found: &mut Found| {
        if !own.is_empty() && !paths.insert(own.to_owned()) {
            let detail = "conflicting duplicate paths".to_owned();
            found.invalid_inside(path, place, shown, vec![detail]);
        }
    };
    for (index, source) in sources.iter().enumerate() {
        let place = path.field("sources").index(index);
        let mut kinds = 0;
        let secret = source.secret.as_ref().map(|own| ("secret", &own.name, &own.items));
        let config_map = source
            .config_map
            .as_ref()
            .map(|own| ("configMap", &own.name, &own.items));
        for (field, name, list) in secret.into_iter().chain(config_map) {
            kinds += 1;
            let own = place.field(field);
            object(name, &own.field("name"), found);
            items(list.as_deref(), &own.field("items"), found);
            for (index, item) in list.iter().flatten().enumerate() {
                let place = own.field("items").index(index).field("path");
                unique(&item.path, name, &place, found);
            }
        }
        if let Some(downward) = &source.downward_api {
            kinds += 1;
            let own = place.field("downwardAPI");
            files(downward.items.as_deref(), &own, found);
            for (index, item) in downward.items.iter().flatten().enumerate() {
                let place = own.field("items").index(index).field("path");
                unique(&item.path, &item.path, &place, found);
            }
        }
        if let Some(token) = &source.service_account_token {
            kinds += 1;
            self::token(token, path, &place.field("serviceAccountToken"), found);
        }
        if let Some(bundle) = &source.cluster_trust_bundle {
            kinds += 1;
            let own = place.field("clusterTrustBundle");
            trust_bundle(bundle, &own, found);
            unique(&bundle.path, &bundle.path, &own.field("path"), found);
        }
        kinds += i32::from(source.pod_certificate.is_some());
        if kinds > 1 {
            found.forbidden(&place, "may not specify more than 1 volume type per source");
        }
    }
}

/// Checks a token's projection. Kubernetes names the volume, not the source, in problems with its path.
fn token(token: &ServiceAccountTokenProjection, volume: &FieldPath, path: &FieldPath, found: &mut Found) {
    let seconds = token.expiration_seconds.unwrap_or_default();
    let expiration = path.field("expirationSeconds");
    if seconds < MIN_TOKEN_SECONDS {
        found.invalid(&expiration, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_TOKEN_SECONDS {
        let detail = "may not specify a duration larger than 2^32 seconds";
        found.invalid(&expiration, seconds, detail);
    }
    let mut own = Found::default();
    if token.path.is_empty() {
        own.required(&volume.field("path"), "");
    }
    own.local_path(&volume.field("path"), &token.path);
    found.extend_inside(own, volume, path);
}

fn trust_bundle(bundle: &ClusterTrustBundleProjection, path: &FieldPath, found: &mut Found) {
    match (&bundle.name, &bundle.signer_name) {
        (Some(_), Some(_)) => {
            let shown = serde_json::to_string(bundle).unwrap_or_default();
            let detail = "only one of name and signerName may be used";
            found.invalid(path, format_args!("{shown}"), detail);
        }
        (Some(name), None) => {
            if name.is_empty() {
                found.required(&path.field("name"), "must be a valid object name");
            }
            // With a signer, its name is the prefix: `example.com:signer:name`.
            let own = name.rsplit_once(':').map_or(name.as_str(), |(_, own)| own);
            let details = names::dns_subdomain(own).into_iter();
            let details = details.map(|detail| format!("not a valid clustertrustbundlename: {detail}"));
            found.invalid_for_each(&path.field("name"), name, details.collect());
            if let Some(selector) = &bundle.label_selector {
                let shown = serde_json::to_string(selector).unwrap_or_default();
                let detail = "labelSelector must be unset if name is specified";
                found.invalid(&path.field("labelSelector"), format_args!("{shown}"), detail);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                found.required(&path.field("signerName"), "must be a valid signer name");
            }
            scheduling::label_selector(bundle.label_selector.as_ref(), &path.field("labelSelector"), found);
        }
        (None, None) => found.required(path, "either name or signerName must be specified"),
    }
    if bundle.path.is_empty() {
        found.required(&path.field("path"), "");
    }
    found.local_path(&path.field("path"), &bundle.path);
}
