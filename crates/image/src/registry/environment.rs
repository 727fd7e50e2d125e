//! The host's settings, certificates and credentials for pulls.

use super::limits::Limits;
use super::settings::Settings;
use super::tls::Certificates;
use crate::credentials::CredentialFiles;
use crate::error::PullError;

/// Everything on this host that affects pulls.
#[derive(Debug)]
pub(crate) struct Environment {
    pub settings: Settings,
    pub certificates: Certificates,
    pub credentials: CredentialFiles,
    pub limits: Limits,
}

impl Environment {
    /// Reads this process's environment.
    pub fn of_process() -> Result<Self, PullError> {
        Ok(Self {
            settings: Settings::of_process()?,
            certificates: Certificates::of_process(),
            credentials: CredentialFiles::of_process(),
            limits: Limits::default(),
        })
    }
}
