//! Time and entropy of the simulation, at the one door through which every library asks the system for them.
//!
//! The functions of the C library that read clocks, draw random bytes and wait for events are defined here once more, and
//! the linker gives this program ours. While the simulation is on, time stands still until the runtime has nothing to do,
//! and then jumps to its next timer. So nothing leaks: not through a library that reads `Instant::now` by itself, not
//! through the keys of a `HashMap`, not through the order in which `select!` looks at its branches. And nothing of it is
//! in the product, whose code runs unchanged.
#![allow(unsafe_code)] // To stand in for the C library is the whole point; it is confined to this file.

use std::{
    ffi::{c_int, c_long, c_uint, c_void},
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
};

use crate::chance::mix;

static ON: AtomicBool = AtomicBool::new(false);
/// Nanoseconds since the start of the simulation.
static NOW: AtomicU64 = AtomicU64::new(0);
/// What the wall clock shows beyond [`EPOCH_S`] and the time that has passed.
static WALL_SHIFT_MS: AtomicI64 = AtomicI64::new(0);
static ENTROPY: AtomicU64 = AtomicU64::new(0);

/// Where the wall clock of a simulation starts: 2026-01-01T00:00:00Z.
const EPOCH_S: u64 = 1_767_225_600;
/// The monotonic clock does not start at zero: `Instant`s before the start can be computed.
const UPTIME_S: u64 = 1_000_000;

/// Turns simulated time on, for good.
pub fn start(seed: u64) {
    ENTROPY.store(mix(seed ^ 0x656e_7472_6f70_7921), Relaxed);
    NOW.store(0, Relaxed);
    ON.store(true, Relaxed);
}

/// Turns it off, for what comes after the simulation.
pub fn stop() {
    ON.store(false, Relaxed);
}

/// Gives the time since the start in microseconds.
pub fn now_us() -> u64 {
    NOW.load(Relaxed) / 1_000
}

/// Gives the time since the start in milliseconds.
pub fn now_ms() -> u64 {
    NOW.load(Relaxed) / 1_000_000
}

/// Sets the wall clock forward or back.
pub fn shift_wall(by_ms: i64) {
    WALL_SHIFT_MS.fetch_add(by_ms, Relaxed);
}

/// Gives the wall clock in milliseconds since 1970.
pub fn wall_ms() -> u64 {
    (EPOCH_S * 1_000 + now_ms()).saturating_add_signed(WALL_SHIFT_MS.load(Relaxed))
}

#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

#[cfg(target_arch = "x86_64")]
mod number {
    pub const CLOCK_GETTIME: i64 = 228;
    pub const GETRANDOM: i64 = 318;
    pub const EPOLL_PWAIT: i64 = 281;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const CLOCK_GETTIME: i64 = 113;
    pub const GETRANDOM: i64 = 278;
    pub const EPOLL_PWAIT: i64 = 22;
}

/// Reads a clock, as `clock_gettime(2)`.
///
/// # Safety
/// `out` points to room for a time, as the C library asks of its callers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, out: *mut Timespec) -> c_int {
    const REALTIME: c_int = 0;
    const REALTIME_COARSE: c_int = 5;
    if !ON.load(Relaxed) {
        // SAFETY: the arguments are passed on as they came.
        return unsafe { syscall(number::CLOCK_GETTIME, c_long::from(clock), out) } as c_int;
    }
    let time = match clock {
        REALTIME | REALTIME_COARSE => {
            let ms = wall_ms();
            Timespec { seconds: (ms / 1_000) as i64, nanoseconds: (ms % 1_000 * 1_000_000) as c_long }
        }
        _ => {
            let now = NOW.load(Relaxed);
            let seconds = UPTIME_S + now / 1_000_000_000;
            Timespec { seconds: seconds as i64, nanoseconds: (now % 1_000_000_000) as c_long }
        }
    };
    // SAFETY: the caller promises that there is room.
    unsafe { out.write(time) };
    0
}

/// Draws random bytes, as `getrandom(2)`.
///
/// # Safety
/// `buffer` points to room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    if !ON.load(Relaxed) {
        // SAFETY: the arguments are passed on as they came.
        return unsafe { syscall(number::GETRANDOM, buffer, length, c_long::from(flags)) } as isize;
    }
    // SAFETY: the caller promises that there is room.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let word = mix(ENTROPY.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed)).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    length as isize
}

/// Waits for events, as `epoll_wait(2)`. Nothing outside the simulation ever happens, so that time passes at once.
///
/// # Safety
/// `events` points to room for `most` events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(queue: c_int, events: *mut c_void, most: c_int, timeout_ms: c_int) -> c_int {
    if !ON.load(Relaxed) {
        let none: *const c_void = std::ptr::null();
        let arguments = (c_long::from(queue), c_long::from(most), c_long::from(timeout_ms));
        // SAFETY: the arguments are passed on as they came; without a mask of signals it is the same call.
        let done =
            unsafe { syscall(number::EPOLL_PWAIT, arguments.0, events, arguments.1, arguments.2, none, 8_usize) };
        return done as c_int;
    }
    match u64::try_from(timeout_ms) {
        Ok(ms) => drop(NOW.fetch_add(ms * 1_000_000, Relaxed)),
        Err(_) => {
            // No timer and nothing to do: waiting would be for ever.
            eprintln!("deadlock at {} ms: every task waits, and for nothing that will come", now_ms());
            std::process::exit(3);
        }
    }
    0
}
