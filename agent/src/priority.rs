//! The agent's scheduling priority. Containers that use all CPU time must not delay probes,
//! hooks and the end of the Pod.

use nix::errno::Errno;

/// Nine times the weight of a process with nice value 0 (sched_prio_to_weight in kernel/sched/core.c).
const AGENT_NICE: i32 = -10;

/// Raises the priority of the calling thread, and of processes and threads that it starts.
pub fn raise() -> Result<(), Errno> {
    set(AGENT_NICE)
}

/// Resets the calling thread to the priority that programs expect.
pub fn reset() -> Result<(), Errno> {
    set(0)
}

fn set(nice: i32) -> Result<(), Errno> {
    // SAFETY: setpriority(2) takes integers; 0 means the calling thread.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_priority_is_inherited_until_it_is_reset() {
        let nice = || {
            Errno::clear();
            // SAFETY: getpriority(2) takes integers; 0 means the calling thread.
            unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
        };
        std::thread::spawn(move || {
            // Only root may lower the nice value.
            if raise() == Err(Errno::EACCES) {
                set(5).unwrap();
            }
            let raised = nice();
            assert_ne!(raised, 0);
            std::thread::spawn(move || {
                assert_eq!(nice(), raised);
                if raised < 0 {
                    reset().unwrap();
                    assert_eq!(nice(), 0);
                }
            })
            .join()
            .unwrap();
        })
        .join()
        .unwrap();
    }
}
