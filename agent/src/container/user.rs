//! The user and the groups of a container's process: USER of the image or the manifest, looked up in the image's own
//! files as containerd does (`WithUser` and `WithAdditionalGIDs` in its `pkg/oci/spec_opts.go`).
//!
//! The image's author controls these files, so they are read with a size limit, and malformed lines are skipped.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::stat::{SFlag, fstat};
use serde::{Deserialize, Serialize};

use crate::mount_api::{Missing, open_in_root};

/// Largest passwd or group file that is read, in bytes. Files of a whole domain, with a hundred thousand lines, fit.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Maximum number of groups of a process (`NGROUPS_MAX`, linux/limits.h).
const MAX_GROUPS: usize = 65_536;

/// Largest id in a USER value, as in containerd and runc.
const MAX_WANTED_ID: u32 = i32::MAX.unsigned_abs();

/// Home directory of a user that is not in the passwd file.
const DEFAULT_HOME: &str = "/";

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, each once: the primary one first, the others in ascending order.
    pub groups: Vec<u32>,
    pub home: String,
}

/// Why a user could not be resolved. The messages are those of Docker and containerd.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    /// Neither a number nor in the passwd file.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// Neither a number nor in the group file.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A user id below zero or above 2^31 - 1.
    #[error("invalid USER value {0:?}: uid out of range")]
    UidOutOfRange(String),
    /// A group id below zero or above 2^31 - 1.
    #[error("invalid USER value {0:?}: gid out of range")]
    GidOutOfRange(String),
    /// More than a user and a group.
    #[error("invalid USER value {0:?}: more than one colon")]
    TooManyParts(String),
    /// More groups than a process can have.
    #[error("the user is in more than {MAX_GROUPS} groups, the most that Linux allows a process")]
    TooManyGroups,
}

/// Content of a file below `root`; symbolic links are resolved inside that root. A missing file counts as empty;
/// anything but a regular file of limited size is an error.
pub fn read_database(root: BorrowedFd<'_>, path: &Path) -> io::Result<Vec<u8>> {
    let found = match open_in_root(root, path, Missing::Fail) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let file = open_regular(&found)?;
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("larger than {MAX_FILE_BYTES} bytes"),
        ));
    }
    Ok(content)
}

/// Opens the file behind an `O_PATH` descriptor. Anything but a regular file is not even opened: a FIFO would block,
/// and opening a device can have side effects.
fn open_regular(found: &OwnedFd) -> io::Result<File> {
    if SFlag::from_bits_truncate(fstat(found)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", found.as_fd().as_raw_fd()))
}

struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// An id in a file. The largest number means "no change" to setresuid(2), which would leave the process as root.
fn id(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// Lines as fields between colons, without lines that lack a name.
fn lines(file: &[u8]) -> impl Iterator<Item = impl Iterator<Item = &[u8]>> {
    file.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| line.first().is_some_and(|first| *first != b':'))
        .map(|line| line.split(|byte| *byte == b':'))
}

/// passwd(5): name:password:UID:GID:GECOS:directory:shell
fn passwd_entries(passwd: &[u8]) -> impl Iterator<Item = PasswdEntry<'_>> {
    lines(passwd).filter_map(|mut fields| {
        let name = fields.next()?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(PasswdEntry { name, uid, gid, home })
    })
}

/// group(5): name:password:GID:member,member
fn group_entries(group: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    lines(group).filter_map(|mut fields| {
        let name = fields.next()?;
        let gid = id(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default();
        Some(GroupEntry { name, gid, members })
    })
}

/// One part of a USER value.
#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    Id(u32),
    Name(&'a str),
}

/// A number, with or without a sign, is an id even if a user or group has that number as its name;
/// `None` if it is out of range.
fn wanted(text: &str) -> Option<Wanted<'_>> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Wanted::Name(text));
    }
    let number: i64 = text.parse().ok()?;
    let id = u32::try_from(number).ok().filter(|id| *id <= MAX_WANTED_ID)?;
    Some(Wanted::Id(id))
}

/// Supplementary groups by number, with Kubernetes' `supplementalGroupsPolicy`.
#[derive(Debug, Clone, Copy)]
pub enum Groups<'g> {
    /// Groups in addition to those of the image.
    Merge(&'g [u32]),
    /// Groups instead of those of the image.
    Strict(&'g [u32]),
}

/// Resolves "", "name", "uid", "name:group" or "uid:gid" with the content of the image's passwd and group files.
///
/// An explicit group replaces only the primary group, not the groups that the image's files give the user. A uid
/// without an entry gets group 0. [`home`] finds the home directory.
pub fn resolve(spec: &str, groups: Groups<'_>, passwd: &[u8], group: &[u8]) -> Result<User, UserError> {
    let mut parts = spec.split(':');
    let user = parts.next().filter(|user| !user.is_empty()).unwrap_or("0");
    let wanted_group = parts.next().filter(|group| !group.is_empty());
    if parts.next().is_some() {
        return Err(UserError::TooManyParts(spec.to_owned()));
    }
    let user = wanted(user).ok_or_else(|| UserError::UidOutOfRange(spec.to_owned()))?;
    let entry = match user {
        Wanted::Id(uid) => passwd_entries(passwd).find(|entry| entry.uid == uid),
        Wanted::Name(name) => passwd_entries(passwd).find(|entry| entry.name == name.as_bytes()),
    };
    let uid = match (user, &entry) {
        (Wanted::Id(uid), _) => uid,
        (Wanted::Name(_), Some(entry)) => entry.uid,
        (Wanted::Name(name), None) => return Err(UserError::UnknownUser(name.to_owned())),
    };
    let gid = match wanted_group.map(wanted) {
        None => entry.as_ref().map_or(0, |entry| entry.gid),
        Some(None) => return Err(UserError::GidOutOfRange(spec.to_owned())),
        Some(Some(Wanted::Id(gid))) => gid,
        Some(Some(Wanted::Name(name))) => {
            let entry = group_entries(group).find(|entry| entry.name == name.as_bytes());
            entry.ok_or_else(|| UserError::UnknownGroup(name.to_owned()))?.gid
        }
    };

    let (Groups::Merge(wanted_groups) | Groups::Strict(wanted_groups)) = groups;
    let mut others: BTreeSet<u32> = wanted_groups.iter().copied().collect();
    if let (Groups::Merge(_), Some(entry)) = (groups, entry) {
        // As in containerd, a user's own group counts as primary even if passwd names another one.
        let member_of = group_entries(group).filter(|group| {
            group.name != entry.name && group.members.split(|byte| *byte == b',').any(|m| m == entry.name)
        });
        others.extend(member_of.map(|group| group.gid));
    }
    others.remove(&gid);
    others.remove(&u32::MAX);
    let groups: Vec<u32> = std::iter::once(gid).chain(others).collect();
    if groups.len() > MAX_GROUPS {
        return Err(UserError::TooManyGroups);
    }
    Ok(User {
        uid,
        gid,
        groups,
        home: DEFAULT_HOME.to_owned(),
    })
}

/// Home directory of a user, from the passwd file that the container sees; "/" without an entry (runc's `getUserHome`).
pub fn home(uid: u32, passwd: &[u8]) -> String {
    let entry = passwd_entries(passwd).find(|entry| entry.uid == uid && !entry.home.is_empty());
    entry.map_or_else(
        || DEFAULT_HOME.to_owned(),
        |entry| String::from_utf8_lossy(entry.home).into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::test_directory::TestDirectory;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        broken line\n\
        bad:x:abc:0::/:\n\
        web:x:101:102:nginx:/var/cache/nginx:/sbin/nologin\n\
        4000:x:7:8::/odd:\n";
    const GROUP: &[u8] = b"root:x:0:\nwheel:x:10:root,web\nweb:x:102:\nlogs:x:103:other,web\nnope:x::web\n";

    const NONE: Groups<'_> = Groups::Merge(&[]);

    fn user(spec: &str) -> Result<(u32, u32, Vec<u32>), UserError> {
        resolve(spec, NONE, PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups))
    }

    #[test]
    fn an_empty_user_is_root() {
        assert_eq!(user(""), Ok((0, 0, vec![0, 10])));
        assert_eq!(resolve("", NONE, b"", b"").unwrap().groups, [0]);
    }

    #[test]
    fn a_user_has_the_groups_of_the_image_by_name_and_by_uid() {
        assert_eq!(user("web"), Ok((101, 102, vec![102, 10, 103])));
        assert_eq!(user("101"), user("web"));
        assert_eq!(user("+101"), user("web"));
    }

    #[test]
    fn a_uid_without_an_entry_gets_group_zero_and_no_groups_of_the_image() {
        assert_eq!(user("5000"), Ok((5000, 0, vec![0])));
        assert_eq!(user("5000:6000"), Ok((5000, 6000, vec![6000])));
        assert_eq!(user("7"), Ok((7, 8, vec![8])));
    }

    #[test]
    fn a_numeric_user_is_a_uid_even_if_a_user_has_that_name() {
        assert_eq!(user("4000"), Ok((4000, 0, vec![0])));
        let group = b"103:x:9:\n";
        assert_eq!(resolve("0:103", NONE, PASSWD, group).unwrap().gid, 103);
    }

    #[test]
    fn an_explicit_group_replaces_the_primary_group_and_keeps_the_groups_of_the_image() {
        assert_eq!(user("web:logs"), Ok((101, 103, vec![103, 10])));
        assert_eq!(user("web:3000"), Ok((101, 3000, vec![3000, 10, 103])));
        assert_eq!(user("101:3000"), Ok((101, 3000, vec![3000, 10, 103])));
        assert_eq!(user("101:logs"), Ok((101, 103, vec![103, 10])));
        assert_eq!(user(":logs"), Ok((0, 103, vec![103, 10])));
        assert_eq!(user("web:"), user("web"));
    }

    #[test]
    fn the_groups_of_the_image_merge_with_run_as_group_and_supplemental_groups() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\napp:x:1234:4321:app:/home/app:/bin/sh\n";
        let group = b"root:x:0:\nappg:x:4321:\nextra:x:777:app\nmore:x:778:app,root\n";
        let groups = |spec, wanted: Groups<'_>| resolve(spec, wanted, passwd, group).unwrap().groups;
        assert_eq!(groups("1234:3000", Groups::Merge(&[4000])), [3000, 777, 778, 4000]);
        assert_eq!(groups("1234", NONE), [4321, 777, 778]);
        assert_eq!(
            groups("app", Groups::Merge(&[4000, 777, 4000, 4321])),
            [4321, 777, 778, 4000]
        );
    }

    #[test]
    fn the_strict_policy_leaves_the_groups_of_the_image_out() {
        let groups = |spec, wanted| resolve(spec, Groups::Strict(wanted), PASSWD, GROUP).unwrap().groups;
        assert_eq!(groups("web", &[]), [102]);
        assert_eq!(groups("web:3000", &[4000, 103]), [3000, 103, 4000]);
    }

    #[test]
    fn a_group_named_like_the_user_is_not_supplementary() {
        let group = b"web:x:55:web\nlogs:x:103:web\n";
        assert_eq!(resolve("web", NONE, PASSWD, group).unwrap().groups, [102, 103]);
    }

    #[test]
    fn an_entry_with_id_minus_one_is_skipped() {
        let passwd = b"evil:x:4294967295:4294967295::/:\n";
        assert_eq!(
            resolve("evil", NONE, passwd, b""),
            Err(UserError::UnknownUser("evil".into()))
        );
    }

    #[test]
    fn unknown_names_and_impossible_numbers_are_errors() {
        assert_eq!(user("nobody"), Err(UserError::UnknownUser("nobody".into())));
        assert_eq!(user("nobody:1"), Err(UserError::UnknownUser("nobody".into())));
        assert_eq!(user("web:staff"), Err(UserError::UnknownGroup("staff".into())));
        for spec in ["2147483648", "-1", "99999999999999999999"] {
            assert_eq!(user(spec), Err(UserError::UidOutOfRange(spec.into())));
        }
        assert_eq!(
            user("1:99999999999"),
            Err(UserError::GidOutOfRange("1:99999999999".into()))
        );
        assert_eq!(user("1:2:3"), Err(UserError::TooManyParts("1:2:3".into())));
    }

    #[test]
    fn more_groups_than_linux_allows_are_an_error() {
        let lines = |number: u32| {
            (1..=number)
                .map(|gid| format!("g{gid}:x:{gid}:web\n"))
                .collect::<String>()
        };
        let resolved = |number| resolve("web:0", NONE, PASSWD, lines(number).as_bytes());
        assert_eq!(resolved(65_535).unwrap().groups.len(), 65_536);
        assert_eq!(resolved(65_536), Err(UserError::TooManyGroups));
    }

    #[test]
    fn home_is_looked_up_by_uid() {
        assert_eq!(home(101, PASSWD), "/var/cache/nginx");
        assert_eq!(home(5000, PASSWD), "/");
        assert_eq!(home(1, b"x:x:1:1::"), "/");
    }

    #[test]
    fn databases_are_read_inside_the_root_and_only_from_regular_files() {
        let root = TestDirectory::new("databases");
        let read = |path: &str| {
            let fd = OwnedFd::from(File::open(root.path()).unwrap());
            read_database(fd.as_fd(), path.as_ref())
        };
        assert_eq!(read("/etc/passwd").unwrap(), b"");
        fs::create_dir_all(root.join("usr/etc")).unwrap();
        symlink("/usr/etc", root.join("etc")).unwrap();
        fs::write(root.join("usr/etc/real"), "root:x:0:0\n").unwrap();
        symlink("../../../../../etc/real", root.join("usr/etc/passwd")).unwrap();
        assert_eq!(read("/etc/passwd").unwrap(), b"root:x:0:0\n");
        symlink("/etc/nothing", root.join("usr/etc/dangling")).unwrap();
        assert_eq!(read("/etc/dangling").unwrap(), b"");
        symlink("loop", root.join("usr/etc/loop")).unwrap();
        assert!(read("/etc/loop").is_err());
        assert!(read("/etc").is_err());
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read("/fifo").is_err());
        File::create(root.join("huge"))
            .unwrap()
            .set_len(MAX_FILE_BYTES + 1)
            .unwrap();
        assert!(read("/huge").is_err());
    }

    proptest! {
        #[test]
        fn hostile_files_never_panic(
            spec in any::<String>(),
            passwd in any::<Vec<u8>>(),
            group in any::<Vec<u8>>(),
            uid in any::<u32>(),
        ) {
            let _ = resolve(&spec, Groups::Merge(&[1]), &passwd, &group);
            let _ = home(uid, &passwd);
        }

        #[test]
        fn hostile_lines_yield_only_valid_ids(
            spec in "(a|b|0|1|4294967295)?(:(a|1|-1|4294967295))?",
            passwd in "((root|a|1)?:?x?:[0-9]{0,12}:[0-9]{0,12}:?:?/?\n){0,3}",
            group in "((a|b):x:[0-9]{0,12}:(a|root|,){0,3}\n){0,3}",
            supplemental in any::<Vec<u32>>(),
        ) {
            if let Ok(user) = resolve(&spec, Groups::Merge(&supplemental), passwd.as_bytes(), group.as_bytes()) {
                prop_assert!(user.uid != u32::MAX && user.gid != u32::MAX);
                prop_assert!(!user.groups.contains(&u32::MAX));
                prop_assert_eq!(user.groups.first(), Some(&user.gid));
                let mut sorted = user.groups.clone();
                sorted.sort_unstable();
                sorted.dedup();
                prop_assert_eq!(sorted.len(), user.groups.len(), "duplicate group");
                prop_assert!(supplemental.iter().all(|gid| *gid == u32::MAX || user.groups.contains(gid)));
            }
        }

        #[test]
        fn a_member_gets_its_groups_despite_garbage_lines(
            before in "[ -~\n]{0,60}",
            after in "[ -~\n]{0,60}",
        ) {
            let passwd = format!("{before}\nunlikely:x:41:42::/:\n{after}");
            let group = format!("{before}\nclub:x:43:first,unlikely\n{after}");
            let user = resolve("unlikely", NONE, passwd.as_bytes(), group.as_bytes()).unwrap();
            prop_assert_eq!((user.uid, user.gid), (41, 42));
            prop_assert!(user.groups.contains(&43));
        }
    }
}
