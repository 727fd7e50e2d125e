//! Why the rules of claims could not be applied.

use microkube_store::StoreError;

use crate::pod::patience::CLAIMS_PATIENCE;
use crate::state::RecordError;
use crate::volume::ClaimDiskError;

/// Maximum number of times that the rules are applied. A chain of a few follows from each change.
pub(super) const ROUNDS: usize = 64;

/// The rules of claims could not be applied. Another call continues.
#[derive(Debug, thiserror::Error)]
pub enum ClaimsError {
    #[error("other processes have been changing volume claims for {} s", CLAIMS_PATIENCE.as_secs())]
    Busy,
    #[error(transparent)]
    Lock(#[from] RecordError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It could be the user of a claim, or the owner of a volume.
    #[error("claims and volumes stay as they are while an object cannot be read")]
    Damaged(#[source] StoreError),
    #[error("the stored {kind} {name:?} cannot be read")]
    Undecodable {
        kind: &'static str,
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot read the disks of volumes")]
    Disks(#[source] ClaimDiskError),
    #[error("the volume claims still change after {ROUNDS} rounds")]
    Endless,
}
