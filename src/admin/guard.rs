//! Who may ask: the rules that keep browsers and strangers from using the port.
//!
//! A loopback port is reachable by every page that the operator's browser shows. A page may send a POST to it blindly
//! (cross-site request forgery), or make its own name resolve to 127.0.0.1 and then read the answers (DNS rebinding).
//! The first shows in `Origin` and `Sec-Fetch-Site` (Fetch Standard, section "origin header"), the second in `Host`,
//! which then carries the page's name.
//!
//! # Invariants
//! - Pure: a request's head in, a verdict out.
//! - How long a refusal takes tells nothing about the token.

use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, Uri};
use hyper::{Method, Version};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What decides who may ask.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy<'a> {
    /// What a change must carry.
    pub(super) token: Option<&'a str>,
    /// Names of this port besides `localhost`.
    pub(super) host_names: &'a [String],
    /// Whether only this machine reaches the port.
    pub(super) loopback: bool,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the request needs one valid Host header")]
    HostMissing,
    #[error("this port is addressed by IP address, as localhost, or by a name it was given; not by this Host")]
    HostForeign,
    #[error("a page of another site may not ask for a change")]
    CrossSite,
    #[error("a change needs the header `Authorization: Bearer` with the token")]
    TokenWrong,
    #[error("a change through a port beyond loopback needs a token, and none is configured")]
    TokenUnset,
}

/// Lets a request through or says why not.
pub(super) fn check(head: &Parts, policy: Policy<'_>) -> Result<(), Refusal> {
    let authorised = policy.token.is_some_and(|token| carries(&head.headers, token));
    // Who knows the token is no foreign page, so may use any name.
    if !authorised {
        check_host(head, policy.host_names)?;
    }
    if head.method == Method::GET || head.method == Method::HEAD {
        return Ok(());
    }
    check_same_site(head)?;
    match policy.token {
        Some(_) if authorised => Ok(()),
        Some(_) => Err(Refusal::TokenWrong),
        None if policy.loopback => Ok(()),
        None => Err(Refusal::TokenUnset),
    }
}

fn check_host(head: &Parts, host_names: &[String]) -> Result<(), Refusal> {
    let Some(authority) = addressed(head)? else { return Ok(()) };
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let known = address.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || host_names.iter().any(|name| host.eq_ignore_ascii_case(name));
    if known { Ok(()) } else { Err(Refusal::HostForeign) }
}

/// Whom the client thinks it talks to: the authority of an absolute target, else the Host header (RFC 9112, section
/// 3.2.2). None only from HTTP/1.0 clients that send neither, which are not browsers.
fn addressed(head: &Parts) -> Result<Option<Authority>, Refusal> {
    if let Some(authority) = head.uri.authority() {
        return Ok(Some(authority.clone()));
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Authority::try_from(host.as_bytes()).map(Some).map_err(|_| Refusal::HostMissing),
        (None, _) if head.version == Version::HTTP_10 => Ok(None),
        _ => Err(Refusal::HostMissing),
    }
}

/// Programs send neither header; a page of this port sends both with our own name in them.
fn check_same_site(head: &Parts) -> Result<(), Refusal> {
    let same_site = |value: &HeaderValue| value == "same-origin" || value == "none";
    if !head.headers.get_all(SEC_FETCH_SITE).iter().all(same_site) {
        return Err(Refusal::CrossSite);
    }
    let own = addressed(head)?;
    let same_origin = |value: &HeaderValue| {
        let origin = Uri::try_from(value.as_bytes()).ok();
        own.is_some() && origin.is_some_and(|origin| origin.scheme().is_some() && origin.authority() == own.as_ref())
    };
    if head.headers.get_all(ORIGIN).iter().all(same_origin) { Ok(()) } else { Err(Refusal::CrossSite) }
}

fn carries(headers: &HeaderMap, token: &str) -> bool {
    let Some(value) = headers.get(AUTHORIZATION) else { return false };
    let Some((scheme, shown)) = value.as_bytes().split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty() && equal_in_constant_time(shown, token.as_bytes())
}

/// The time depends on the length of what was shown alone.
fn equal_in_constant_time(shown: &[u8], token: &[u8]) -> bool {
    let padded = token.iter().copied().chain(std::iter::repeat(0));
    let difference = shown.iter().zip(padded).fold(0, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0 && shown.len() == token.len()
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    const LOOPBACK: Policy<'_> = Policy { token: None, host_names: &[], loopback: true };
    const OPEN: Policy<'_> = Policy { token: None, host_names: &[], loopback: false };
    const WITH_TOKEN: Policy<'_> = Policy { token: Some("s3cret"), host_names: &[], loopback: false };

    #[track_caller]
    fn verdict(policy: Policy<'_>, method: &str, target: &str, headers: &[(&str, &str)], want: Result<(), Refusal>) {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(check(&head, policy), want, "{method} {target} {headers:?}");
    }

    #[test]
    fn hosts() {
        let get = |host: &str, want| verdict(LOOPBACK, "GET", "/config", &[("host", host)], want);
        for own in ["127.0.0.1", "127.0.0.1:9380", "[::1]:9380", "10.1.2.3:80", "localhost:9380", "LOCALHOST"] {
            get(own, Ok(()));
        }
        for foreign in ["evil.example", "evil.example:9380", "localhost.evil.example", "127.0.0.1.nip.io", "0x7f.1"] {
            get(foreign, Err(Refusal::HostForeign));
        }
        for broken in ["", "a b", "[::1"] {
            get(broken, Err(Refusal::HostMissing));
        }
        verdict(LOOPBACK, "GET", "/", &[], Err(Refusal::HostMissing));
        verdict(LOOPBACK, "GET", "/", &[("host", "127.0.0.1"), ("host", "evil.example")], Err(Refusal::HostMissing));
        verdict(LOOPBACK, "GET", "http://evil.example/", &[("host", "127.0.0.1")], Err(Refusal::HostForeign));
        let host_names = [String::from("quoit.internal")];
        let named = Policy { host_names: &host_names, ..LOOPBACK };
        verdict(named, "GET", "/", &[("host", "Quoit.Internal:9380")], Ok(()));
    }

    #[test]
    fn an_http_1_0_probe_needs_no_host() {
        let (mut head, ()) = Request::builder().uri("/healthz").body(()).unwrap().into_parts();
        head.version = Version::HTTP_10;
        assert_eq!(check(&head, LOOPBACK), Ok(()));
    }

    #[test]
    fn sites() {
        let post = |name: &str, value: &str, want| {
            verdict(LOOPBACK, "POST", "/reload", &[("host", "localhost:9380"), (name, value)], want);
        };
        verdict(LOOPBACK, "POST", "/reload", &[("host", "localhost:9380")], Ok(()));
        post("origin", "http://localhost:9380", Ok(()));
        post("sec-fetch-site", "same-origin", Ok(()));
        for foreign in
            ["null", "http://localhost:3000", "http://127.0.0.1:9380", "https://evil.example", "localhost:9380"]
        {
            post("origin", foreign, Err(Refusal::CrossSite));
        }
        for foreign in ["cross-site", "same-site", ""] {
            post("sec-fetch-site", foreign, Err(Refusal::CrossSite));
        }
    }

    #[test]
    fn tokens() {
        let post = |policy, shown: &str, want| {
            verdict(policy, "POST", "/reload", &[("host", "127.0.0.1"), ("authorization", shown)], want);
        };
        post(WITH_TOKEN, "Bearer s3cret", Ok(()));
        post(WITH_TOKEN, "bearer s3cret", Ok(()));
        for wrong in
            ["Bearer s3cre", "Bearer s3cret0", "Bearer s3cret\u{0}", "Bearer ", "Bearer", "Basic s3cret", "s3cret"]
        {
            if HeaderValue::from_str(wrong).is_ok() {
                post(WITH_TOKEN, wrong, Err(Refusal::TokenWrong));
            }
        }
        post(OPEN, "Bearer anything", Err(Refusal::TokenUnset));
        post(Policy { token: Some(""), ..LOOPBACK }, "Bearer ", Err(Refusal::TokenWrong));
        verdict(WITH_TOKEN, "POST", "/reload", &[("host", "127.0.0.1")], Err(Refusal::TokenWrong));
        verdict(OPEN, "GET", "/metrics", &[("host", "127.0.0.1")], Ok(()));
        let by_name = [("host", "quoit.svc"), ("authorization", "Bearer s3cret")];
        verdict(WITH_TOKEN, "GET", "/metrics", &by_name, Ok(()));
    }
}
