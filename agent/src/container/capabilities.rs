//! Linux capabilities of a container's processes, capabilities(7).

use std::io;

use microkube_protocol::CAPABILITIES;
use nix::errno::Errno;

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Parses names such as "CAP_CHOWN". The error is the first unknown name.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        names.into_iter().try_fold(Self::default(), |set, name| {
            let number = CAPABILITIES.iter().position(|known| *known == name).ok_or(name)?;
            Ok(Self(set.0 | (1 << number)))
        })
    }

    /// Whether the set has this capability.
    pub fn has(self, name: &str) -> bool {
        CAPABILITIES
            .iter()
            .position(|known| *known == name)
            .is_some_and(|number| self.0 & (1 << number) != 0)
    }

    /// Permanently removes everything outside the set from the calling thread's bounding set.
    pub fn limit_bounding_set(self) -> io::Result<()> {
        for number in 0..64_u64 {
            // SAFETY: no pointers.
            match unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) } {
                0 => {}
                1 if self.0 & (1 << number) != 0 => {}
                // SAFETY: no pointers.
                1 => Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }).map(drop)?,
                // The first number without a capability in this kernel.
                _ => break,
            }
        }
        Ok(())
    }

    /// Makes the set the calling thread's permitted and effective set, and empties its inheritable and ambient sets.
    pub fn apply(self) -> io::Result<()> {
        /// `_LINUX_CAPABILITY_VERSION_3`, linux/capability.h.
        const VERSION_3: u32 = 0x2008_0522;
        #[repr(C)]
        struct Header {
            version: u32,
            pid: i32,
        }
        #[repr(C)]
        struct Data {
            effective: u32,
            permitted: u32,
            inheritable: u32,
        }
        // SAFETY: no pointers.
        Errno::result(unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
                0,
                0,
                0,
            )
        })?;
        let header = Header {
            version: VERSION_3,
            pid: 0,
        };
        let half = |bits: u64| Data {
            effective: bits as u32,
            permitted: bits as u32,
            inheritable: 0,
        };
        let data = [half(self.0 & 0xffff_ffff), half(self.0 >> 32)];
        // SAFETY: version 3 takes one header and two data elements, which these are.
        Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_map_to_the_kernels_numbers() {
        assert_eq!(Capabilities::parse(["CAP_CHOWN"]), Ok(Capabilities(1)));
        assert_eq!(Capabilities::parse(["CAP_SYS_ADMIN"]), Ok(Capabilities(1 << 21)));
        assert_eq!(
            Capabilities::parse(["CAP_CHECKPOINT_RESTORE"]),
            Ok(Capabilities(1 << 40))
        );
    }

    #[test]
    fn an_unknown_name_is_reported() {
        assert_eq!(Capabilities::parse(["CAP_KILL", "CAP_FLY"]), Err("CAP_FLY"));
        assert_eq!(Capabilities::parse(["ALL"]), Err("ALL"));
    }

    proptest! {
        #[test]
        fn a_set_contains_exactly_the_parsed_capabilities(chosen in proptest::collection::hash_set(0..CAPABILITIES.len(), 0..CAPABILITIES.len())) {
            let set = Capabilities::parse(chosen.iter().map(|&number| CAPABILITIES[number])).unwrap();
            for (number, name) in CAPABILITIES.iter().enumerate() {
                prop_assert_eq!(set.has(name), chosen.contains(&number));
            }
        }
    }
}
