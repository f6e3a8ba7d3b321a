//! `CLIENT TRACKING` and its like: what a client asks for, why it may not, and how it is shown. The texts and their order
//! are those of Redis (`clientCommand` in networking.c, `checkPrefixCollisionsOrReply` in tracking.c). Pure.

use super::reply::{self, Resp};

/// The channel on which a client that speaks RESP2 hears of changes.
pub const CHANNEL: &[u8] = b"__redis__:invalidate";

/// Which reads are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Opting {
    /// All.
    #[default]
    All,
    /// Those after `CLIENT CACHING YES`.
    In,
    /// All but those after `CLIENT CACHING NO`.
    Out,
}

/// What a client has asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent marks, as `CLIENT TRACKINGINFO` shows them")]
pub struct Tracking {
    /// The client that is told in its place; 0 for itself.
    pub redirect: i64,
    /// Whether it is told of all keys with its prefixes, read or not.
    pub broadcast: bool,
    /// Which reads are tracked.
    pub opting: Opting,
    /// Whether it is not told of its own writes.
    pub no_loop: bool,
    /// In order. One that is empty stands for all keys.
    pub prefixes: Vec<Vec<u8>>,
    /// `CLIENT CACHING` was said of the next request.
    pub caching: bool,
    /// The client that was to be told has gone.
    pub is_broken: bool,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switch {
    /// `ON`, with prefixes to add.
    On(Tracking),
    /// `OFF`.
    Off,
}

type Refusal = Vec<u8>;

fn refusal(text: &str) -> Refusal {
    let mut out = Vec::new();
    reply::error(&mut out, text);
    out
}

fn syntax_error() -> Refusal {
    let mut out = Vec::new();
    reply::syntax_error(&mut out);
    out
}

/// The numbers of clients that a request names, wrong or right.
pub fn redirects(words: &[Vec<u8>]) -> impl Iterator<Item = i64> {
    let named = words.iter().zip(words.iter().skip(1)).filter(|(word, _)| word.eq_ignore_ascii_case(b"redirect"));
    named.filter_map(|(_, id)| std::str::from_utf8(id).ok()?.parse().ok())
}

/// Reads the words after `CLIENT TRACKING`. `exists` says whether there is a client of that number, `current` is what the
/// client has asked for before.
///
/// # Errors
/// The reply that refuses it.
pub fn parse(words: &[Vec<u8>], current: Option<&Tracking>, exists: impl Fn(i64) -> bool) -> Result<Switch, Refusal> {
    let mut wanted = Tracking::default();
    let (mut opts_in, mut opts_out) = (false, false);
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        match () {
            () if is("redirect") && rest.len() > 0 => {
                if wanted.redirect != 0 {
                    return Err(refusal("ERR A client can only redirect to a single other client"));
                }
                let id = rest.next().and_then(|id| number(id)).ok_or_else(|| {
                    let mut out = Vec::new();
                    reply::not_an_integer(&mut out);
                    out
                })?;
                if !exists(id) {
                    return Err(refusal("ERR The client ID you want redirect to does not exist"));
                }
                wanted.redirect = id;
            }
            () if is("bcast") => wanted.broadcast = true,
            () if is("optin") => opts_in = true,
            () if is("optout") => opts_out = true,
            () if is("noloop") => wanted.no_loop = true,
            () if is("prefix") && rest.len() > 0 => wanted.prefixes.extend(rest.next().cloned()),
            () => return Err(syntax_error()),
        }
    }
    match words.first() {
        Some(word) if word.eq_ignore_ascii_case(b"on") => {}
        Some(word) if word.eq_ignore_ascii_case(b"off") => return Ok(Switch::Off),
        _ => return Err(syntax_error()),
    }
    check(&wanted, opts_in, opts_out, current)?;
    wanted.opting = match (opts_in, opts_out) {
        (true, _) => Opting::In,
        (_, true) => Opting::Out,
        _ => Opting::All,
    };
    if wanted.broadcast && wanted.prefixes.is_empty() {
        wanted.prefixes.push(Vec::new());
    }
    Ok(Switch::On(wanted))
}

fn number(text: &[u8]) -> Option<i64> {
    let value: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (value.to_string().as_bytes() == text).then_some(value)
}

fn check(wanted: &Tracking, opts_in: bool, opts_out: bool, current: Option<&Tracking>) -> Result<(), Refusal> {
    if !wanted.broadcast && !wanted.prefixes.is_empty() {
        return Err(refusal("ERR PREFIX option requires BCAST mode to be enabled"));
    }
    if current.is_some_and(|current| current.broadcast != wanted.broadcast) {
        return Err(refusal(
            "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it \
             with a different mode.",
        ));
    }
    if wanted.broadcast && (opts_in || opts_out) {
        return Err(refusal("ERR OPTIN and OPTOUT are not compatible with BCAST"));
    }
    if opts_in && opts_out {
        return Err(refusal("ERR You can't specify both OPTIN mode and OPTOUT mode"));
    }
    let opting = current.map(|current| current.opting);
    if (opts_in && opting == Some(Opting::Out)) || (opts_out && opting == Some(Opting::In)) {
        return Err(refusal(
            "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it \
             with a different mode.",
        ));
    }
    let existing = current.map(|current| current.prefixes.as_slice()).unwrap_or_default();
    for (at, prefix) in wanted.prefixes.iter().enumerate() {
        let overlaps = |other: &&Vec<u8>| other.starts_with(prefix) || prefix.starts_with(other);
        let others = [
            ("an existing prefix", existing),
            ("another provided prefix", wanted.prefixes.get(at + 1..).unwrap_or_default()),
        ];
        for (what, others) in others {
            if let Some(other) = others.iter().find(overlaps) {
                return Err(refusal(&format!(
                    "ERR Prefix '{}' overlaps with {what} '{}'. Prefixes for a single client must not overlap.",
                    String::from_utf8_lossy(prefix),
                    String::from_utf8_lossy(other),
                )));
            }
        }
    }
    Ok(())
}

impl Tracking {
    /// What it is told at once of these keys: of each one, or, where it is told of prefixes, of all that begin with one.
    pub fn messages<'k>(&self, keys: &[&'k [u8]]) -> Vec<Vec<&'k [u8]>> {
        if !self.broadcast {
            return keys.iter().map(|key| vec![*key]).collect();
        }
        let under = |prefix: &Vec<u8>| keys.iter().copied().filter(|key| key.starts_with(prefix)).collect();
        self.prefixes.iter().map(under).filter(|keys: &Vec<_>| !keys.is_empty()).collect()
    }

    /// What a client that tracks already asks for anew: prefixes add up, all else is replaced.
    pub fn replaced_by(&mut self, wanted: Self) {
        let mut prefixes = std::mem::take(&mut self.prefixes);
        prefixes.extend(wanted.prefixes);
        prefixes.sort_unstable();
        prefixes.dedup();
        *self = Self { prefixes, caching: self.caching, ..wanted };
    }

    /// Whether the next read is tracked.
    pub fn tracks_next(&self) -> bool {
        match self.opting {
            _ if self.broadcast => false,
            Opting::All => true,
            Opting::In => self.caching,
            Opting::Out => !self.caching,
        }
    }

    /// `CLIENT CACHING YES|NO`.
    pub fn say_caching(this: Option<&mut Self>, word: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(tracking) = this else {
            reply::error(
                out,
                "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode \
                 enabled",
            );
            return false;
        };
        let (is_right, name, mode) = if word.eq_ignore_ascii_case(b"yes") {
            (tracking.opting == Opting::In, "YES", "OPTIN")
        } else if word.eq_ignore_ascii_case(b"no") {
            (tracking.opting == Opting::Out, "NO", "OPTOUT")
        } else {
            reply::syntax_error(out);
            return false;
        };
        if !is_right {
            let text = format!("ERR CLIENT CACHING {name} is only valid when tracking is enabled in {mode} mode.");
            reply::error(out, &text);
            return false;
        }
        tracking.caching = true;
        reply::ok(out);
        true
    }
}

/// `CLIENT TRACKINGINFO`.
pub fn describe(this: Option<&Tracking>, resp: Resp, out: &mut Vec<u8>) {
    let mut flags = Vec::new();
    match this {
        None => flags.push("off"),
        Some(tracking) => {
            flags.push("on");
            let marks = [
                (tracking.broadcast, "bcast"),
                (tracking.opting == Opting::In, "optin"),
                (tracking.opting == Opting::In && tracking.caching, "caching-yes"),
                (tracking.opting == Opting::Out, "optout"),
                (tracking.opting == Opting::Out && tracking.caching, "caching-no"),
                (tracking.no_loop, "noloop"),
                (tracking.is_broken, "broken_redirect"),
            ];
            flags.extend(marks.iter().filter(|(set, _)| *set).map(|(_, name)| name));
        }
    }
    reply::map_header(out, resp, 3);
    reply::bulk(out, b"flags");
    reply::set_header(out, resp, flags.len());
    for flag in flags {
        reply::bulk(out, flag.as_bytes());
    }
    reply::bulk(out, b"redirect");
    reply::integer(out, this.map_or(-1, |tracking| tracking.redirect));
    reply::bulk(out, b"prefixes");
    let prefixes = this.map(|tracking| tracking.prefixes.as_slice()).unwrap_or_default();
    reply::array_header(out, prefixes.len());
    for prefix in prefixes {
        reply::bulk(out, prefix);
    }
}

/// Appends what a client is told of: these keys, or all of them. `resp` is the protocol of the client that tracks.
pub fn write_keys(out: &mut Vec<u8>, keys: Option<&[&[u8]]>, resp: Resp) {
    match keys {
        None => reply::null(out, resp),
        Some(keys) => {
            reply::array_header(out, keys.len());
            for key in keys {
                reply::bulk(out, key);
            }
        }
    }
}

/// The frame that tells a client of changes, in the form of RESP3; `keys` as [`write_keys`] wrote them. A client that speaks
/// RESP2 is told as by a message of the [`CHANNEL`].
pub fn frame(keys: &[u8], resp: Resp) -> Vec<u8> {
    let mut out = match resp {
        Resp::Two => b">3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n".to_vec(),
        Resp::Three => b">2\r\n$10\r\ninvalidate\r\n".to_vec(),
    };
    out.extend_from_slice(keys);
    out
}

/// The frame that tells a client that the one in whose place it is told has gone.
pub fn broken_frame(redirect: i64) -> Vec<u8> {
    let mut out = b">2\r\n$21\r\ntracking-redir-broken\r\n".to_vec();
    reply::integer(&mut out, redirect);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Vec<u8>> {
        line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    #[track_caller]
    fn check(line: &str, current: Option<&str>, want: &str) {
        let current = current.map(|line| match parse(&words(line), None, |_| true) {
            Ok(Switch::On(tracking)) => tracking,
            other => panic!("{line}: {other:?}"),
        });
        let got = match parse(&words(line), current.as_ref(), |id| id == 7) {
            Ok(Switch::Off) => "off".to_owned(),
            Ok(Switch::On(wanted)) => {
                let mut tracking = current.unwrap_or_default();
                tracking.replaced_by(wanted);
                let mut out = Vec::new();
                describe(Some(&tracking), Resp::Two, &mut out);
                let text = String::from_utf8(out).unwrap();
                let bulks = text.split("\r\n").filter(|line| !line.starts_with(['$', '*']) && !line.is_empty());
                bulks.filter(|line| !["flags", "redirect", "prefixes"].contains(line)).collect::<Vec<_>>().join(" ")
            }
            Err(error) => String::from_utf8(error).unwrap().trim_end().to_owned(),
        };
        assert!(got.starts_with(want), "{line}: {got}");
    }

    #[test]
    fn what_a_client_asks_for() {
        check("on", None, "on :0");
        check("OFF optin", None, "off");
        check("ON OPTIN NOLOOP", None, "on optin noloop :0");
        check("ON BCAST PREFIX b PREFIX a REDIRECT 7", None, "on bcast :7 a b");
        check("ON BCAST PREFIX c", Some("ON BCAST PREFIX b NOLOOP"), "on bcast :0 b c");
        check("ON OPTOUT", Some("ON"), "on optout :0");
        check("maybe", None, "-ERR syntax error");
        check("maybe REDIRECT 8", None, "-ERR The client ID");
        check("ON REDIRECT 7 REDIRECT 7", None, "-ERR A client can only");
        check("ON REDIRECT x", None, "-ERR value is not an integer");
        check("ON REDIRECT", None, "-ERR syntax error");
        check("ON PREFIX a", None, "-ERR PREFIX option");
        check("ON", Some("ON BCAST"), "-ERR You can't switch BCAST");
        check("ON BCAST OPTIN", None, "-ERR OPTIN and OPTOUT are");
        check("ON OPTOUT OPTIN", None, "-ERR You can't specify");
        check("ON OPTOUT", Some("ON OPTIN"), "-ERR You can't switch OPTIN");
        check(
            "ON BCAST PREFIX a PREFIX b PREFIX ab",
            None,
            "-ERR Prefix 'a' overlaps with another provided prefix 'ab'",
        );
        check("ON BCAST PREFIX ab", Some("ON BCAST PREFIX a"), "-ERR Prefix 'ab' overlaps with an existing prefix 'a'");
    }
}
