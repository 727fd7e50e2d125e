//! Constants of the kernel's nf_tables interface. libc declares those of messages, registers and hooks as `int`; here
//! they have the width of their field. libc lacks the attributes (`NFTA_*`), which are from
//! `include/uapi/linux/netfilter/nf_tables.h`.

/// Message types of a subsystem, and the subsystem (`nfnetlink.h`).
pub const NFNL_SUBSYS_NFTABLES: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
pub const NFNL_MSG_BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
pub const NFNL_MSG_BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;

/// `enum nf_tables_msg_types`
pub const NFT_MSG_NEWTABLE: u16 = libc::NFT_MSG_NEWTABLE as u16;
pub const NFT_MSG_NEWCHAIN: u16 = libc::NFT_MSG_NEWCHAIN as u16;
pub const NFT_MSG_DELCHAIN: u16 = libc::NFT_MSG_DELCHAIN as u16;
pub const NFT_MSG_NEWRULE: u16 = libc::NFT_MSG_NEWRULE as u16;
pub const NFT_MSG_GETRULE: u16 = libc::NFT_MSG_GETRULE as u16;
pub const NFT_MSG_DELRULE: u16 = libc::NFT_MSG_DELRULE as u16;

/// `enum nft_registers`
pub const NFT_REG_VERDICT: u32 = libc::NFT_REG_VERDICT as u32;
pub const NFT_REG_1: u32 = libc::NFT_REG_1 as u32;

/// `enum nft_meta_keys`
pub const NFT_META_PROTOCOL: u32 = libc::NFT_META_PROTOCOL as u32;
pub const NFT_META_OIFNAME: u32 = libc::NFT_META_OIFNAME as u32;

/// `enum nft_cmp_ops`
pub const NFT_CMP_EQ: u32 = libc::NFT_CMP_EQ as u32;
pub const NFT_CMP_NEQ: u32 = libc::NFT_CMP_NEQ as u32;

/// `enum nft_table_attributes`
pub const NFTA_TABLE_NAME: u16 = 1;

/// `enum nft_chain_attributes`
pub const NFTA_CHAIN_TABLE: u16 = 1;
pub const NFTA_CHAIN_NAME: u16 = 3;
pub const NFTA_CHAIN_HOOK: u16 = 4;
pub const NFTA_CHAIN_POLICY: u16 = 5;
pub const NFTA_CHAIN_TYPE: u16 = 7;

/// `enum nft_hook_attributes`
pub const NFTA_HOOK_HOOKNUM: u16 = 1;
pub const NFTA_HOOK_PRIORITY: u16 = 2;
pub const NFTA_HOOK_DEV: u16 = 3;

/// `enum nft_rule_attributes`
pub const NFTA_RULE_TABLE: u16 = 1;
pub const NFTA_RULE_CHAIN: u16 = 2;
pub const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub const NFTA_RULE_USERDATA: u16 = 7;

/// `enum nft_list_attributes`
pub const NFTA_LIST_ELEM: u16 = 1;

/// `enum nft_expr_attributes`
pub const NFTA_EXPR_NAME: u16 = 1;
pub const NFTA_EXPR_DATA: u16 = 2;

/// `enum nft_data_attributes`
pub const NFTA_DATA_VALUE: u16 = 1;
pub const NFTA_DATA_VERDICT: u16 = 2;

/// `enum nft_verdict_attributes`
pub const NFTA_VERDICT_CODE: u16 = 1;

/// `enum nft_meta_attributes`
pub const NFTA_META_DREG: u16 = 1;
pub const NFTA_META_KEY: u16 = 2;

/// `enum nft_payload_attributes`
pub const NFTA_PAYLOAD_DREG: u16 = 1;
pub const NFTA_PAYLOAD_BASE: u16 = 2;
pub const NFTA_PAYLOAD_OFFSET: u16 = 3;
pub const NFTA_PAYLOAD_LEN: u16 = 4;

/// `enum nft_bitwise_attributes`
pub const NFTA_BITWISE_SREG: u16 = 1;
pub const NFTA_BITWISE_DREG: u16 = 2;
pub const NFTA_BITWISE_LEN: u16 = 3;
pub const NFTA_BITWISE_MASK: u16 = 4;
pub const NFTA_BITWISE_XOR: u16 = 5;

/// `enum nft_cmp_attributes`
pub const NFTA_CMP_SREG: u16 = 1;
pub const NFTA_CMP_OP: u16 = 2;
pub const NFTA_CMP_DATA: u16 = 3;

/// `enum nft_immediate_attributes`
pub const NFTA_IMMEDIATE_DREG: u16 = 1;
pub const NFTA_IMMEDIATE_DATA: u16 = 2;

/// `enum nftnl_udata_rule_types` of libnftnl, which defines the content of a rule's user data: the rule's comment.
pub const NFTNL_UDATA_RULE_COMMENT: u8 = 0;
