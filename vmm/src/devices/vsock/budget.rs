//! Limits how much data from the guest may wait in this process for readers on the host: one total for
//! all connections of the VM.

/// Maximum number of connections of a VM.
pub const MAX_CONNECTIONS: usize = 1024;
/// Bytes that every connection gets.
pub const MIN_BYTES: u32 = 4 << 10;
/// Bytes that a connection gets while there are few of them: a sender of 64 KiB packets then
/// never has to wait for credit.
pub const MAX_BYTES: u32 = 256 << 10;
/// Bytes that all connections together may get, and so the most guest data that can wait here.
pub const TOTAL_BYTES: u32 = 12 << 20;

/// A connection gets at most one `SHARE`th of the ungranted bytes, so that some remain for the next connection.
const SHARE: u32 = 8;

/// [`MIN_BYTES`] for each possible connection.
const PROMISED_BYTES: u32 = 4 << 20;

const _: () = assert!(PROMISED_BYTES as usize == MIN_BYTES as usize * MAX_CONNECTIONS && PROMISED_BYTES < TOTAL_BYTES);

/// The part of [`TOTAL_BYTES`] that is left.
#[derive(Debug)]
pub struct Budget {
    /// Bytes beyond [`MIN_BYTES`] for each possible connection.
    spare: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            spare: TOTAL_BYTES - PROMISED_BYTES,
        }
    }
}

impl Budget {
    /// Grants a connection its bytes, at least [`MIN_BYTES`]. At most [`MAX_CONNECTIONS`] may have a grant at a time.
    pub fn grant(&mut self) -> u32 {
        let extra = (self.spare / SHARE).min(MAX_BYTES - MIN_BYTES);
        let extra = extra - extra % MIN_BYTES;
        self.spare -= extra;
        MIN_BYTES + extra
    }

    /// Takes back the grant of a connection that is gone.
    pub fn give_back(&mut self, granted: u32) {
        let extra = granted.saturating_sub(MIN_BYTES);
        self.spare = self.spare.saturating_add(extra).min(TOTAL_BYTES - PROMISED_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_never_exceed_the_total_and_every_connection_gets_the_minimum() {
        let mut budget = Budget::default();
        let grants: Vec<u32> = (0..MAX_CONNECTIONS).map(|_| budget.grant()).collect();
        assert!(grants.iter().map(|grant| u64::from(*grant)).sum::<u64>() <= u64::from(TOTAL_BYTES));
        assert!(grants.iter().all(|grant| *grant >= MIN_BYTES));
        assert!(
            grants.iter().take(24).all(|grant| *grant == MAX_BYTES),
            "few connections have all they can use"
        );
        assert_eq!(grants.last(), Some(&MIN_BYTES));
    }

    #[test]
    fn returned_bytes_are_granted_again() {
        let mut budget = Budget::default();
        for _ in 0..3 {
            let grants: Vec<u32> = (0..MAX_CONNECTIONS).map(|_| budget.grant()).collect();
            assert_eq!(grants.first(), Some(&MAX_BYTES));
            grants.into_iter().for_each(|grant| budget.give_back(grant));
        }
    }
}
