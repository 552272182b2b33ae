//! Where webhooks may go. Addresses are checked when they are resolved, on the way to the connection: a name that led
//! elsewhere a moment ago is of no use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

/// What a webhook is told that may not go where it wants to. Says nothing of the address, which may be a secret.
pub const NOT_ALLOWED: &str = "its address is none that hooks may reach: see --hook-allow of the coordinator";

/// Networks that nobody means: clouds give away credentials there.
const NEVER: [Net; 3] = [
    Net { base: IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), bits: 16 },
    Net { base: IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), bits: 10 },
    Net { base: IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), bits: 128 },
];

/// The receivers that webhooks may reach. Without entries: every one whose address is not link-local. With entries: only
/// those, by name or by network; a link-local address only by network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookAllow {
    /// In lower case; one that begins with a dot stands for everything below it.
    names: Vec<String>,
    nets: Vec<Net>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Net {
    base: IpAddr,
    bits: u8,
}

impl Net {
    fn parse(text: &str) -> Option<Self> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let base: IpAddr = base.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { base, bits })
    }

    fn holds(&self, address: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => (base.to_bits() ^ address.to_bits()).leading_zeros() >= bits,
            (IpAddr::V6(base), IpAddr::V6(address)) => (base.to_bits() ^ address.to_bits()).leading_zeros() >= bits,
            _ => false,
        }
    }
}

impl HookAllow {
    /// Reads entries: a name such as `hooks.example.com`, `*.example.com` for what is below it, an address, or a network
    /// such as `10.0.0.0/8`.
    ///
    /// # Errors
    /// Says which entry is none of these.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut allow = Self::default();
        for entry in entries {
            let none = || format!("`{entry}` is neither the name of a host nor an address nor a network");
            if let Some(net) = Net::parse(entry) {
                allow.nets.push(net);
                continue;
            }
            let (dot, name) = entry.strip_prefix("*.").map_or(("", entry), |below| (".", below));
            match Host::parse(name) {
                // A port or a path would never be matched.
                Ok(Host::Domain(name)) if !name.is_empty() && !name.contains([':', '/', '*']) => {
                    allow.names.push(format!("{dot}{name}"));
                }
                _ => return Err(none()),
            }
        }
        Ok(allow)
    }

    /// Says whether a receiver of this name may be reached at this address.
    #[must_use]
    pub fn allows(&self, name: &str, address: IpAddr) -> bool {
        // ::ffff:169.254.169.254 is the same place.
        let address = address.to_canonical();
        if self.nets.iter().any(|net| net.holds(address)) {
            return true;
        }
        if NEVER.iter().any(|net| net.holds(address)) {
            return false;
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let named = |known: &String| if known.starts_with('.') { name.ends_with(known) } else { name == *known };
        (self.names.is_empty() && self.nets.is_empty()) || self.names.iter().any(named)
    }
}

/// Resolves names as the system does, and leaves out what may not be reached.
#[derive(Debug)]
pub struct Guarded(pub std::sync::Arc<HookAllow>);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let allow = std::sync::Arc::clone(&self.0);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let any = !found.is_empty();
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|found| allow.allows(name.as_str(), found.ip())).collect();
            if any && allowed.is_empty() {
                return Err(NOT_ALLOWED.into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn allows(entries: &[&str], name: &str, address: &str) -> bool {
        HookAllow::new(entries.iter().copied()).unwrap().allows(name, address.parse().unwrap())
    }

    #[test]
    fn everything_but_link_local_addresses_is_allowed_unless_somebody_says_more() {
        for address in ["127.0.0.1", "10.1.2.3", "93.184.216.34", "::1", "fd00::1", "169.253.255.255", "fec0::1"] {
            assert!(allows(&[], "x", address), "{address}");
        }
        for address in
            ["169.254.169.254", "169.254.0.0", "fe80::1", "febf::1", "::ffff:169.254.169.254", "fd00:ec2::254"]
        {
            assert!(!allows(&[], "x", address), "{address}");
            assert!(!allows(&["x"], "x", address), "a name alone does not lead to {address}");
        }
        assert!(allows(&["169.254.169.254"], "x", "169.254.169.254"), "who writes the address means it");
    }

    #[test]
    fn a_list_allows_its_names_and_networks_and_nothing_else() {
        let list = ["hooks.example.com", "*.corp.example", "10.0.0.0/8", "2001:db8::/32", "192.0.2.7"];
        let yes = [
            ("hooks.example.com", "93.184.216.34"),
            ("Hooks.Example.com.", "93.184.216.34"),
            ("a.corp.example", "1.2.3.4"),
            ("whatever", "10.255.0.1"),
            ("whatever", "2001:db8:1::1"),
            ("whatever", "::ffff:10.0.0.1"),
            ("192.0.2.7", "192.0.2.7"),
        ];
        for (name, address) in yes {
            assert!(allows(&list, name, address), "{name} at {address}");
        }
        let no = [
            ("example.com", "93.184.216.34"),
            ("evil-hooks.example.com", "93.184.216.34"),
            ("corp.example", "1.2.3.4"),
            ("evilcorp.example", "1.2.3.4"),
            ("whatever", "11.0.0.1"),
            ("whatever", "127.0.0.1"),
            ("192.0.2.8", "192.0.2.8"),
        ];
        for (name, address) in no {
            assert!(!allows(&list, name, address), "{name} at {address}");
        }
    }

    #[test]
    fn an_entry_that_would_never_match_is_refused() {
        for bad in ["", "*", "*.", "10.0.0.0/33", "10.0.0.0/x", "http://x", "x:80", "a b", "::/129", "1.2.3.4.5/8"] {
            assert!(HookAllow::new([bad]).is_err_and(|why| why.contains(bad)), "{bad}");
        }
    }
}
