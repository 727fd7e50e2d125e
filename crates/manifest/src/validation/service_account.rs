//! Kubernetes' rules for ServiceAccounts, which concern only their metadata.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::super::error::Problem;
use super::found::Found;
use super::{metadata, update};

/// All problems of the ServiceAccount.
pub(crate) fn validate(account: &ServiceAccount) -> Vec<Problem> {
    let mut found = Found::default();
    metadata::validate(&account.metadata, &mut found);
    found.0
}

/// All problems of a change.
pub(crate) fn validate_update(new: &ServiceAccount, old: &ServiceAccount) -> Vec<Problem> {
    let mut found = Found::default();
    update::metadata(&new.metadata, &old.metadata, &mut found);
    found.0
}
