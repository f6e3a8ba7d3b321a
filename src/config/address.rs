//! Addresses as people write them: of stores, and of our own ports.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Announce;

/// Where a store listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port. The host may be a DNS name, to be looked up at every connect.
    Tcp {
        /// An IP address without brackets, or a DNS name.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Whether it has to be looked up, and may lead elsewhere tomorrow.
    pub fn is_name(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => host.parse::<std::net::IpAddr>().is_err(),
            Self::Unix(_) => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Why an address was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// `rediss://`.
    #[error("TLS is a setting of the pool: add a table `[pool.tls]`, which may be empty")]
    Tls,
    /// `http://` and `https://`.
    #[error("HTTP stores come with a later version")]
    Http,
    /// Any other scheme.
    #[error("only `redis://` and `unix:` addresses are known")]
    Scheme,
    /// A user or password inside the address.
    #[error("an address holds no user or password: use `username` and `password_file` or `password_env`")]
    Credentials,
    /// A path or database number after the port.
    #[error("nothing may follow the port: clients SELECT their database, a node is in none")]
    Trailing,
    /// No port, or not a number from 1 to 65535.
    #[error("an address ends in a port from 1 to 65535, such as `10.0.0.1:6379`")]
    Port,
    /// No host, or characters that no host has.
    #[error("the host must be a name or an IP address, IPv6 in brackets as in `[::1]:6379`")]
    Host,
    /// A relative or empty path of a Unix socket.
    #[error("the path of a Unix socket must be absolute, as in `unix:/run/redis.sock`")]
    SocketPath,
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            // 107 bytes and a NUL fit into `sockaddr_un` (unix(7)).
            let good = path.starts_with('/') && path.len() <= 107 && !path.contains('\0');
            return if good { Ok(Self::Unix(PathBuf::from(path))) } else { Err(AddressError::SocketPath) };
        }
        let authority = match text.split_once("://") {
            Some(("redis", rest)) => rest,
            Some(("rediss", _)) => return Err(AddressError::Tls),
            Some(("http" | "https", _)) => return Err(AddressError::Http),
            Some(_) => return Err(AddressError::Scheme),
            None => text,
        };
        if authority.contains('@') {
            return Err(AddressError::Credentials);
        }
        let (authority, rest) = authority.split_once('/').unwrap_or((authority, ""));
        if !rest.is_empty() && rest != "0" {
            return Err(AddressError::Trailing);
        }
        let (host, port) = authority.rsplit_once(':').ok_or(AddressError::Port)?;
        let port = port_number(port).filter(|port| *port != 0).ok_or(AddressError::Port)?;
        Ok(Self::Tcp { host: host_name(host)?, port })
    }
}

/// Digits alone: `u16::from_str` would take a plus sign too.
fn port_number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn host_name(text: &str) -> Result<String, AddressError> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(AddressError::Host)?;
        return inner.parse::<std::net::Ipv6Addr>().map(|host| host.to_string()).map_err(|_| AddressError::Host);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if text.is_empty() || 253 < text.len() || !text.bytes().all(allowed) {
        return Err(AddressError::Host);
    }
    // A host of digits and dots alone is meant as an IP address: a typing error must not become a DNS look-up.
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric && text.parse::<std::net::Ipv4Addr>().is_err() {
        return Err(AddressError::Host);
    }
    Ok(text.to_ascii_lowercase())
}

/// Where a listener of our own is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bind {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Bind {
    /// The TCP port and its address; nothing for a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether two listeners of ours would be in each other's way. Port 0 is a free port, another one each time.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (Self::Tcp(left), Self::Tcp(right)) = (self, other) else { return self == other };
        left.port() == right.port()
            && left.port() != 0
            && (left.ip() == right.ip() || left.ip().is_unspecified() || right.ip().is_unspecified())
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// The address of a listener of our own, and why it is not one.
pub(super) fn listen(text: &str) -> Result<Bind, String> {
    if !text.starts_with("unix:") {
        return bind(text).map(Bind::Tcp);
    }
    match text.parse() {
        Ok(Address::Unix(path)) => Ok(Bind::Unix(path)),
        Ok(Address::Tcp { .. }) | Err(_) => Err(AddressError::SocketPath.to_string()),
    }
}

/// The address of a port of our own, and why it is not one.
pub(super) fn bind(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| match text.rsplit_once(':') {
        Some(("localhost", port)) => format!("write the IP address: `127.0.0.1:{port}`"),
        Some(("" | "*", port)) => format!("write the IP address: `0.0.0.0:{port}` for every interface"),
        _ => "an IP address and a port, such as `127.0.0.1:6380` or `[::1]:6380`".to_owned(),
    })
}

/// A host name or address with a port, as others are told it.
pub(super) fn announce(text: &str) -> Option<Announce> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
        None => host.to_owned(),
    };
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.chars().all(|letter| letter.is_ascii_alphanumeric() || "-._".contains(letter));
    (is_address || is_name).then_some(Announce { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_announce(text: &str, want: Option<(&str, u16)>) {
        let got = announce(text);
        assert_eq!(got.as_ref().map(|announce| (announce.host.as_str(), announce.port)), want, "{text}");
    }

    #[test]
    fn announced_addresses() {
        check_announce("redis.internal:6380", Some(("redis.internal", 6380)));
        check_announce("10.0.0.7:6380", Some(("10.0.0.7", 6380)));
        check_announce("[::1]:6380", Some(("::1", 6380)));
        for wrong in ["", "redis", "redis:", ":6380", "redis:0", "redis:65536", "[x]:1", "a b:1", "a,b:1"] {
            check_announce(wrong, None);
        }
    }

    #[track_caller]
    fn check(text: &str, want: &str) {
        let got = text.parse::<Address>().map_or_else(|error| format!("{error:?}"), |address| address.to_string());
        assert_eq!(got, want, "{text}");
    }

    #[test]
    fn addresses_of_our_own() {
        let check = |text: &str, want: &str| {
            assert_eq!(listen(text).map(|bind| bind.to_string()), Ok(want.to_owned()), "{text}");
        };
        check("127.0.0.1:6380", "127.0.0.1:6380");
        check("unix:/run/quoit.sock", "unix:/run/quoit.sock");
        check("unix:///run/quoit.sock", "unix:/run/quoit.sock");
        assert!(listen("unix:quoit.sock").is_err() && listen("localhost:1").is_err());
        let [any, one, path, free] =
            ["0.0.0.0:1", "127.0.0.1:1", "unix:/a", "127.0.0.1:0"].map(|text| listen(text).unwrap());
        assert!(any.overlaps(&one) && path.overlaps(&path) && !path.overlaps(&one) && !free.overlaps(&free));
    }

    #[test]
    fn addresses_of_stores() {
        check("10.0.0.1:6379", "10.0.0.1:6379");
        check("redis://Cache.example:6379", "cache.example:6379");
        check("redis://cache:6379/", "cache:6379");
        check("redis://cache:6379/0", "cache:6379");
        check("[::1]:6379", "[::1]:6379");
        check("[0:0::1]:6379", "[::1]:6379");
        check("unix:/run/redis.sock", "unix:/run/redis.sock");
        check("unix:///run/redis.sock", "unix:/run/redis.sock");
        check("unix:run/redis.sock", "SocketPath");
        check("rediss://cache:6379", "Tls");
        check("https://cache:443", "Http");
        check("memcached://cache:11211", "Scheme");
        check("redis://user:secret@cache:6379", "Credentials");
        check("redis://cache:6379/3", "Trailing");
        check("cache", "Port");
        check("cache:0", "Port");
        check("cache:65536", "Port");
        check("cache:+6379", "Port");
        check("cache:", "Port");
        check(":6379", "Host");
        check("::1:6379", "Host");
        check("[::1:6379", "Host");
        check("10.0.0.256:6379", "Host");
        check("a b:6379", "Host");
        check("", "Port");
    }
}
