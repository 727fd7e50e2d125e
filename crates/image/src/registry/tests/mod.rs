//! The registry client against servers that each misbehave in one way.

mod authentication;
mod mirrors;
mod misbehaviour;
mod tls;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::limits::Limits;
use super::settings::Settings;
use super::test_server::{Reply, Request, TestServer, Then};
use super::tls::Certificates;
use super::{Environment, Registry};
use crate::credentials::{CredentialFiles, PullSecret};
use crate::error::PullError;
use crate::manifest::Blob;
use crate::reference::{Digest, ImageReference};

/// Long timeouts, short waits between attempts.
pub(crate) fn limits() -> Limits {
    Limits {
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(2),
        ..Limits::default()
    }
}

/// Short timeouts, for servers that stall.
fn impatient() -> Limits {
    Limits {
        stall_timeout: Duration::from_millis(200),
        document_timeout: Duration::from_millis(200),
        attempts: 2,
        ..limits()
    }
}

/// A host without any settings, certificates or credentials.
pub(crate) fn environment() -> Environment {
    Environment {
        settings: Settings::default(),
        certificates: Certificates {
            directories: Vec::new(),
            authorities: Arc::default(),
        },
        credentials: CredentialFiles {
            paths: Vec::<PathBuf>::new(),
            required: false,
            helper_timeout: Duration::from_secs(20),
            helper_directory: None,
        },
        limits: limits(),
    }
}

/// A secret with a user for a registry.
fn secret(registry: &str, username: &str, password: &str) -> PullSecret {
    let config = json!({"auths": {registry: {"username": username, "password": password}}});
    PullSecret::new("test", config.to_string().into_bytes())
}

fn registry_in(environment: Environment, name: &str, secrets: &[PullSecret]) -> Registry {
    Registry::new(&ImageReference::parse(name).unwrap(), &Arc::new(environment), secrets).unwrap()
}

fn registry(server: &TestServer) -> Registry {
    registry_in(environment(), &format!("{}/team/app:v1", server.address), &[])
}

fn impatient_registry(server: &TestServer) -> Registry {
    let environment = Environment {
        limits: impatient(),
        ..environment()
    };
    registry_in(environment, &format!("{}/team/app:v1", server.address), &[])
}

fn blob(bytes: &[u8]) -> Blob {
    Blob {
        digest: Digest::of(bytes),
        size_bytes: bytes.len() as u64,
    }
}

/// Bytes that do not repeat.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 / 7) as u8).collect()
}

async fn fetch(registry: &Registry, blob: &Blob) -> Result<Vec<u8>, PullError> {
    registry.small_blob(blob, "layer").await
}

fn chain(error: &PullError) -> String {
    microkube_base::causes::with_causes(error)
}
