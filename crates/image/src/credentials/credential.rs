//! One credential, regardless of its origin.

use std::fmt;

/// A proof of identity for a registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Password {
        username: String,
        password: String,
    },
    /// Exchanged for tokens at the registry's token server.
    IdentityToken(String),
    /// Sent to the registry unchanged.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::IdentityToken(_) => "IdentityToken",
            Self::RegistryToken(_) => "RegistryToken",
        })
    }
}
