//! What pulls find on this host: settings, certificates, credentials.

use super::limits::Limits;
use super::settings::Settings;
use super::tls::Certificates;
use crate::credentials::CredentialFiles;
use crate::error::PullError;

/// All of this host that pulls depend on.
#[derive(Debug)]
pub(crate) struct Environment {
    pub settings: Settings,
    pub certificates: Certificates,
    pub credentials: CredentialFiles,
    pub limits: Limits,
}

impl Environment {
    /// As this process finds it.
    pub fn of_process() -> Result<Self, PullError> {
        Ok(Self {
            settings: Settings::of_process()?,
            certificates: Certificates::of_process(),
            credentials: CredentialFiles::of_process(),
            limits: Limits::default(),
        })
    }
}
