//! What a reply looks like when a script has run the command: Lua knows one kind of nothing, and no maps that keep their
//! order. What is lost is put back here.

use std::borrow::Cow;

use super::wire::Cursor;
use crate::command::replicate::{null_is_array, script_resp};
use crate::command::reply::Resp;
use crate::command::{Args, Row};
use crate::protocol::resp::{Version, write_header};

/// How a command's reply has to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// What the script speaks with its store.
    script: Resp,
    null_is_array: bool,
    /// The script has an array of pairs where the client expects a map.
    pairs_are_map: bool,
    /// The script has a number where the client expects a boolean.
    is_boolean: bool,
    within: Within,
}

/// What else is different within an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Nothing,
    /// A null is a null array.
    NullArrays,
    /// The strings are numbers of RESP3.
    Doubles,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            script: Resp::Two,
            null_is_array: false,
            pairs_are_map: false,
            is_boolean: false,
            within: Within::Nothing,
        }
    }
}

impl Shape {
    pub(super) fn of(row: &Row, args: &Args<'_>, version: Version) -> Self {
        let resp = match version {
            Version::Resp2 => Resp::Two,
            Version::Resp3 => Resp::Three,
        };
        Self {
            script: script_resp(row, resp),
            null_is_array: resp == Resp::Two && null_is_array(row, args),
            pairs_are_map: resp == Resp::Three && row.name == "xreadgroup",
            is_boolean: resp == Resp::Three && matches!(row.name, "vadd" | "vrem" | "vsetattr"),
            ..Self::default()
        }
    }

    /// The same where the reply is one of several. What reads may have a null anywhere in its reply.
    pub(super) fn within(row: &Row, args: &Args<'_>, version: Version) -> Self {
        let shape = Self::of(row, args, version);
        let may_have_nulls = matches!(
            row.name,
            "mget"
                | "hmget"
                | "zmscore"
                | "geohash"
                | "geopos"
                | "sort"
                | "sort_ro"
                | "xpending"
                | "xinfo|stream"
                | "xinfo|groups"
                | "xinfo|consumers"
        );
        let script = if may_have_nulls { Resp::Two } else { shape.script };
        let within = match (version, row.name) {
            (Version::Resp2, "geopos") => Within::NullArrays,
            (Version::Resp3, "zmscore" | "geopos") => Within::Doubles,
            _ => Within::Nothing,
        };
        Self { script, within, ..shape }
    }

    /// The argument of the scripts.
    pub(super) fn resp(self) -> &'static [u8] {
        match self.script {
            Resp::Two => b"2",
            Resp::Three => b"3",
        }
    }

    /// The reply as the store would have given it.
    pub(super) fn restore(self, reply: &[u8]) -> Cow<'_, [u8]> {
        if self.null_is_array && reply == b"$-1\r\n" {
            return Cow::Borrowed(b"*-1\r\n");
        }
        if self.is_boolean {
            return match reply {
                b":1\r\n" => Cow::Borrowed(b"#t\r\n"),
                b":0\r\n" => Cow::Borrowed(b"#f\r\n"),
                other => Cow::Borrowed(other),
            };
        }
        if self.pairs_are_map
            && let Some(map) = map_of_pairs(reply)
        {
            return Cow::Owned(map);
        }
        if self.within != Within::Nothing && reply.first() == Some(&b'*') {
            let mut out = Vec::with_capacity(reply.len());
            if self.rewrite(&mut Cursor::new(reply), &mut out).is_some() {
                return Cow::Owned(out);
            }
        }
        Cow::Borrowed(reply)
    }

    /// One value with what is within it.
    fn rewrite(self, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Option<()> {
        match cursor.rest().first()? {
            b'*' => {
                let count = cursor.array()?;
                write_header(out, b'*', count);
                (0..count).try_for_each(|_| self.rewrite(cursor, out))
            }
            b'$' if self.within == Within::Doubles && !cursor.rest().starts_with(b"$-1") => {
                out.push(b',');
                out.extend_from_slice(cursor.bulk()?);
                out.extend_from_slice(b"\r\n");
                Some(())
            }
            _ => {
                let value = cursor.value()?;
                let is_null = self.within == Within::NullArrays && value == b"$-1\r\n";
                out.extend_from_slice(if is_null { b"*-1\r\n" } else { value });
                Some(())
            }
        }
    }
}

/// The reply to a transaction.
pub(super) fn restore_each(shapes: &[Shape], reply: &[u8]) -> Vec<u8> {
    let restored = || {
        let mut cursor = Cursor::new(reply);
        let mut out = Vec::with_capacity(reply.len());
        cursor.array().filter(|count| *count == shapes.len())?;
        write_header(&mut out, b'*', shapes.len());
        for shape in shapes {
            out.extend_from_slice(&shape.restore(cursor.value()?));
        }
        Some(out)
    };
    restored().unwrap_or_else(|| reply.to_vec())
}

/// What `EXEC` answers when a watched key has changed.
pub(super) fn null_array(version: Version) -> &'static [u8] {
    match version {
        Version::Resp2 => b"*-1\r\n",
        Version::Resp3 => b"_\r\n",
    }
}

fn map_of_pairs(reply: &[u8]) -> Option<Vec<u8>> {
    let mut cursor = Cursor::new(reply);
    let pairs = cursor.array()?;
    let mut map = Vec::with_capacity(reply.len());
    write_header(&mut map, b'%', pairs);
    for _ in 0..pairs {
        cursor.array().filter(|elements| *elements == 2)?;
        map.extend_from_slice(cursor.value()?);
        map.extend_from_slice(cursor.value()?);
    }
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_scripts_lose_is_put_back() {
        let plain = Shape::default();
        assert_eq!(&*plain.restore(b"$-1\r\n"), b"$-1\r\n");
        assert_eq!(&*Shape { null_is_array: true, ..plain }.restore(b"$-1\r\n"), b"*-1\r\n");
        let pairs = Shape { pairs_are_map: true, ..plain };
        assert_eq!(&*pairs.restore(b"*1\r\n*2\r\n$1\r\ns\r\n*0\r\n"), b"%1\r\n$1\r\ns\r\n*0\r\n");
        assert_eq!(&*pairs.restore(b"_\r\n"), b"_\r\n");
    }
}
