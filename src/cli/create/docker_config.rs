//! The content of `.dockerconfigjson`, as `kubectl create secret docker-registry` writes it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::name_hash::go_json;

/// Credentials for a registry.
#[derive(Debug, clap::Args)]
pub(super) struct RegistryArgs {
    /// Address of the registry
    #[arg(long, default_value = "https://index.docker.io/v1/", value_name = "ADDRESS")]
    docker_server: String,
    /// User name for the registry
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    docker_username: String,
    /// Password for the registry
    #[arg(long, value_name = "PASSWORD")]
    docker_password: Option<Password>,
    /// Email address for the registry
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ADDRESS")]
    docker_email: String,
}

#[derive(Clone)]
struct Password(String);

impl FromStr for Password {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// The configuration; `None` if the credentials are not complete.
pub(super) fn content(args: &RegistryArgs) -> Option<String> {
    let password = args.docker_password.as_ref().map_or("", |password| password.0.as_str());
    let (server, user) = (args.docker_server.as_str(), args.docker_username.as_str());
    if server.is_empty() || user.is_empty() || password.is_empty() {
        return None;
    }
    let auth = STANDARD.encode(format!("{user}:{password}"));
    let fields = [
        ("username", user),
        ("password", password),
        ("email", args.docker_email.as_str()),
        ("auth", auth.as_str()),
    ];
    // Write the fields in this order, without empty ones.
    let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
    let fields = fields.map(|(name, value)| format!("\"{name}\":{}", go_json(&Value::from(value))));
    let fields = fields.collect::<Vec<_>>().join(",");
    Some(format!(
        "{{\"auths\":{{{}:{{{fields}}}}}}}",
        go_json(&Value::from(server))
    ))
}
