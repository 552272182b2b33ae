//! How many processes this machine starts in a second by itself: what no executor of commands can exceed.

use std::{
    io,
    num::NonZero,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long processes are started.
const FOR: Duration = Duration::from_secs(2);

/// Starts and awaits processes that do nothing, as the runners do, on every core at a time. Gives processes per second.
///
/// # Errors
/// If one cannot be started.
pub fn starts_per_second(program: &str) -> Result<f64, String> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let begun = Instant::now();
    let until = begun + FOR;
    let counts: io::Result<Vec<u32>> = thread::scope(|scope| {
        let starters: Vec<_> = (0..cores).map(|_| scope.spawn(|| start_until(program, until))).collect();
        starters
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| Err(io::Error::other("a thread broke off"))))
            .collect()
    });
    let counts = counts.map_err(|e| format!("`{program}` cannot be started: {e}"))?;
    Ok(f64::from(counts.iter().sum::<u32>()) / begun.elapsed().as_secs_f64())
}

fn start_until(program: &str, until: Instant) -> io::Result<u32> {
    let mut count = 0;
    while Instant::now() < until {
        // Nothing that needs code between fork and exec: the cheapest start that there is.
        let mut command = Command::new(program);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn()?.wait()?;
        count += 1;
    }
    Ok(count)
}
