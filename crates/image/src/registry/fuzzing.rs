//! Entry point for the fuzzer: all parsers of registry answers, credential files and settings.

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::settings::Settings;
use super::{answer, challenge, token};
use crate::credentials::parse_auth_file;
use crate::index::Search;
use crate::manifest;
use crate::reference::ImageReference;

/// Parses `data` as the kind of input that its first byte selects.
pub fn registry_response(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 6 {
        0 => {
            // A manifest, or an index; a configuration may follow after a zero byte.
            let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
            let (document, config) = data.split_at(end);
            match manifest::parse(document) {
                Ok(manifest::Document::Manifest(manifest)) => {
                    let _ = manifest::join(&manifest, config.get(1..).unwrap_or_default());
                }
                Ok(manifest::Document::Index(index)) => {
                    if let Ok(mut search) = Search::among(index.manifests()) {
                        while search.next().is_ok() {}
                    }
                }
                Err(_) => {}
            }
        }
        1 => drop(token::parse(data)),
        2 => drop(answer::parse_errors(data)),
        3 => {
            let mut headers = HeaderMap::new();
            for value in data.split(|byte| *byte == b'\n') {
                headers.extend(
                    HeaderValue::from_bytes(value)
                        .ok()
                        .map(|value| (WWW_AUTHENTICATE, value)),
                );
            }
            let _ = challenge::of(&headers);
        }
        4 => {
            if let Ok(file) = parse_auth_file(data) {
                let _ = file.matching("registry.example:5000", "team/app", true);
            }
        }
        _ => {
            let mut settings = Settings::default();
            if settings.add(data).is_ok()
                && let Ok(name) = ImageReference::parse("registry.example:5000/team/app:v1")
            {
                let _ = settings.places(&name);
            }
        }
    }
}
