//! What carries packets between hosts, and loses and delays them as it is told.
//!
//! `tc netem` would do the same in the kernel, but many kernels are built without it, and nobody could tell whether a
//! packet was really lost.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::draw::Draw;

/// No packet is larger.
const LARGEST: usize = 65_536;

/// How packets of one host fare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// All arrive.
    Whole,
    /// None arrives, in either direction, and nobody is told.
    Silent,
    /// The host hears nothing; what it says arrives.
    Deaf,
    /// Nobody hears the host; it hears everything.
    Mute,
    /// All arrive so much later, each way.
    Slow(Duration),
    /// Of 100 packets so many are lost, each way.
    Lossy(u8),
}

/// Packets of one host, since it is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub carried: u64,
    pub lost: u64,
    pub delayed: u64,
}

/// Carries packets between devices by their addresses.
#[derive(Debug)]
pub struct Switch {
    ports: RwLock<BTreeMap<Ipv4Addr, Arc<Port>>>,
    late: Late,
    draw: Mutex<Draw>,
}

#[derive(Debug)]
struct Port {
    device: File,
    /// The way until then; whole afterwards.
    way: Mutex<(Way, Option<Instant>)>,
    carried: AtomicU64,
    lost: AtomicU64,
    delayed: AtomicU64,
}

/// Packets whose time has not come.
#[derive(Debug, Default)]
struct Late {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

/// Packets and where they go, by their time and the order in which they came.
#[derive(Debug, Default)]
struct Waiting {
    came: u64,
    packets: BTreeMap<(Instant, u64), (Arc<Port>, Vec<u8>)>,
}

impl Switch {
    /// Starts without hosts. `seed` chooses the packets that lossy ways lose.
    #[must_use]
    pub fn start(seed: u64) -> Arc<Self> {
        let draw = Mutex::new(Draw::new(seed));
        let switch = Arc::new(Self { ports: RwLock::default(), late: Late::default(), draw });
        let late = Arc::clone(&switch);
        thread::spawn(move || late.late.deliver());
        switch
    }

    /// Carries what comes from `device`, and to it what is addressed to `address`, until the device is gone.
    pub fn plug(self: &Arc<Self>, address: Ipv4Addr, device: File) {
        let port = Arc::new(Port {
            device,
            way: Mutex::new((Way::Whole, None)),
            carried: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
        });
        self.ports.write().unwrap_or_else(PoisonError::into_inner).insert(address, Arc::clone(&port));
        let switch = Arc::clone(self);
        thread::spawn(move || {
            let mut packet = vec![0; LARGEST];
            while let Ok(length) = (&port.device).read(&mut packet) {
                switch.carry(&port, &packet[..length]);
            }
        });
    }

    /// Changes how packets of a host fare until `end`; for ever where there is none. A host that is not there is left alone.
    pub fn set(&self, address: Ipv4Addr, way: Way, end: Option<Instant>) {
        if let Some(port) = self.port(address) {
            *lock(&port.way) = (way, end);
        }
    }

    /// Says how packets of a host fare now.
    #[must_use]
    pub fn way(&self, address: Ipv4Addr) -> Way {
        self.port(address).map_or(Way::Whole, |port| port.way(Instant::now()))
    }

    /// Gives what became of the packets of a host.
    #[must_use]
    pub fn counts(&self, address: Ipv4Addr) -> Counts {
        self.port(address).map_or_else(Counts::default, |port| Counts {
            carried: port.carried.load(Ordering::Relaxed),
            lost: port.lost.load(Ordering::Relaxed),
            delayed: port.delayed.load(Ordering::Relaxed),
        })
    }

    fn port(&self, address: Ipv4Addr) -> Option<Arc<Port>> {
        self.ports.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    fn carry(&self, from: &Arc<Port>, packet: &[u8]) {
        // What is not for a host, such as the questions after routers of IPv6, has nowhere to go.
        let Some(to) = destination(packet).and_then(|address| self.port(address)) else { return };
        let now = Instant::now();
        let mut delay = Duration::ZERO;
        for (port, says) in [(from, true), (&to, false)] {
            match port.way(now) {
                Way::Whole => {}
                Way::Slow(by) => {
                    delay += by;
                    port.delayed.fetch_add(1, Ordering::Relaxed);
                }
                way => {
                    let lost = match way {
                        Way::Silent => true,
                        Way::Deaf => !says,
                        Way::Mute => says,
                        Way::Lossy(share) => lock(&self.draw).below(100) < u64::from(share),
                        Way::Whole | Way::Slow(_) => false,
                    };
                    if lost {
                        port.lost.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
            }
        }
        from.carried.fetch_add(1, Ordering::Relaxed);
        if delay.is_zero() {
            to.take(packet);
        } else {
            self.late.put(now + delay, to, packet.to_vec());
        }
    }
}

impl Port {
    fn way(&self, now: Instant) -> Way {
        let (way, end) = *lock(&self.way);
        if end.is_some_and(|end| end <= now) { Way::Whole } else { way }
    }

    fn take(&self, packet: &[u8]) {
        // A link that is down takes nothing: as on a real wire, nobody is told.
        if (&self.device).write(packet).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Late {
    fn put(&self, at: Instant, to: Arc<Port>, packet: Vec<u8>) {
        let mut waiting = lock(&self.waiting);
        waiting.came += 1;
        let number = waiting.came;
        waiting.packets.insert((at, number), (to, packet));
        self.more.notify_one();
    }

    fn deliver(&self) {
        let mut waiting = lock(&self.waiting);
        loop {
            let now = Instant::now();
            let next = waiting.packets.first_key_value().map(|(&(at, _), _)| at);
            waiting = match next {
                Some(at) if at <= now => {
                    if let Some((_, (to, packet))) = waiting.packets.pop_first() {
                        to.take(&packet);
                    }
                    waiting
                }
                Some(at) => match self.more.wait_timeout(waiting, at - now) {
                    Ok((guard, _)) => guard,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// Reads where a packet of IPv4 wants to go.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let version = packet.first()? >> 4;
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (version == 4).then(|| Ipv4Addr::from(address))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::{fd::OwnedFd, unix::net::UnixDatagram};

    use super::*;
    use crate::until;

    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    /// Plugs in two sockets that keep packets apart as devices do, and gives their other ends.
    fn pair(switch: &Arc<Switch>) -> [UnixDatagram; 2] {
        [HERE, THERE].map(|address| {
            let (near, far) = UnixDatagram::pair().expect("a pair of sockets");
            switch.plug(address, File::from(OwnedFd::from(near)));
            far.set_nonblocking(true).expect("a socket");
            far
        })
    }

    fn packet(to: Ipv4Addr) -> [u8; 20] {
        let mut packet = [0; 20];
        packet[0] = 0x45;
        packet[16..].copy_from_slice(&to.octets());
        packet
    }

    /// Sends a packet each way and says whether it arrived, from here and from there.
    fn arrive(switch: &Switch, [here, there]: &[UnixDatagram; 2]) -> [bool; 2] {
        let seen = |address| {
            let counts = switch.counts(address);
            counts.carried + counts.lost
        };
        let ways = [(here, there, HERE, THERE), (there, here, THERE, HERE)];
        ways.map(|(from, to, source, target)| {
            let before = seen(source) + seen(target);
            from.send(&packet(target)).expect("a packet is sent");
            until("the packet was carried or lost", || (seen(source) + seen(target) > before).then_some(()));
            // What was carried is written a moment after it is counted.
            crate::wait::within(Duration::from_millis(50), || to.recv(&mut [0; 64]).ok()).is_some()
        })
    }

    #[test]
    fn each_way_loses_what_it_says_and_is_whole_again_after_its_end() {
        let switch = Switch::start(1);
        let ends = pair(&switch);
        assert_eq!(arrive(&switch, &ends), [true, true]);
        for (way, arrived) in [(Way::Silent, [false, false]), (Way::Deaf, [true, false]), (Way::Mute, [false, true])] {
            switch.set(HERE, way, None);
            assert_eq!(arrive(&switch, &ends), arrived, "{way:?}");
        }
        assert_eq!(switch.counts(HERE).lost, 4);
        switch.set(HERE, Way::Silent, Some(Instant::now()));
        assert_eq!(arrive(&switch, &ends), [true, true]);
        assert_eq!(switch.way(HERE), Way::Whole);
    }

    #[test]
    fn a_slow_way_keeps_packets_for_its_time_and_in_their_order() {
        let switch = Switch::start(1);
        let [here, there] = pair(&switch);
        switch.set(THERE, Way::Slow(Duration::from_millis(80)), None);
        let begun = Instant::now();
        for number in 0..5 {
            let mut numbered = packet(THERE);
            numbered[1] = number;
            here.send(&numbered).expect("a packet is sent");
        }
        let came: Vec<u8> = (0..5)
            .map(|_| {
                until("a packet comes", || {
                    let mut packet = [0; 64];
                    there.recv(&mut packet).ok().map(|_| packet[1])
                })
            })
            .collect();
        assert!(begun.elapsed() >= Duration::from_millis(80));
        assert_eq!(came, [0, 1, 2, 3, 4]);
        assert_eq!(switch.counts(THERE).delayed, 5);
    }

    #[test]
    fn a_lossy_way_loses_about_its_share() {
        let switch = Switch::start(7);
        let [here, there] = pair(&switch);
        switch.set(HERE, Way::Lossy(20), None);
        let mut sent = 0;
        while sent < 1_000 {
            // A full socket says so; the packet is sent again.
            sent += u64::from(here.send(&packet(THERE)).is_ok());
            let _ = there.recv(&mut [0; 64]);
        }
        let lost = until("every packet was looked at", || {
            while there.recv(&mut [0; 64]).is_ok() {}
            let Counts { carried, lost, .. } = switch.counts(HERE);
            (carried + lost == 1_000).then_some(lost)
        });
        assert!((120..280).contains(&lost), "{lost} of 1000");
    }

    #[test]
    fn what_is_no_packet_goes_nowhere() {
        assert_eq!(destination(&[]), None);
        assert_eq!(destination(&[0x45; 19]), None);
        assert_eq!(destination(&[0x60; 40]), None);
        assert_eq!(destination(&packet(THERE)), Some(THERE));
    }
}
