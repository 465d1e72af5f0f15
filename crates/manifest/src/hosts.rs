//! `allowed_outbound_hosts`: what a component may reach. Spin's grammar is
//! `scheme://host[:port]`, without a path:
//!
//! | part | forms |
//! |---|---|
//! | scheme | letters, or `*` |
//! | host | a name, `*`, `*.suffix`, an IP address, a CIDR block, `self` (relative requests) |
//! | port | a number, `*`, a half-open range `8000..9000`; the scheme's own when it is left out |
//!
//! `<component>.spin.internal` names a component of the same application.

use std::ops::Range;

use ipnet::IpNet;
use url::Host;

/// The domain below which each component has its own name.
pub const SERVICE_CHAINING_SUFFIX: &str = ".spin.internal";

/// The allowed hosts of one component, their templates resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts {
    hosts: Vec<AllowedHost>,
}

/// One entry of `allowed_outbound_hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    /// `None` is `*`.
    scheme: Option<String>,
    host: HostRule,
    port: PortRule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostRule {
    Any,
    /// With its leading dot.
    Suffix(String),
    SelfRelative,
    Literal(Host),
    Block(IpNet),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PortRule {
    Any,
    Range(Range<u16>),
    One(u16),
}

/// An entry that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed host `{entry}`: {reason}")]
pub struct AllowedHostError {
    /// The entry as written.
    pub entry: String,
    /// What is wrong with it and what to do.
    pub reason: String,
}

impl AllowedHosts {
    /// Parses entries whose templates are resolved. An entry that came out empty (also `http://`
    /// and `https://`) is left out: that is how Spin lets an optional host be an empty variable.
    pub fn parse(entries: &[String]) -> Result<Self, AllowedHostError> {
        let hosts = entries
            .iter()
            .filter(|entry| !is_empty(entry))
            .map(|entry| AllowedHost::parse(entry))
            .collect::<Result<_, _>>()?;
        Ok(Self { hosts })
    }

    /// Whether a connection may be made. `host` is a name or an address (IPv6 with or without
    /// brackets); without a `port` the scheme's own is meant.
    pub fn allows(&self, scheme: &str, host: &str, port: Option<u16>) -> bool {
        let Some(host) = parse_host(host) else {
            return false;
        };
        let port = port.or_else(|| default_port(scheme));
        self.hosts
            .iter()
            .any(|entry| entry.allows(scheme, &host, port))
    }

    /// Whether a request to a relative URL (the application itself) may be made.
    pub fn allows_self(&self, scheme: &str) -> bool {
        self.hosts.iter().any(|entry| {
            entry.allows_scheme(scheme)
                && matches!(entry.host, HostRule::Any | HostRule::SelfRelative)
        })
    }

    /// Those of `components` it may call as `http://<component>.spin.internal`.
    pub fn chaining_targets(&self, components: &[String]) -> Vec<String> {
        components
            .iter()
            .filter(|id| {
                let host = format!("{id}{SERVICE_CHAINING_SUFFIX}");
                self.allows("http", &host, None) || self.allows("https", &host, None)
            })
            .cloned()
            .collect()
    }

    /// Whether an entry names components of this application, as opposed to `*` that happens to
    /// include them. Spin refuses this for components with a Redis trigger.
    pub fn names_components(&self) -> bool {
        self.hosts.iter().any(AllowedHost::names_components)
    }
}

impl AllowedHost {
    /// Parses one entry without templates.
    pub fn parse(entry: &str) -> Result<Self, AllowedHostError> {
        Self::parse_parts(entry.trim()).map_err(|reason| AllowedHostError {
            entry: entry.to_owned(),
            reason,
        })
    }

    fn parse_parts(entry: &str) -> Result<Self, String> {
        if entry == "insecure:allow-all" {
            return Err("write `*://*:*` if everything may really be reached".into());
        }
        let (scheme, rest) = entry.split_once("://").ok_or(
            "write `scheme://host[:port]`, for example `https://api.example.com` (`*` may stand for each part)",
        )?;
        let (host, port) = split_port(rest);
        let port = match port {
            Some((port, "")) => PortRule::parse(port)?,
            Some(_) => return Err("remove the path: a whole host is allowed or not".into()),
            None => PortRule::One(default_port(scheme).ok_or_else(|| {
                format!("add a port, `{scheme}` has no usual one (`:*` allows all)")
            })?),
        };
        let scheme = match scheme {
            "*" => None,
            list if list.starts_with('{') => {
                return Err("a list of schemes is not supported: write one entry for each".into());
            }
            name if !name.is_empty() && name.chars().all(char::is_alphabetic) => {
                Some(name.to_owned())
            }
            name => return Err(format!("scheme `{name}` may hold letters only")),
        };
        let host = HostRule::parse(host)?;
        Ok(Self { scheme, host, port })
    }

    /// The scheme; `None` is `*`.
    pub fn scheme(&self) -> Option<&str> {
        self.scheme.as_deref()
    }

    fn allows_scheme(&self, scheme: &str) -> bool {
        self.scheme.as_deref().is_none_or(|own| own == scheme)
    }

    fn allows(&self, scheme: &str, host: &Host, port: Option<u16>) -> bool {
        self.allows_scheme(scheme) && self.host.allows(host) && self.port.allows(port)
    }

    fn names_components(&self) -> bool {
        match &self.host {
            HostRule::Literal(Host::Domain(name)) => name.ends_with(SERVICE_CHAINING_SUFFIX),
            HostRule::Suffix(suffix) => suffix == SERVICE_CHAINING_SUFFIX,
            _ => false,
        }
    }
}

/// Cuts `host[:port[/path]]`. An IPv6 block such as `ff00::/8` ends in something that only looks
/// like a port, so what is a host as a whole has no port.
fn split_port(rest: &str) -> (&str, Option<(&str, &str)>) {
    match rest.rsplit_once(':') {
        None => (rest, None),
        Some((host, "")) => (host, None),
        Some(_) if HostRule::parse(rest).is_ok() => (rest, None),
        Some((host, tail)) => (host, Some(tail.split_once('/').unwrap_or((tail, "")))),
    }
}

impl HostRule {
    fn parse(host: &str) -> Result<Self, String> {
        let host = host.trim();
        match host {
            "*" => return Ok(Self::Any),
            "self" | "self.alt" => return Ok(Self::SelfRelative),
            _ if host.starts_with('{') => {
                return Err("a list of hosts is not supported: write one entry for each".into());
            }
            _ => {}
        }
        if let Ok(block) = host.parse::<IpNet>() {
            return Ok(Self::Block(block));
        }
        let host = host.strip_suffix('/').unwrap_or(host);
        if host.contains('/') {
            return Err("remove the path: a whole host is allowed or not".into());
        }
        let name = host.strip_prefix("*.").unwrap_or(host);
        if name.contains('*') {
            return Err("`*` may stand for the whole host or for its first part only".into());
        }
        let parsed =
            Host::parse(name).map_err(|error| format!("`{name}` is no host name: {error}"))?;
        match parsed {
            Host::Domain(domain) if name.len() < host.len() => {
                Ok(Self::Suffix(format!(".{domain}")))
            }
            _ if name.len() < host.len() => Err("after `*.` comes a domain, not an address".into()),
            literal => Ok(Self::Literal(literal)),
        }
    }

    fn allows(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Suffix(suffix), Host::Domain(domain)) => domain.ends_with(suffix.as_str()),
            (Self::Literal(literal), host) => literal == host,
            (Self::Block(block), Host::Ipv4(ip)) => block.contains(&std::net::IpAddr::V4(*ip)),
            (Self::Block(block), Host::Ipv6(ip)) => block.contains(&std::net::IpAddr::V6(*ip)),
            (Self::Suffix(_) | Self::Block(_) | Self::SelfRelative, _) => false,
        }
    }
}

impl PortRule {
    fn parse(port: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.parse::<u16>()
                .map_err(|_| format!("port `{text}` is no number from 0 to 65535"))
        };
        if port == "*" {
            return Ok(Self::Any);
        }
        if port.starts_with('{') {
            return Err("a list of ports is not supported: write one entry for each".into());
        }
        match port.split_once("..") {
            Some((start, end)) => Ok(Self::Range(number(start)?..number(end)?)),
            None => Ok(Self::One(number(port)?)),
        }
    }

    fn allows(&self, port: Option<u16>) -> bool {
        match (self, port) {
            (Self::Any, _) => true,
            (Self::One(own), Some(port)) => *own == port,
            (Self::Range(range), Some(port)) => range.contains(&port),
            (_, None) => false,
        }
    }
}

fn parse_host(host: &str) -> Option<Host> {
    if let Ok(ip) = host.parse() {
        return Some(Host::Ipv6(ip));
    }
    Host::parse(host).ok()
}

fn default_port(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "http" => 80,
        "https" => 443,
        "postgres" => 5432,
        "mysql" => 3306,
        "redis" => 6379,
        "mqtt" => 1883,
        _ => return None,
    })
}

/// What an empty variable leaves of an entry.
pub(crate) fn is_empty(entry: &str) -> bool {
    matches!(entry, "" | "http://" | "https://")
}
