//! The one thing that std cannot ask for: a network device whose packets this process carries.
#![allow(unsafe_code)] // One call of the kernel that no safe interface has; it is confined to this file.

use std::{ffi::c_short, fs::File, io, mem, os::fd::AsRawFd as _};

use nix::libc;

/// Where such devices come from. It may be opened by everybody; attaching needs rights over the network namespace.
pub const SOURCE: &str = "/dev/net/tun";

/// TUNSETIFF of linux/if_tun.h, as most architectures count it: write, four bytes, `T`, 202.
const ATTACH: u32 = 0x4004_54ca;

/// Whole IP packets, one for each read and write, with nothing before them: IFF_TUN | IFF_NO_PI.
const PACKETS: c_short = 0x1001;

/// `struct ifreq`: a name, and room for the largest member of its union.
#[repr(C)]
#[allow(dead_code)] // The kernel reads them.
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: c_short,
    rest: [u8; 22],
}

const _: () = assert!(mem::size_of::<Request>() >= mem::size_of::<libc::ifreq>(), "the kernel reads all of it");

/// Makes a device in this thread's network namespace. It is gone when the file is closed.
///
/// # Errors
/// Missing rights, a name that is taken or too long, or a kernel without such devices.
pub fn open(name: &str) -> io::Result<File> {
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags: PACKETS, rest: [0; 22] };
    if name.len() >= request.name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is too long for a device")));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let file = File::options().read(true).write(true).open(SOURCE)?;
    // SAFETY: the descriptor is open, and the kernel reads and writes no more than one whole `struct ifreq`, which lives
    // longer than the call.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), ATTACH as _, &raw mut request) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}
