//! Interrupts a guest that uses too much CPU time.
//!
//! It measures CPU time, not wall time, because on a busy host a usable KVM may have to wait for its turn.

use std::io;

use crate::cpu::vcpu::{install_kick_handler, kick_signal};

/// While this exists, its thread is interrupted each time it has used the limit.
#[derive(Debug)]
pub(super) struct Watchdog {
    timer: libc::timer_t,
    deadline_ns: u64,
}

/// CPU time of this thread in nanoseconds.
fn cpu_time_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

impl Watchdog {
    /// Starts counting for this thread.
    pub fn start(limit_ms: u32) -> io::Result<Self> {
        install_kick_handler()?;
        let limit_ns = u64::from(limit_ms) * 1_000_000;
        // SAFETY: zeros are a valid sigevent.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = kick_signal();
        // SAFETY: gettid has no preconditions.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: reads the event, writes the timer.
        if unsafe { libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut event, &raw mut timer) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let watchdog = Self {
            timer,
            deadline_ns: cpu_time_ns().saturating_add(limit_ns),
        };
        let every = libc::timespec {
            tv_sec: 0,
            tv_nsec: i64::from(limit_ms.min(999)) * 1_000_000,
        };
        // Periodic, because a signal that comes just before KVM_RUN interrupts nothing.
        let setting = libc::itimerspec {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: the timer exists, the setting is read.
        if unsafe { libc::timer_settime(timer, 0, &raw const setting, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(watchdog)
    }

    /// Whether the thread has used more than the limit.
    pub fn limit_reached(&self) -> bool {
        cpu_time_ns() >= self.deadline_ns
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // SAFETY: the timer exists until here.
        unsafe { libc::timer_delete(self.timer) };
    }
}
