//! nf_tables over netlink: encodes batches of changes and exchanges them with the kernel. It contains only what
//! microkube's rules need; the rules themselves are in `firewall`.
//!
//! A batch is a transaction: the kernel applies all of it or none of it. All attribute values are big-endian.

mod netlink;
mod uapi;

use std::io;

use netlink::{
    Attributes, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, messages, parse_answers, receive, send,
};
use uapi::*;

/// Protocol families of tables (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// IPv4 packets.
    Ipv4 = libc::NFPROTO_IPV4 as u8,
    /// All frames of one device.
    Netdev = libc::NFPROTO_NETDEV as u8,
}

/// The verdict on a packet, as a chain's policy or in a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// `NF_DROP`
    Drop = libc::NF_DROP as u8,
    /// `NF_ACCEPT`
    Accept = libc::NF_ACCEPT as u8,
}

/// Where a chain is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook<'a> {
    /// `filter`, `nat` …
    pub chain_type: &'a str,
    /// `NF_INET_*` or `NF_NETDEV_*`
    pub number: u32,
    /// Chains of lower priority come first.
    pub priority: i32,
    /// The device, for [`Family::Netdev`].
    pub device: Option<&'a str>,
}

/// Packets that leave the host.
pub const HOOK_POSTROUTING: u32 = libc::NF_INET_POST_ROUTING as u32;
/// Frames that a device receives.
pub const HOOK_NETDEV_INGRESS: u32 = libc::NF_NETDEV_INGRESS as u32;
/// Where source addresses are translated.
pub const PRIORITY_SRCNAT: i32 = libc::NF_IP_PRI_NAT_SRC;

/// The header from which a payload offset counts (`NFT_PAYLOAD_*_HEADER`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Header {
    /// Ethernet.
    Link = libc::NFT_PAYLOAD_LL_HEADER as u8,
    /// IPv4 or ARP.
    Network = libc::NFT_PAYLOAD_NETWORK_HEADER as u8,
}

/// One step of a rule. A rule ends at the first comparison that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression<'a> {
    /// Loads the frame's EtherType (`meta protocol`).
    LoadProtocol,
    /// Loads the name of the output interface, padded with zeros to 16 bytes.
    LoadOutputInterface,
    /// Loads bytes from a header.
    LoadPayload {
        /// Which header.
        header: Header,
        /// First byte.
        offset: u32,
        /// Number of bytes, at most 16.
        length: u32,
    },
    /// Keeps only the bits of the mask.
    Mask(&'a [u8]),
    /// Continues only if the loaded value equals this one.
    Equal(&'a [u8]),
    /// Continues only if the loaded value differs from this one.
    NotEqual(&'a [u8]),
    /// Ends the chain with this verdict.
    Verdict(Verdict),
    /// Translates the source address to that of the output interface.
    Masquerade,
}

/// The only register that is used.
const REGISTER: u32 = NFT_REG_1;

/// A transaction under construction.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    next_sequence: u32,
}

impl Default for Batch {
    fn default() -> Self {
        let mut batch = Self {
            bytes: Vec::with_capacity(1024),
            next_sequence: 0,
        };
        batch.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, |_| {});
        batch
    }
}

impl Batch {
    /// Adds a table, unless it exists.
    pub fn add_table(&mut self, family: Family, table: &str) {
        self.change(NFT_MSG_NEWTABLE, NLM_F_CREATE, family, |attributes| {
            attributes.string(NFTA_TABLE_NAME, table)
        });
    }

    /// Adds a base chain, unless it exists with the same hook.
    pub fn add_base_chain(&mut self, family: Family, table: &str, chain: &str, hook: Hook<'_>, policy: Verdict) {
        self.change(NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, |attributes| {
            attributes.string(NFTA_CHAIN_TABLE, table);
            attributes.string(NFTA_CHAIN_NAME, chain);
            attributes.nested(NFTA_CHAIN_HOOK, |attributes| {
                attributes.u32(NFTA_HOOK_HOOKNUM, hook.number);
                attributes.u32(NFTA_HOOK_PRIORITY, hook.priority.cast_unsigned());
                if let Some(device) = hook.device {
                    attributes.string(NFTA_HOOK_DEV, device);
                }
            });
            attributes.u32(NFTA_CHAIN_POLICY, policy as u32);
            attributes.string(NFTA_CHAIN_TYPE, hook.chain_type);
        });
    }

    /// Deletes all rules of a chain, which must exist.
    pub fn flush_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.change(NFT_MSG_DELRULE, 0, family, |attributes| {
            attributes.string(NFTA_RULE_TABLE, table);
            attributes.string(NFTA_RULE_CHAIN, chain);
        });
    }

    /// Deletes an empty chain.
    pub fn delete_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.change(NFT_MSG_DELCHAIN, 0, family, |attributes| {
            attributes.string(NFTA_CHAIN_TABLE, table);
            attributes.string(NFTA_CHAIN_NAME, chain);
        });
    }

    /// Appends a rule to a chain. The comment is at most 127 bytes long; `nft list ruleset` shows it and `comments`
    /// returns it.
    pub fn add_rule(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
        comment: &str,
        expressions: &[Expression<'_>],
    ) {
        self.change(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, |attributes| {
            attributes.string(NFTA_RULE_TABLE, table);
            attributes.string(NFTA_RULE_CHAIN, chain);
            attributes.nested(NFTA_RULE_EXPRESSIONS, |list| {
                for expression in expressions {
                    list.nested(NFTA_LIST_ELEM, |attributes| expression.encode(attributes));
                }
            });
            // libnftnl's encoding of user data: type, length, value. A comment is a NUL-terminated string.
            let mut user_data = vec![NFTNL_UDATA_RULE_COMMENT, (comment.len() + 1) as u8];
            user_data.extend_from_slice(comment.as_bytes());
            user_data.push(0);
            attributes.bytes(NFTA_RULE_USERDATA, &user_data);
        });
    }

    fn change(&mut self, kind: u16, flags: u16, family: Family, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.message(
            (NFNL_SUBSYS_NFTABLES << 8) | kind,
            NLM_F_REQUEST | NLM_F_ACK | flags,
            family as u8,
            0,
            fill,
        );
    }

    /// A `struct nlmsghdr`, a `struct nfgenmsg` and attributes.
    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.next_sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.next_sequence += 1;
        fill(&mut Attributes { bytes: &mut self.bytes });
        // Messages consist of this module's constants and short names: far below 4 GiB.
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// The complete transaction, and the sequence number of its last message.
    fn finish(mut self) -> (Vec<u8>, u32) {
        let end = self.next_sequence;
        self.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, |_| {});
        (self.bytes, end)
    }

    /// Sends the transaction to the kernel and waits for its result. Blocks for milliseconds at most.
    ///
    /// The error is the kernel's for the first change that it refused: `ENOENT` for an object that does not exist,
    /// `EOPNOTSUPP` for a family, hook or expression that this kernel lacks, `EPERM` without `CAP_NET_ADMIN`.
    pub fn commit(self) -> io::Result<()> {
        let (request, end) = self.finish();
        let socket = send(&request)?;
        // One answer per change, numbered 1 to end-1, or one to the beginning of the batch (0) for all of them.
        let mut outstanding = end.saturating_sub(1);
        let mut outcome = Ok(());
        while outstanding > 0 {
            let datagram = receive(&socket)?;
            for (sequence, errno) in parse_answers(&datagram) {
                if errno != 0 && outcome.is_ok() {
                    outcome = Err(io::Error::from_raw_os_error(errno));
                }
                if sequence == 0 && errno != 0 {
                    return outcome;
                }
                outstanding = outstanding.saturating_sub(1);
            }
        }
        close_in_background(socket);
        outcome
    }
}

/// Closes the socket of a finished transaction in a thread and does not wait for it: after a deletion, closing takes an
/// RCU grace period (7 to 20 ms), because the kernel waits until nothing uses the deleted objects. No caller depends on
/// that.
fn close_in_background(socket: netlink_sys::Socket) {
    // If no thread can be started, the closure is dropped, which closes the socket here.
    let _ = std::thread::Builder::new()
        .name("nftables".into())
        .spawn(move || drop(socket));
}

/// The comments of a chain's rules in order; `None` for a rule without one. A chain that does not exist has no rules.
pub fn comments(family: Family, table: &str, chain: &str) -> io::Result<Vec<Option<String>>> {
    let mut request = Batch {
        bytes: Vec::new(),
        next_sequence: 0,
    };
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETRULE;
    request.message(kind, NLM_F_REQUEST | NLM_F_DUMP, family as u8, 0, |attributes| {
        attributes.string(NFTA_RULE_TABLE, table);
        attributes.string(NFTA_RULE_CHAIN, chain);
    });
    let socket = send(&request.bytes)?;
    let mut comments = Vec::new();
    loop {
        let datagram = receive(&socket)?;
        for message in messages(&datagram) {
            match message.kind {
                NLMSG_DONE => return Ok(comments),
                NLMSG_ERROR => match message.errno() {
                    libc::ENOENT => return Ok(Vec::new()),
                    errno => return Err(io::Error::from_raw_os_error(errno)),
                },
                // The rule's attributes follow a `struct nfgenmsg`.
                _ => comments.push(message.payload.get(4..).and_then(comment_of)),
            }
        }
    }
}

/// Finds the comment in a rule's attributes.
fn comment_of(mut attributes: &[u8]) -> Option<String> {
    while let [a, b, c, d, rest @ ..] = attributes {
        let (length, kind) = (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d]));
        let value = rest.get(..length.checked_sub(4)?)?;
        if kind & !NLA_F_NESTED == NFTA_RULE_USERDATA {
            let [NFTNL_UDATA_RULE_COMMENT, comment_length, comment @ ..] = value else {
                return None;
            };
            let comment = comment.get(..usize::from(*comment_length))?.strip_suffix(b"\0")?;
            return String::from_utf8(comment.to_vec()).ok();
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

impl Expression<'_> {
    fn encode(&self, attributes: &mut Attributes<'_>) {
        match *self {
            Self::LoadProtocol => load_meta(attributes, NFT_META_PROTOCOL),
            Self::LoadOutputInterface => load_meta(attributes, NFT_META_OIFNAME),
            Self::LoadPayload { header, offset, length } => named(attributes, "payload", |data| {
                data.u32(NFTA_PAYLOAD_DREG, REGISTER);
                data.u32(NFTA_PAYLOAD_BASE, header as u32);
                data.u32(NFTA_PAYLOAD_OFFSET, offset);
                data.u32(NFTA_PAYLOAD_LEN, length);
            }),
            Self::Mask(mask) => named(attributes, "bitwise", |data| {
                data.u32(NFTA_BITWISE_SREG, REGISTER);
                data.u32(NFTA_BITWISE_DREG, REGISTER);
                data.u32(NFTA_BITWISE_LEN, mask.len() as u32);
                data.nested(NFTA_BITWISE_MASK, |value| value.bytes(NFTA_DATA_VALUE, mask));
                data.nested(NFTA_BITWISE_XOR, |value| {
                    value.bytes(NFTA_DATA_VALUE, &vec![0; mask.len()])
                });
            }),
            Self::Equal(value) => compare(attributes, NFT_CMP_EQ, value),
            Self::NotEqual(value) => compare(attributes, NFT_CMP_NEQ, value),
            Self::Verdict(verdict) => named(attributes, "immediate", |data| {
                data.u32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
                data.nested(NFTA_IMMEDIATE_DATA, |value| {
                    value.nested(NFTA_DATA_VERDICT, |code| code.u32(NFTA_VERDICT_CODE, verdict as u32))
                });
            }),
            Self::Masquerade => named(attributes, "masq", |_| {}),
        }
    }
}

fn load_meta(attributes: &mut Attributes<'_>, key: u32) {
    named(attributes, "meta", |data| {
        data.u32(NFTA_META_DREG, REGISTER);
        data.u32(NFTA_META_KEY, key);
    });
}

fn compare(attributes: &mut Attributes<'_>, operation: u32, value: &[u8]) {
    named(attributes, "cmp", |data| {
        data.u32(NFTA_CMP_SREG, REGISTER);
        data.u32(NFTA_CMP_OP, operation);
        data.nested(NFTA_CMP_DATA, |data| data.bytes(NFTA_DATA_VALUE, value));
    });
}

fn named(attributes: &mut Attributes<'_>, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    attributes.string(NFTA_EXPR_NAME, name);
    attributes.nested(NFTA_EXPR_DATA, fill);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn a_batch_is_framed_by_begin_and_end() {
        let (bytes, end) = Batch::default().finish();
        // length, type and flags, sequence, port, nfgenmsg with resource id 10 in network order
        assert_eq!(
            words(&bytes),
            [20, 0x0001_0010, 0, 0, 0x0a00_0000, 20, 0x0001_0011, 1, 0, 0x0a00_0000]
        );
        assert_eq!(end, 1);
    }

    #[test]
    fn a_table_is_encoded_in_the_kernels_format() {
        let mut batch = Batch::default();
        batch.add_table(Family::Ipv4, "microkube");
        let (bytes, end) = batch.finish();
        let message = &bytes[20..56];
        assert_eq!(words(&message[..20]), [36, 0x0405_0a00, 1, 0, 2]);
        // length 4 + "microkube\0", type 1, padded to 16
        assert_eq!(&message[20..], b"\x0e\x00\x01\x00microkube\0\0\0");
        assert_eq!(end, 2);
    }

    #[test]
    fn a_rule_nests_its_expressions() {
        let mut bytes = Vec::new();
        Expression::Equal(&[0x08, 0x00]).encode(&mut Attributes { bytes: &mut bytes });
        let expected: &[u8] = &[
            8, 0, 1, 0, b'c', b'm', b'p', 0, // NFTA_EXPR_NAME
            32, 0, 2, 0x80, // NFTA_EXPR_DATA, nested
            8, 0, 1, 0, 0, 0, 0, 1, // NFTA_CMP_SREG
            8, 0, 2, 0, 0, 0, 0, 0, // NFTA_CMP_OP: equal
            12, 0, 3, 0x80, 6, 0, 1, 0, 8, 0, 0, 0, // NFTA_CMP_DATA { NFTA_DATA_VALUE }, padded
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn every_attribute_and_message_is_aligned_and_inside_its_parent() {
        fn check(mut bytes: &[u8]) {
            while !bytes.is_empty() {
                let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
                let nested = u16::from_ne_bytes([bytes[2], bytes[3]]) & NLA_F_NESTED != 0;
                assert!(length >= 4 && length.next_multiple_of(4) <= bytes.len());
                if nested {
                    check(&bytes[4..length]);
                }
                bytes = &bytes[length.next_multiple_of(4)..];
            }
        }
        let mut batch = Batch::default();
        let hook = Hook {
            chain_type: "filter",
            number: HOOK_NETDEV_INGRESS,
            priority: -5,
            device: Some("mk0123"),
        };
        batch.add_base_chain(Family::Netdev, "microkube", "mk0123", hook, Verdict::Drop);
        batch.flush_chain(Family::Netdev, "microkube", "mk0123");
        let expressions = [
            Expression::LoadProtocol,
            Expression::LoadPayload {
                header: Header::Network,
                offset: 12,
                length: 3,
            },
            Expression::Mask(&[255, 255, 0]),
            Expression::NotEqual(&[1, 2, 3]),
            Expression::Masquerade,
            Expression::Verdict(Verdict::Accept),
        ];
        batch.add_rule(Family::Netdev, "microkube", "mk0123", "comment", &expressions);
        batch.delete_chain(Family::Netdev, "microkube", "mk0123");
        let (bytes, end) = batch.finish();
        let (mut rest, mut sequence) = (bytes.as_slice(), 0);
        while !rest.is_empty() {
            let header = words(&rest[..16]);
            let length = header[0] as usize;
            assert_eq!((header[2], length % 4), (sequence, 0));
            check(&rest[20..length]);
            rest = &rest[length..];
            sequence += 1;
        }
        assert_eq!(sequence, end + 1);
    }

    #[test]
    fn a_comment_survives_encoding_and_damage_does_not_panic() {
        let mut batch = Batch {
            bytes: Vec::new(),
            next_sequence: 0,
        };
        batch.add_rule(
            Family::Ipv4,
            "table",
            "chain",
            "10.88.0.0/16",
            &[Expression::Masquerade],
        );
        let attributes = &batch.bytes[20..];
        assert_eq!(comment_of(attributes).as_deref(), Some("10.88.0.0/16"));
        for cut in 0..attributes.len() - 3 {
            assert_eq!(comment_of(&attributes[..cut]), None);
        }
        for at in 0..attributes.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut damaged = attributes.to_vec();
                damaged[at] = byte;
                let _ = comment_of(&damaged);
            }
        }
    }

    #[test]
    fn replies_are_parsed_without_trusting_lengths() {
        let mut answer = Vec::new();
        for (sequence, code) in [(1_u32, 0_i32), (2, -2)] {
            answer.extend_from_slice(&36_u32.to_ne_bytes());
            answer.extend_from_slice(&[2, 0, 0, 0]);
            answer.extend_from_slice(&sequence.to_ne_bytes());
            answer.extend_from_slice(&[0; 4]);
            answer.extend_from_slice(&code.to_ne_bytes());
            answer.extend_from_slice(&[0; 16]);
        }
        assert_eq!(parse_answers(&answer), [(1, 0), (2, 2)]);
        for cut in 0..answer.len() {
            assert!(parse_answers(&answer[..cut]).len() <= 1);
        }
        assert_eq!(parse_answers(&[0; 64]), []);
        assert_eq!(parse_answers(&[0xff; 64]), []);
    }
}
