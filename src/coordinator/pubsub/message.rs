//! What a store says on a connection that listens, and what of it decides where it goes. Pure but for the memory that a
//! long message is charged with.

use std::rc::Rc;

use super::Kind;
use crate::backend::Context;

/// A message at least this long is held once for all who hear it.
pub(super) const LONG_BYTES: usize = 16 * 1024;

/// A long message. The worker's memory is charged with it once, however many clients it waits for.
pub struct Message {
    frame: Vec<u8>,
    context: Rc<Context>,
}

impl Message {
    /// Charges the worker's memory until nobody has it any more.
    pub fn new(frame: Vec<u8>, context: &Rc<Context>) -> Rc<Self> {
        context.buffered(frame.capacity());
        Rc::new(Self { frame, context: Rc::clone(context) })
    }

    /// The frame of RESP3; that of RESP2 differs in the first byte.
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a message of {} bytes", self.frame.len()) // What it says is nobody's business.
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.context.released(self.frame.capacity());
    }
}

/// A message on its way to one client: a frame of RESP3, whose first byte is another in RESP2.
#[derive(Clone, Copy)]
pub enum Push<'a> {
    /// To be copied.
    Short(&'a [u8]),
    /// To be kept as it is.
    Long(&'a Rc<Message>),
    /// Of that many bytes, which are more than any client may be sent at once: it was not kept.
    TooLong(usize),
}

impl Push<'_> {
    /// The bytes that a client is sent.
    pub fn len(&self) -> usize {
        match self {
            Self::Short(frame) => frame.len(),
            Self::Long(message) => message.frame().len(),
            Self::TooLong(len) => *len,
        }
    }

    /// Whether there is nothing to send, which no message is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a store says unasked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// Somebody published. `name` is what was subscribed to: the channel itself or a pattern.
    Message { kind: Kind, name: &'a [u8], channel: &'a [u8], payload: &'a [u8] },
    /// It listens for a name from now on.
    Begun { kind: Kind, name: &'a [u8] },
    /// It does not any more.
    Ended { kind: Kind, name: &'a [u8] },
    /// The request is refused.
    Refused,
    /// Something else, of no interest.
    Other,
}

/// Reads a push. Of one that was not kept, the beginning is enough: its payload is as long as what is there.
pub(super) fn read(frame: &[u8]) -> Said<'_> {
    if frame.first() == Some(&b'-') {
        return Said::Refused;
    }
    let mut rest = frame.get(1..).unwrap_or_default();
    if frame.first() != Some(&b'>') || number(&mut rest).is_none() {
        return Said::Other;
    }
    let Some(word) = bulk(&mut rest) else { return Said::Other };
    let Some(name) = bulk(&mut rest) else { return Said::Other };
    let kind = match word {
        [b'p', b'm' | b's' | b'u', ..] => Kind::Pattern,
        [b's', b'm' | b's', ..] | [b's', b'u', b'n', ..] => Kind::Shard,
        _ => Kind::Channel,
    };
    match word {
        b"message" | b"smessage" => {
            Said::Message { kind, name, channel: name, payload: bulk(&mut rest).unwrap_or_default() }
        }
        b"pmessage" => {
            let channel = bulk(&mut rest).unwrap_or_default();
            Said::Message { kind, name, channel, payload: bulk(&mut rest).unwrap_or_default() }
        }
        b"subscribe" | b"psubscribe" | b"ssubscribe" => Said::Begun { kind, name },
        b"unsubscribe" | b"punsubscribe" | b"sunsubscribe" => Said::Ended { kind, name },
        _ => Said::Other,
    }
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let end = memchr::memchr(b'\r', rest)?;
    let number = std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()?;
    *rest = rest.get(end + 2..)?;
    Some(number)
}

/// A bulk string, or as much of it as is there.
fn bulk<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    *rest = rest.strip_prefix(b"$")?;
    let len = number(rest)?;
    let bytes = rest.get(..len).unwrap_or(rest);
    *rest = rest.get(len.saturating_add(2)..).unwrap_or_default();
    Some(bytes)
}

/// The key that a message of a keyspace notification is about.
pub(super) fn notified_key<'a>(channel: &'a [u8], payload: &'a [u8]) -> Option<&'a [u8]> {
    let (rest, by_key) = match channel.strip_prefix(b"__keyspace@") {
        Some(rest) => (rest, true),
        None => (channel.strip_prefix(b"__keyevent@")?, false),
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let name = rest.get(digits..)?.strip_prefix(b"__:")?;
    Some(if by_key { name } else { payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(words: &[&str]) -> Vec<u8> {
        let bulks = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        format!(">{}\r\n{}", words.len(), bulks.collect::<String>()).into_bytes()
    }

    #[track_caller]
    fn check(words: &[&str], want: &str) {
        let bytes = frame(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let got = match read(&bytes) {
            Said::Message { kind, name, channel, payload } => {
                format!("{kind:?} {} {} {}", text(name), text(channel), text(payload))
            }
            Said::Begun { kind, name } => format!("+{kind:?} {}", text(name)),
            Said::Ended { kind, name } => format!("-{kind:?} {}", text(name)),
            Said::Refused => "refused".to_owned(),
            Said::Other => "other".to_owned(),
        };
        assert_eq!(got, want, "{words:?}");
    }

    #[test]
    fn what_a_store_says_is_understood() {
        check(&["message", "a", "text"], "Channel a a text");
        check(&["pmessage", "a*", "ab", "text"], "Pattern a* ab text");
        check(&["smessage", "a", "text"], "Shard a a text");
        check(&["subscribe", "a", "1"], "+Channel a");
        check(&["psubscribe", "a", "1"], "+Pattern a");
        check(&["ssubscribe", "a", "1"], "+Shard a");
        check(&["unsubscribe", "a", "1"], "-Channel a");
        check(&["punsubscribe", "a", "1"], "-Pattern a");
        check(&["sunsubscribe", "a", "1"], "-Shard a");
        check(&["invalidate", "a"], "other");
        assert_eq!(read(b"-ERR no\r\n"), Said::Refused);
        assert_eq!(read(b">2\r\n"), Said::Other);
        // The beginning of a long one tells where it goes.
        let cut = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$100\r\nxyz";
        assert_eq!(read(cut), Said::Message { kind: Kind::Channel, name: b"a", channel: b"a", payload: b"xyz" });
    }

    #[test]
    fn a_notification_tells_its_key() {
        #[track_caller]
        fn check(channel: &str, payload: &str, want: Option<&str>) {
            let got = notified_key(channel.as_bytes(), payload.as_bytes());
            assert_eq!(got, want.map(str::as_bytes), "{channel}");
        }
        check("__keyspace@0__:a:b", "set", Some("a:b"));
        check("__keyevent@0__:set", "a:b", Some("a:b"));
        check("__keyevent@12__:expired", "a", Some("a"));
        check("__keyspace@0__", "set", None);
        check("__keyspace@*__:a", "set", None);
        check("news", "set", None);
    }
}
