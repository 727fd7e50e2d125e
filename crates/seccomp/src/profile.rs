//! Parses the JSON of a profile, and derives the rules of each system call.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::program::{Condition, MAX_INSTRUCTIONS, Operator, Rules};
use super::system_calls;

/// Maximum size of a profile, in bytes. Docker's has 15 KiB.
pub const MAX_PROFILE_BYTES: usize = 1 << 20;

/// The error number of `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE` if the profile gives none: EPERM.
const DEFAULT_ERRNO: u32 = 1;

/// The part of an action that is its error number (`SECCOMP_RET_DATA`, linux/seccomp.h).
const DATA: u32 = 0xffff;

/// Names of this architecture in `includes` and `excludes`.
const OWN_ARCHITECTURE: [&str; 2] = ["amd64", "x86_64"];

/// Flags that make no difference to a process with one thread, without an audit log, on a processor that belongs to a
/// virtual machine.
const KNOWN_FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("longer than {MAX_PROFILE_BYTES} bytes")]
    TooLong,
    #[error("unknown action {0:?}")]
    UnknownAction(String),
    #[error("SCMP_ACT_NOTIFY is not supported, because there is no process to notify")]
    Notify,
    #[error("unknown operator {0:?}")]
    UnknownOperator(String),
    #[error("unknown flag {0:?}")]
    UnknownFlag(String),
    #[error("a system call has no argument {0}; use 0 to 5")]
    ArgumentNumber(u32),
    #[error("the compiled program has {0} instructions; Linux allows {MAX_INSTRUCTIONS}")]
    TooManyRules(usize),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<SystemCalls>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SystemCalls {
    #[serde(default)]
    names: Vec<String>,
    /// Used by older profiles.
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    // Docker writes null for an empty list.
    args: Option<Vec<Argument>>,
    includes: Option<Requirements>,
    excludes: Option<Requirements>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// The conditions of a rule. The guest's kernel is newer than any `minKernel`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Requirements {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

impl SystemCalls {
    fn applies(&self, capabilities: &[&str]) -> bool {
        let has = |name: &String| capabilities.contains(&name.as_str());
        let is_own = |name: &String| OWN_ARCHITECTURE.contains(&name.as_str());
        let is_included = self.includes.as_ref().is_none_or(|needed| {
            needed.caps.iter().all(has) && (needed.arches.is_empty() || needed.arches.iter().any(is_own))
        });
        let is_excluded = self.excludes.as_ref().is_some_and(|refused| {
            refused.min_kernel.is_some() || refused.caps.iter().any(has) || refused.arches.iter().any(is_own)
        });
        is_included && !is_excluded
    }

    /// The conditions of its rules; a single empty list if there are none.
    fn conditions(&self) -> Result<Vec<Vec<Condition>>, ProfileError> {
        let arguments = self.args.iter().flatten();
        let conditions = arguments.map(Argument::condition).collect::<Result<Vec<_>, _>>()?;
        let mut numbers: Vec<u32> = conditions.iter().map(|condition| condition.argument).collect();
        numbers.sort_unstable();
        // As in runc, several conditions for one argument are alternatives.
        Ok(match numbers.windows(2).any(|pair| pair[0] == pair[1]) {
            true => conditions.into_iter().map(|condition| vec![condition]).collect(),
            false => vec![conditions],
        })
    }
}

impl Argument {
    fn condition(&self) -> Result<Condition, ProfileError> {
        if self.index > 5 {
            return Err(ProfileError::ArgumentNumber(self.index));
        }
        let (operator, value) = match self.op.as_str() {
            "SCMP_CMP_NE" => (Operator::NotEqual, self.value),
            "SCMP_CMP_LT" => (Operator::Less, self.value),
            "SCMP_CMP_LE" => (Operator::LessOrEqual, self.value),
            "SCMP_CMP_EQ" => (Operator::Equal, self.value),
            "SCMP_CMP_GE" => (Operator::GreaterOrEqual, self.value),
            "SCMP_CMP_GT" => (Operator::Greater, self.value),
            "SCMP_CMP_MASKED_EQ" => (Operator::MaskedEqual { mask: self.value }, self.value_two),
            _ => return Err(ProfileError::UnknownOperator(self.op.clone())),
        };
        Ok(Condition {
            argument: self.index,
            operator,
            value,
        })
    }
}

/// The kernel's number of an action (`SECCOMP_RET_*`, linux/seccomp.h).
fn action(name: &str, errno: Option<u32>) -> Result<u32, ProfileError> {
    let data = errno.unwrap_or(DEFAULT_ERRNO) & DATA;
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | data,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        "SCMP_ACT_NOTIFY" => return Err(ProfileError::Notify),
        _ => return Err(ProfileError::UnknownAction(name.to_owned())),
    })
}

/// The rules of each system call, and the action for all others.
pub fn read(profile: &[u8], capabilities: &[&str]) -> Result<(BTreeMap<u32, Rules>, u32), ProfileError> {
    if profile.len() > MAX_PROFILE_BYTES {
        return Err(ProfileError::TooLong);
    }
    let profile: Profile = serde_json::from_slice(profile)?;
    if let Some(flag) = profile.flags.iter().find(|flag| !KNOWN_FLAGS.contains(&flag.as_str())) {
        return Err(ProfileError::UnknownFlag(flag.clone()));
    }
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut rules: BTreeMap<u32, Rules> = BTreeMap::new();
    for calls in &profile.syscalls {
        let action = action(&calls.action, calls.errno_ret)?;
        let conditions = calls.conditions()?;
        if !calls.applies(capabilities) {
            continue;
        }
        let numbers = calls
            .names
            .iter()
            .chain(&calls.name)
            .filter_map(|name| system_calls::number(name));
        for number in numbers {
            let of_call = rules.entry(number).or_default();
            for conditions in &conditions {
                of_call.add(conditions.clone(), action);
            }
        }
    }
    Ok((rules, default))
}
