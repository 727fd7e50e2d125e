//! An entry of the redirection table (82093AA, section 3.2.4) and the message it stands for (Intel SDM volume 3,
//! section 11.11).

/// Bit 14: the interrupt waits for its EOI; only the controller changes it.
const REMOTE_IRR: u64 = 1 << 14;
/// Bit 12: delivery is pending; only the controller changes it.
const DELIVERY_STATUS: u64 = 1 << 12;
/// Bit 16.
const MASKED: u64 = 1 << 16;
/// Vector (bits 0 to 7) and delivery mode (bits 8 to 10), at the same places as in a message's data.
const VECTOR_AND_MODE: u64 = 0x7ff;
/// Bit 11: the destination is logical.
const LOGICAL: u64 = 1 << 11;
/// Address of messages to local APICs.
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;

/// A message-signalled interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Low half of the address; the high half is zero.
    pub address: u32,
    /// The value written to the address.
    pub data: u32,
}

/// The effect of a line when its device raises it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirection(u64);

impl Default for Redirection {
    /// Masked, as after a reset.
    fn default() -> Self {
        Self(MASKED)
    }
}

impl Redirection {
    /// The low (`half` 0) or high register.
    #[must_use]
    pub fn half(self, half: u8) -> u32 {
        let [a, b, c, d, e, f, g, h] = self.0.to_le_bytes();
        u32::from_le_bytes(if half == 0 { [a, b, c, d] } else { [e, f, g, h] })
    }

    /// The entry with its low or high register replaced.
    #[must_use]
    pub fn with_half(self, half: u8, value: u32) -> Self {
        let value = u64::from(value);
        let bits = if half == 0 {
            self.0 & !0xffff_ffff | value & !(REMOTE_IRR | DELIVERY_STATUS)
        } else {
            self.0 & 0xffff_ffff | value << 32
        };
        Self(bits)
    }

    /// The message that the line sends, or none while it is masked. Every line is edge-triggered, regardless of the
    /// entry, because all devices are.
    #[must_use]
    pub fn message(self) -> Option<Message> {
        if self.0 & MASKED != 0 {
            return None;
        }
        let [.., destination] = self.0.to_le_bytes();
        let logical = if self.0 & LOGICAL == 0 { 0 } else { 1 << 2 };
        Some(Message {
            address: MESSAGE_ADDRESS | u32::from(destination) << 12 | logical,
            data: Self(self.0 & VECTOR_AND_MODE).half(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_masked_initially_and_sends_nothing() {
        assert_eq!(Redirection::default().half(0), 0x1_0000);
        assert_eq!(Redirection::default().message(), None);
    }

    #[test]
    fn an_entry_becomes_the_message_to_its_destination() {
        // Fixed, physical, processor 3, vector 0x31.
        let fixed = Redirection::default().with_half(1, 3 << 24).with_half(0, 0x31);
        assert_eq!(
            fixed.message(),
            Some(Message {
                address: 0xfee0_3000,
                data: 0x31
            })
        );
        // Lowest priority, logical, level-triggered: the level is not passed on.
        let lowest = Redirection::default()
            .with_half(1, 0xff << 24)
            .with_half(0, 0x8900 | 0x42);
        assert_eq!(
            lowest.message(),
            Some(Message {
                address: 0xfeef_f004,
                data: 0x142
            })
        );
    }

    #[test]
    fn halves_are_written_separately_and_status_bits_are_read_only() {
        let entry = Redirection::default().with_half(1, 0x0500_0000).with_half(0, u32::MAX);
        assert_eq!(entry.half(1), 0x0500_0000);
        assert_eq!(entry.half(0), !(1 << 12 | 1 << 14));
    }
}
