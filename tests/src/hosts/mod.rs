//! Hosts with an address and a link of their own: a network namespace for each, and a switch between them that loses and
//! delays packets as it is told.
//!
//! Nothing of it has a name in the system. The program itself moves to a namespace of its own first ([`enter`]), hosts are
//! kept by a process that ends with this one, and devices by open files: the kernel takes each away with the last process
//! that has it, also after a panic.

mod switch;
mod tun;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    env,
    fs::File,
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

pub use switch::{Counts, Switch, Way};

use crate::until;

/// Variable that says that this program is in a namespace of its own already.
const INSIDE: &str = "SEGUE_TESTS_INSIDE";

/// The hosts' network: nobody else is in it.
const NETWORK: [u8; 3] = [10, 77, 0];

/// Last byte of this program's own address, and its device. Hosts count from 1.
const OWN: u8 = 254;
const OWN_DEVICE: &str = "own";

/// Moves this program to a network namespace of its own, by executing it again there. Returns when that was done.
///
/// # Errors
/// What this machine does not offer or allow.
pub fn enter() -> Result<(), String> {
    if env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    Err(match again() {
        Ok(never) => match never {},
        Err(reason) => format!("no network namespaces here: {reason}"),
    })
}

fn again() -> Result<Infallible, String> {
    for program in ["ip", "nsenter"] {
        let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found
            .map_err(|e| format!("`{program}` cannot be started ({e}); iproute2 and util-linux have what is needed"))?;
    }
    File::open(tun::SOURCE).map_err(|e| format!("{}: {e}", tun::SOURCE))?;
    // Without root a user namespace gives the rights, where the system lets users make one.
    let ways: [&[&str]; 2] = [&["--net"], &["--net", "--map-root-user"]];
    let mut refused = String::new();
    for way in ways {
        let tried =
            Command::new("unshare").args(way).args(["ip", "tuntap", "add", "dev", "probe", "mode", "tun"]).output();
        let tried = tried.map_err(|e| format!("`unshare` cannot be started: {e}"))?;
        if tried.status.success() {
            let this = env::current_exe().map_err(|e| format!("this program cannot be found: {e}"))?;
            let failed =
                Command::new("unshare").args(way).arg(this).args(env::args_os().skip(1)).env(INSIDE, "1").exec();
            return Err(format!("`unshare` cannot be started: {failed}"));
        }
        refused = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
    }
    Err(refused)
}

/// A network of hosts.
#[derive(Debug)]
pub struct Network {
    switch: Arc<Switch>,
    hosts: BTreeMap<String, Host>,
}

#[derive(Debug)]
struct Host {
    address: Ipv4Addr,
    /// Keeps the namespace. It ends when its standard input does, and so with this program, however that ends.
    keeper: Child,
}

impl Network {
    /// Starts a network in which this program is a host as well. [`enter`] comes first.
    ///
    /// # Panics
    /// If a step fails although [`enter`] found that it can be done.
    #[must_use]
    pub fn start(seed: u64) -> Self {
        assert!(env::var_os(INSIDE).is_some(), "only in a namespace of its own");
        let switch = Switch::start(seed);
        let device = tun::open(OWN_DEVICE).unwrap_or_else(|e| panic!("cannot make a network device: {e}"));
        let address = address(OWN);
        execute(Command::new("ip").args(["address", "add", &format!("{address}/24"), "dev", OWN_DEVICE]));
        for name in ["lo", OWN_DEVICE] {
            execute(Command::new("ip").args(["link", "set", name, "up"]));
        }
        switch.plug(address, device);
        Self { switch, hosts: BTreeMap::new() }
    }

    /// Adds a host, if there is none of that name, and gives its address.
    ///
    /// # Panics
    /// As [`Network::start`].
    pub fn add(&mut self, name: &str) -> Ipv4Addr {
        if let Some(host) = self.hosts.get(name) {
            return host.address;
        }
        let number = u8::try_from(self.hosts.len() + 1).ok().filter(|number| *number < OWN).expect("few hosts");
        let (address, device) = (address(number), format!("host{number}"));
        let file = tun::open(&device).unwrap_or_else(|e| panic!("cannot make a network device: {e}"));
        let keeper = Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let keeper = keeper.unwrap_or_else(|e| panic!("cannot start `unshare`: {e}"));
        let own = std::fs::read_link("/proc/self/ns/net").expect("the system shows namespaces");
        until("the namespace of the host is there", || {
            let its = std::fs::read_link(format!("/proc/{}/ns/net", keeper.id())).ok()?;
            (its != own).then_some(())
        });
        execute(Command::new("ip").args(["link", "set", &device, "netns", &keeper.id().to_string()]));
        self.hosts.insert(name.to_owned(), Host { address, keeper });
        self.ip(name, &["address", "add", &format!("{address}/24"), "dev", &device]);
        self.ip(name, &["link", "set", "lo", "up"]);
        self.ip(name, &["link", "set", &device, "up"]);
        self.switch.plug(address, file);
        address
    }

    /// Gives the names of the hosts.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        self.hosts.keys().cloned().collect()
    }

    /// Gives a command that does the same on a host. The process is the same as without: nothing is in between.
    ///
    /// # Panics
    /// If there is no such host.
    #[must_use]
    pub fn on(&self, host: &str, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/proc/{}/ns/net", self.host(host).keeper.id())).arg("--");
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            inside.current_dir(dir);
        }
        inside
    }

    /// Changes how packets of a host fare, until `end`; for ever where there is none.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn set(&self, host: &str, way: Way, end: Option<Instant>) {
        self.switch.set(self.host(host).address, way, end);
    }

    /// Says how packets of a host fare now.
    ///
    /// # Panics
    /// If there is no such host.
    #[must_use]
    pub fn way(&self, host: &str) -> Way {
        self.switch.way(self.host(host).address)
    }

    /// Gives what became of the packets of a host.
    ///
    /// # Panics
    /// If there is no such host.
    #[must_use]
    pub fn counts(&self, host: &str) -> Counts {
        self.switch.counts(self.host(host).address)
    }

    /// Takes the link of a host down, as if its cable were out, or up again. Connections stay.
    ///
    /// # Panics
    /// If there is no such host, or the link is not so afterwards.
    pub fn link(&self, host: &str, up: bool) {
        let device = self.device(host);
        self.ip(host, &["link", "set", &device, if up { "up" } else { "down" }]);
        assert_eq!(self.is_up(host), up, "the link of {host} does as it is told");
    }

    /// Takes the link of a host down for a time.
    ///
    /// # Panics
    /// As [`Network::link`].
    pub fn unplug(&self, host: &str, time: Duration) {
        self.link(host, false);
        let mut up = self.on(host, Command::new("ip").args(["link", "set", &self.device(host), "up"]));
        // The host may be gone by then.
        thread::spawn(move || {
            thread::sleep(time);
            let _ = up.status();
        });
    }

    /// Says whether the link of a host is up.
    ///
    /// # Panics
    /// If there is no such host.
    #[must_use]
    pub fn is_up(&self, host: &str) -> bool {
        let shown = self.ip(host, &["-oneline", "link", "show", "dev", &self.device(host)]);
        let flags = shown.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(flags, _)| flags);
        flags.is_some_and(|flags| flags.split(',').any(|flag| flag == "UP"))
    }

    fn device(&self, host: &str) -> String {
        format!("host{}", self.host(host).address.octets()[3])
    }

    fn ip(&self, host: &str, args: &[&str]) -> String {
        execute(&mut self.on(host, Command::new("ip").args(args)))
    }

    #[track_caller]
    fn host(&self, name: &str) -> &Host {
        self.hosts.get(name).unwrap_or_else(|| panic!("no host `{name}`"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Another network of this program may want the name. The devices of hosts go with their namespaces.
        let _ = Command::new("ip").args(["link", "delete", OWN_DEVICE]).stderr(Stdio::null()).status();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

const fn address(last: u8) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    Ipv4Addr::new(a, b, c, last)
}

#[track_caller]
fn execute(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    String::from_utf8_lossy(&done.stdout).into_owned()
}
