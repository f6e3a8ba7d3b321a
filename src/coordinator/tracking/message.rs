//! What a store says of keys that have changed. Pure.

use crate::replication::Cursor;

/// What a push says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// These keys have changed, or have gone.
    Changed(Vec<&'a [u8]>),
    /// All have.
    Everything,
    /// Something else.
    Other,
}

/// Reads a push.
pub(super) fn read(frame: &[u8]) -> Said<'_> {
    let Some(rest) = frame.strip_prefix(b">2\r\n$10\r\ninvalidate\r\n") else { return Said::Other };
    let mut cursor = Cursor::new(rest);
    let Some(count) = cursor.array() else { return Said::Everything };
    let mut keys = Vec::with_capacity(count.min(rest.len()));
    for _ in 0..count {
        match cursor.bulk() {
            Some(key) => keys.push(key),
            None => return Said::Everything, // Not understood: it may be any key.
        }
    }
    Said::Changed(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_says_is_understood() {
        let said = b">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n$2\r\nbc\r\n";
        assert_eq!(read(said), Said::Changed(vec![b"a", b"bc"]));
        assert_eq!(read(b">2\r\n$10\r\ninvalidate\r\n_\r\n"), Said::Everything);
        assert_eq!(read(b">2\r\n$10\r\ninvalidate\r\n*1\r\n:1\r\n"), Said::Everything);
        assert_eq!(read(b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"), Said::Other);
    }
}
