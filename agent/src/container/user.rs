//! Whom a container's process runs as: USER of the image or the manifest, looked up in the image's own files.
//!
//! Those files are the image author's; they are read with a limit, and a line that makes no sense is skipped.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Largest passwd or group file that is looked at, bytes. Domain-wide files with a hundred thousand lines fit.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Most groups one process can have (`NGROUPS_MAX`, linux/limits.h).
const MAX_GROUPS: usize = 65_536;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, each once.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Why a user could not be resolved. The words are those that Docker and containerd users know.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    /// Neither a number nor in the passwd file.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// Neither a number nor in the group file.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number above the limit of 2^32 - 2; -1 means "no change" to the kernel.
    #[error("uids and gids must be in range 0-4294967294: {0}")]
    OutOfRange(String),
}

/// Reads a file of the container's root as text; a missing one is empty. Anything but a bounded regular file is an error.
pub fn read_database(path: &Path) -> io::Result<String> {
    let open = OpenOptions::new()
        .read(true)
        // A FIFO must not block, a terminal must not become ours.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = match open {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("larger than {MAX_FILE_BYTES} bytes"),
        ));
    }
    Ok(String::from_utf8_lossy(&content).into_owned())
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// An id of a file. The largest number means "no change" to setresuid(2), which would leave root as it is.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// passwd(5): name:password:UID:GID:GECOS:directory:shell
fn passwd_entries(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(PasswdEntry { name, uid, gid, home })
    })
}

/// group(5): name:password:GID:member,member
fn group_entries(group: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = id(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default();
        Some(GroupEntry { name, gid, members })
    })
}

/// A numeric id, if the text is one.
fn number(text: &str) -> Option<Result<u32, UserError>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let id = text.parse().ok().filter(|id| *id != u32::MAX);
    Some(id.ok_or_else(|| UserError::OutOfRange(text.to_owned())))
}

/// Resolves "", "name", "uid", "name:group" or "uid:gid".
///
/// As in Docker: a name in the files wins over a number; a number that is not there gets group 0 and home "/"; with an
/// explicit group the image's supplementary groups do not apply.
pub fn resolve(spec: &str, supplemental_gids: &[u32], passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, wanted_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let wanted_uid = number(user).transpose();
    let entry = passwd_entries(passwd)
        .find(|entry| entry.name == user || matches!(wanted_uid, Ok(Some(uid)) if uid == entry.uid));
    let (uid, mut gid, home, name) = match entry {
        Some(entry) => (entry.uid, entry.gid, entry.home, Some(entry.name)),
        None => match wanted_uid? {
            Some(uid) => (uid, 0, "", None),
            None => return Err(UserError::UnknownUser(user.to_owned())),
        },
    };

    let mut groups = Vec::new();
    if let Some(wanted) = wanted_group {
        let wanted_gid = number(wanted).transpose();
        let entry = group_entries(group)
            .find(|entry| entry.name == wanted || matches!(wanted_gid, Ok(Some(gid)) if gid == entry.gid));
        gid = match entry {
            Some(entry) => entry.gid,
            None => wanted_gid?.ok_or_else(|| UserError::UnknownGroup(wanted.to_owned()))?,
        };
    } else if let Some(name) = name {
        let member_of = group_entries(group).filter(|entry| entry.members.split(',').any(|member| member == name));
        groups.extend(member_of.map(|entry| entry.gid));
    }
    groups.extend(supplemental_gids);
    groups.sort_unstable();
    groups.dedup();
    groups.retain(|group| *group != u32::MAX);
    groups.truncate(MAX_GROUPS);
    let home = if home.is_empty() { "/" } else { home };
    Ok(User {
        uid,
        gid,
        groups,
        home: home.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        broken line\n\
        bad:x:abc:0::/:\n\
        web:x:101:102:nginx:/var/cache/nginx:/sbin/nologin\n\
        4000:x:7:8::/odd:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,web\nweb:x:102:\nlogs:x:103:other,web\nnope:x::web\n";

    fn user(spec: &str) -> Result<(u32, u32, Vec<u32>, String), UserError> {
        resolve(spec, &[], PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn nobody_said_who_means_root() {
        assert_eq!(user(""), Ok((0, 0, vec![10], "/root".into())));
        assert_eq!(resolve("", &[], "", "").unwrap().home, "/");
    }

    #[test]
    fn a_name_brings_its_groups_and_home() {
        assert_eq!(user("web"), Ok((101, 102, vec![10, 103], "/var/cache/nginx".into())));
    }

    #[test]
    fn a_known_number_is_as_good_as_the_name() {
        assert_eq!(user("101"), user("web"));
    }

    #[test]
    fn an_unknown_number_gets_group_zero() {
        assert_eq!(user("5000"), Ok((5000, 0, vec![], "/".into())));
    }

    #[test]
    fn a_name_of_digits_wins_over_the_number() {
        assert_eq!(user("4000"), Ok((7, 8, vec![], "/odd".into())));
    }

    #[test]
    fn an_explicit_group_replaces_the_images_groups() {
        assert_eq!(user("web:logs"), Ok((101, 103, vec![], "/var/cache/nginx".into())));
        assert_eq!(user("1:2"), Ok((1, 2, vec![], "/".into())));
        assert_eq!(user(":logs"), Ok((0, 103, vec![], "/root".into())));
    }

    #[test]
    fn an_entry_with_the_number_that_changes_nothing_is_skipped() {
        let passwd = "evil:x:4294967295:4294967295::/:\n";
        assert_eq!(
            resolve("evil", &[], passwd, ""),
            Err(UserError::UnknownUser("evil".into()))
        );
    }

    #[test]
    fn supplemental_groups_are_added_once() {
        let groups = resolve("web", &[103, 7, 7], PASSWD, GROUP).unwrap().groups;
        assert_eq!(groups, [7, 10, 103]);
    }

    #[test]
    fn unknown_names_and_impossible_numbers_are_errors() {
        assert_eq!(user("nobody"), Err(UserError::UnknownUser("nobody".into())));
        assert_eq!(user("web:staff"), Err(UserError::UnknownGroup("staff".into())));
        assert_eq!(user("4294967295"), Err(UserError::OutOfRange("4294967295".into())));
        assert_eq!(user("1:99999999999"), Err(UserError::OutOfRange("99999999999".into())));
    }

    proptest! {
        #[test]
        fn hostile_files_never_panic(spec in any::<String>(), passwd in any::<String>(), group in any::<String>()) {
            let _ = resolve(&spec, &[1], &passwd, &group);
        }

        #[test]
        fn hostile_lines_never_yield_the_forbidden_group(
            passwd in "(root|a|1)?:?x?:[0-9]{0,12}:[0-9]{0,12}:?:?/?\n{0,3}",
            group in "(a|b):x:[0-9]{0,12}:a,root\n{0,3}",
        ) {
            if let Ok(user) = resolve("a", &[u32::MAX], &passwd, &group) {
                prop_assert!(!user.groups.contains(&u32::MAX));
            }
        }
    }
}
