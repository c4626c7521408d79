//! Which brokers the operator may connect to: the administrator's list of host names and networks.

use std::{fmt, net::IpAddr, str::FromStr};

/// Host names and networks, separated by commas. An empty list allows every broker.
///
/// `example.com` allows that name and all names below it, `.example.com` only those below. `10.0.0.0/8` and `10.1.2.3`
/// allow addresses. A broker is allowed when its name *or* its address is: a name that is allowed may resolve to any
/// address, so names under which tenants can create records belong to no list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedBrokers {
    names: Vec<String>,
    networks: Vec<Network>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u8,
}

/// An entry of the list that is neither a host name nor a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a host name (example.com, .example.com) nor a network (10.0.0.0/8)")]
pub struct NotAllowable(String);

impl FromStr for AllowedBrokers {
    type Err = NotAllowable;

    fn from_str(list: &str) -> Result<Self, NotAllowable> {
        let mut allowed = Self::default();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let wrong = || NotAllowable(entry.to_owned());
            if let Some(network) = Network::parse(entry) {
                allowed.networks.push(network);
            } else if entry.trim_matches('.').is_empty()
                || !entry.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            {
                return Err(wrong());
            } else {
                allowed.names.push(entry.trim_end_matches('.').to_ascii_lowercase());
            }
        }
        Ok(allowed)
    }
}

impl fmt::Display for AllowedBrokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks = self.networks.iter().map(|n| format!("{}/{}", n.address, n.prefix));
        let all: Vec<String> = self.names.iter().cloned().chain(networks).collect();
        f.write_str(&all.join(","))
    }
}

impl AllowedBrokers {
    /// Whether every broker is allowed.
    pub fn is_everything(&self) -> bool {
        self.names.is_empty() && self.networks.is_empty()
    }

    /// Whether this name is allowed, whatever it resolves to.
    pub fn allows_name(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.is_everything()
            || self.names.iter().any(|allowed| match allowed.strip_prefix('.') {
                Some(_) => name.len() > allowed.len() && name.ends_with(allowed.as_str()),
                None => {
                    name == *allowed
                        || name.strip_suffix(allowed.as_str()).is_some_and(|n| n.ends_with('.'))
                }
            })
    }

    /// Whether this address is allowed, whatever its name.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.is_everything() || self.networks.iter().any(|network| network.contains(address))
    }

    /// Whether a host can be allowed at all: by its name, or by what it may resolve to.
    pub fn may_allow(&self, host: &str) -> bool {
        self.allows_name(host)
            || host.parse().map_or(!self.networks.is_empty(), |ip| self.allows_address(ip))
    }
}

impl Network {
    fn parse(entry: &str) -> Option<Self> {
        let (address, prefix) = entry.split_once('/').map_or((entry, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(most), |text| text.parse().ok())?;
        (prefix <= most).then_some(Self { address, prefix })
    }

    fn contains(self, address: IpAddr) -> bool {
        let same = |own: u128, other: u128, bits: u32| {
            let ignored = bits - u32::from(self.prefix);
            own.checked_shr(ignored).unwrap_or(0) == other.checked_shr(ignored).unwrap_or(0)
        };
        // An IPv4 address that is written as IPv6 (::ffff:10.0.0.1) is the same host.
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same(u32::from(own).into(), u32::from(other).into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.into(), other.into(), 128),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(list: &str) -> AllowedBrokers {
        list.parse().unwrap()
    }

    #[test]
    fn an_empty_list_allows_everything() {
        for list in ["", " ", ","] {
            assert!(allowed(list).allows_name("a") && allowed(list).may_allow("10.0.0.1"));
            assert!(allowed(list).allows_address("::1".parse().unwrap()));
        }
    }

    #[test]
    fn a_name_allows_itself_and_what_is_below_it_at_a_dot() {
        let list = allowed("kafka.example.com,.Internal");
        for (name, is_allowed) in [
            ("kafka.example.com", true),
            ("B1.KAFKA.example.com.", true),
            ("evilkafka.example.com", false),
            ("kafka.example.com.evil.org", false),
            ("example.com", false),
            ("a.internal", true),
            ("internal", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(list.allows_name(name), is_allowed, "{name}");
            assert_eq!(list.may_allow(name), is_allowed, "{name}");
        }
    }

    #[test]
    fn a_network_allows_its_addresses_in_both_spellings() {
        let list = allowed("10.1.0.0/16, fd00::/8,192.168.1.1");
        for (address, is_allowed) in [
            ("10.1.255.1", true),
            ("10.2.0.1", false),
            ("::ffff:10.1.2.3", true),
            ("fd12::1", true),
            ("fe80::1", false),
            ("192.168.1.1", true),
            ("192.168.1.2", false),
        ] {
            assert_eq!(list.allows_address(address.parse().unwrap()), is_allowed, "{address}");
        }
        assert!(list.may_allow("any.name"), "it may resolve to an allowed address");
        assert!(allowed("0.0.0.0/0").allows_address("8.8.8.8".parse().unwrap()));
        assert!(allowed("::/0").allows_address("::8".parse().unwrap()));
    }

    #[test]
    fn what_is_neither_a_name_nor_a_network_is_refused() {
        for list in ["10.0.0.0/33", "a b", "http://a", "*", "a/8", "."] {
            assert!(list.parse::<AllowedBrokers>().is_err(), "{list}");
        }
    }
}
