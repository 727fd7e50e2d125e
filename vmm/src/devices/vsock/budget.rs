//! How much of the guest's data may wait in this process for readers on the host: one sum for all connections of the VM.

/// Most connections of a VM.
pub const MAX_CONNECTIONS: usize = 1024;
/// What any connection gets, bytes.
pub const MIN_BYTES: u32 = 4 << 10;
/// What a connection gets while there are not many, bytes: a sender of 64 KiB packets never has to wait for credit then.
pub const MAX_BYTES: u32 = 256 << 10;
/// Bytes that all connections together may have, and so the guest may have wait here.
pub const TOTAL_BYTES: u32 = 12 << 20;

/// Of what is not promised to anybody, a connection gets at most one in so many bytes: there is something left for the next.
const SHARE: u32 = 8;

/// [`MIN_BYTES`] for each connection there may be.
const PROMISED_BYTES: u32 = 4 << 20;

const _: () = assert!(PROMISED_BYTES as usize == MIN_BYTES as usize * MAX_CONNECTIONS && PROMISED_BYTES < TOTAL_BYTES);

/// What is left of [`TOTAL_BYTES`].
#[derive(Debug)]
pub struct Budget {
    /// Beyond [`MIN_BYTES`] for each connection there may be.
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
    /// Room for a connection's bytes, at least [`MIN_BYTES`]; at most [`MAX_CONNECTIONS`] have some at a time.
    pub fn grant(&mut self) -> u32 {
        let extra = (self.spare / SHARE).min(MAX_BYTES - MIN_BYTES);
        let extra = extra - extra % MIN_BYTES;
        self.spare -= extra;
        MIN_BYTES + extra
    }

    /// A connection is gone, and so is what it had been granted.
    pub fn give_back(&mut self, granted: u32) {
        let extra = granted.saturating_sub(MIN_BYTES);
        self.spare = self.spare.saturating_add(extra).min(TOTAL_BYTES - PROMISED_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_together_get_no_more_than_the_total_and_each_gets_some() {
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
    fn what_is_given_back_is_granted_again() {
        let mut budget = Budget::default();
        for _ in 0..3 {
            let grants: Vec<u32> = (0..MAX_CONNECTIONS).map(|_| budget.grant()).collect();
            assert_eq!(grants.first(), Some(&MAX_BYTES));
            grants.into_iter().for_each(|grant| budget.give_back(grant));
        }
    }
}
