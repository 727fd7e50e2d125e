//! One credential, whatever it was found in.

use std::fmt;

/// What proves who one is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Password {
        username: String,
        password: String,
    },
    /// To be exchanged for tokens where the registry says.
    IdentityToken(String),
    /// To be presented to the registry as it is.
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
