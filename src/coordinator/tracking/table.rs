//! Which client has to be told of which key: what clients have read, and what they have under way. Pure.
//!
//! A reply and the news of a change come from a store by different connections, so either may be first. A key is therefore
//! entered before its read is sent. News that comes while the read is due is told again when it has been answered: its
//! reply may be older than the news.
//!
//! # Invariants
//! - A client that has a key from a reply, and was not told of a change since, is in the key's entry.
//! - A read that began before [`Table::clear`] leaves no entry.
//! - The bytes of keys that are read and no more than that are bounded; what finds no room is told to be invalid.

use indexmap::IndexMap;
use smallvec::SmallVec;

/// What an entry costs about, beside the bytes of its key.
const ENTRY_BYTES: usize = 128;

/// What a client does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Reads it, and is to be told when it changes.
    Read,
    /// Reads it; it is told of all changes of its prefixes anyway.
    ReadUnderPrefix,
    /// May change it.
    Write,
    /// May change it; it is told of all changes of its prefixes, read or not.
    WriteUnderPrefix,
}

impl Use {
    /// Whether it may change the key.
    pub(super) fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::WriteUnderPrefix)
    }
}

/// What a client does with a key now, until `Table::end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pool: usize,
    /// The store's name of it.
    key: Box<[u8]>,
    with: Use,
    epoch: u64,
}

impl Due {
    /// The pool of the key.
    pub fn pool(&self) -> usize {
        self.pool
    }

    /// The store's name of it.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

/// What a client has to be told when its request has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// Nothing.
    Nothing,
    /// That the key has changed.
    Changed,
}

/// What has become of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The client wants to know of its own writes, or nobody knows whether it has changed anything.
    Told,
    /// It has changed the key, and the client does not want to be told of that.
    Silently,
    /// Whichever of the client's writes of the key ends last decides.
    LastDecides,
}

/// One client of an entry.
#[derive(Debug)]
struct Holder {
    id: u64,
    /// Reads and writes that are due.
    reads: u32,
    writes: u32,
    /// It has been answered a read.
    holds: bool,
    /// The replies to its reads that are due may be out of date.
    doubtful: bool,
    /// The key has changed since its writes began.
    changed: bool,
}

impl Holder {
    fn new(id: u64) -> Self {
        Self { id, reads: 0, writes: 0, holds: false, doubtful: false, changed: false }
    }

    fn is_needed(&self) -> bool {
        self.holds || self.reads > 0 || self.writes > 0
    }
}

type Holders = SmallVec<[Holder; 1]>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// By pool.
    keys: Vec<IndexMap<Box<[u8]>, Holders>>,
    bytes: usize,
    /// How often it was cleared.
    epoch: u64,
}

impl Table {
    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys.iter().map(IndexMap::len).sum()
    }

    /// What they cost.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.bytes
    }

    /// A client begins a request. It is `doubtful` if changes of the key are not heard of.
    pub(super) fn begin(&mut self, id: u64, pool: usize, key: &[u8], with: Use, doubtful: bool) -> Due {
        if self.keys.len() <= pool {
            self.keys.resize_with(pool + 1, IndexMap::new);
        }
        if let Some(keys) = self.keys.get_mut(pool) {
            if !keys.contains_key(key) {
                self.bytes += key.len() + ENTRY_BYTES;
            }
            let holders = keys.entry(key.into()).or_default();
            let at = holders.iter().position(|holder| holder.id == id).unwrap_or_else(|| {
                holders.push(Holder::new(id));
                holders.len() - 1
            });
            if let Some(holder) = holders.get_mut(at) {
                match with {
                    Use::Read | Use::ReadUnderPrefix => {
                        holder.reads += 1;
                        holder.doubtful |= doubtful;
                    }
                    Use::Write | Use::WriteUnderPrefix => holder.writes += 1,
                }
            }
        }
        Due { pool, key: key.into(), with, epoch: self.epoch }
    }

    /// The request has been answered.
    pub(super) fn end(&mut self, id: u64, due: &Due, written: Written) -> Afterwards {
        if due.epoch != self.epoch {
            return match (due.with, written) {
                (Use::Write | Use::WriteUnderPrefix, _) => Afterwards::Nothing, // Everything was told to be invalid.
                (Use::Read | Use::ReadUnderPrefix, _) => Afterwards::Changed,
            };
        }
        let Some(keys) = self.keys.get_mut(due.pool) else { return Afterwards::Nothing };
        let Some(holders) = keys.get_mut(&due.key) else { return Afterwards::Nothing };
        let Some(at) = holders.iter().position(|holder| holder.id == id) else { return Afterwards::Nothing };
        let Some(holder) = holders.get_mut(at) else { return Afterwards::Nothing };
        let tell = match due.with {
            Use::Read | Use::ReadUnderPrefix => {
                holder.reads = holder.reads.saturating_sub(1);
                holder.holds |= due.with == Use::Read && !holder.doubtful;
                let tell = holder.doubtful;
                holder.doubtful &= holder.reads > 0;
                tell
            }
            Use::Write | Use::WriteUnderPrefix => {
                holder.writes = holder.writes.saturating_sub(1);
                match written {
                    Written::LastDecides if holder.writes > 0 => false,
                    Written::Told | Written::LastDecides => {
                        let is_told = holder.holds || due.with == Use::WriteUnderPrefix;
                        std::mem::take(&mut holder.changed) && is_told
                    }
                    Written::Silently => {
                        // As with one server: who wrote has to read before it hears of the next write.
                        holder.holds = false;
                        holder.changed &= holder.writes > 0;
                        false
                    }
                }
            }
        };
        if tell && due.with != Use::ReadUnderPrefix {
            holder.holds = false;
        }
        if !holder.is_needed() {
            holders.swap_remove(at);
            self.forget_if_empty(due.pool, &due.key);
        }
        if tell { Afterwards::Changed } else { Afterwards::Nothing }
    }

    /// The key has changed: `tell` is told each client that has read it and can be told now.
    pub(super) fn changed(&mut self, pool: usize, key: &[u8], mut tell: impl FnMut(u64)) {
        let Some(holders) = self.keys.get_mut(pool).and_then(|keys| keys.get_mut(key)) else { return };
        holders.retain(|holder| {
            holder.doubtful |= holder.reads > 0;
            if holder.writes > 0 {
                holder.changed = true; // It hears so after the reply to its write.
            } else if std::mem::take(&mut holder.holds) {
                tell(holder.id);
            }
            holder.is_needed()
        });
        if holders.is_empty() {
            self.forget_if_empty(pool, key);
        }
    }

    /// Whether the client hears of the key's change when it is answered: it has a write under way.
    pub(super) fn waits(&self, pool: usize, key: &[u8], id: u64) -> bool {
        let holders = self.keys.get(pool).and_then(|keys| keys.get(key));
        holders.is_some_and(|holders| holders.iter().any(|holder| holder.id == id && holder.writes > 0))
    }

    /// Forgets some key if there is no room for all: `tell` is told its clients. Whether there was one to forget.
    pub(super) fn evict(&mut self, bytes_max: usize, random: usize, mut tell: impl FnMut(u64, usize, &[u8])) -> bool {
        if self.bytes <= bytes_max {
            return false;
        }
        let Some((pool, keys)) = self.keys.iter_mut().enumerate().max_by_key(|(_, keys)| keys.len()) else {
            return false;
        };
        // What is under way is bounded elsewhere, and is never most of the table: one of a few is not.
        let len = keys.len();
        let candidates = (0..len.min(8)).map(|step| random.wrapping_add(step) % len);
        let idle = |at: &usize| {
            keys.get_index(*at).is_some_and(|(_, all)| all.iter().all(|holder| holder.reads + holder.writes == 0))
        };
        let Some(at) = { candidates }.find(idle) else { return false };
        let Some((key, holders)) = keys.swap_remove_index(at) else { return false };
        self.bytes -= key.len() + ENTRY_BYTES;
        holders.iter().for_each(|holder| tell(holder.id, pool, &key));
        true
    }

    /// Forgets all: every client is told that everything is invalid.
    pub(super) fn clear(&mut self) {
        self.epoch += 1;
        self.keys = Vec::new();
        self.bytes = 0;
    }

    fn forget_if_empty(&mut self, pool: usize, key: &[u8]) {
        let Some(keys) = self.keys.get_mut(pool) else { return };
        if keys.get(key).is_some_and(SmallVec::is_empty) && keys.swap_remove(key).is_some() {
            self.bytes -= key.len() + ENTRY_BYTES;
            if keys.capacity() > 8 * keys.len().max(64) {
                keys.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"k";

    fn changed(table: &mut Table) -> Vec<u64> {
        let mut told = Vec::new();
        table.changed(0, KEY, |id| told.push(id));
        told
    }

    fn read(table: &mut Table, id: u64) {
        let due = table.begin(id, 0, KEY, Use::Read, false);
        assert_eq!(table.end(id, &due, Written::Told), Afterwards::Nothing);
    }

    #[test]
    fn who_has_read_is_told_once() {
        let mut table = Table::default();
        read(&mut table, 1);
        read(&mut table, 2);
        assert_eq!(changed(&mut table), [1, 2]);
        assert_eq!(changed(&mut table), [0; 0]);
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }

    #[test]
    fn news_that_overtakes_a_reply_is_told_after_it() {
        let mut table = Table::default();
        read(&mut table, 1);
        let first = table.begin(1, 0, KEY, Use::Read, false);
        let second = table.begin(1, 0, KEY, Use::Read, false);
        assert_eq!(changed(&mut table), [1]); // For what it had before.
        let third = table.begin(1, 0, KEY, Use::Read, false);
        for due in [first, second, third] {
            assert_eq!(table.end(1, &due, Written::Told), Afterwards::Changed);
        }
        assert_eq!(table.len(), 0);
        read(&mut table, 1);
        assert_eq!(changed(&mut table), [1]);
    }

    #[test]
    fn a_read_of_what_nobody_watches_is_told_at_once_to_be_invalid() {
        let mut table = Table::default();
        let due = table.begin(1, 0, KEY, Use::Read, true);
        assert_eq!(table.end(1, &due, Written::Told), Afterwards::Changed);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_read_from_before_all_was_forgotten_is_told_and_leaves_nothing() {
        let mut table = Table::default();
        let old = table.begin(1, 0, KEY, Use::Read, false);
        table.clear();
        let new = table.begin(1, 0, KEY, Use::Read, false);
        assert_eq!(table.end(1, &old, Written::Told), Afterwards::Changed);
        assert_eq!(table.end(1, &new, Written::Told), Afterwards::Nothing);
        assert_eq!(changed(&mut table), [1]);
    }

    #[test]
    fn a_writer_is_told_after_the_reply_to_its_write() {
        let mut table = Table::default();
        read(&mut table, 1);
        read(&mut table, 2);
        let write = table.begin(1, 0, KEY, Use::Write, false);
        assert!(table.waits(0, KEY, 1) && !table.waits(0, KEY, 2));
        assert_eq!(changed(&mut table), [2]);
        assert_eq!(table.end(1, &write, Written::Told), Afterwards::Changed);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_silent_write_ends_what_its_client_holds() {
        let mut table = Table::default();
        read(&mut table, 1);
        let write = table.begin(1, 0, KEY, Use::Write, false);
        assert_eq!(changed(&mut table), [0; 0]);
        assert_eq!(table.end(1, &write, Written::Silently), Afterwards::Nothing);
        assert_eq!(table.len(), 0);
        // One that has changed nothing leaves it as it is.
        read(&mut table, 1);
        let write = table.begin(1, 0, KEY, Use::Write, false);
        assert_eq!(table.end(1, &write, Written::Told), Afterwards::Nothing);
        assert_eq!(changed(&mut table), [1]);
        // What was read behind it is not sure.
        let write = table.begin(1, 0, KEY, Use::Write, false);
        let behind = table.begin(1, 0, KEY, Use::Read, false);
        assert_eq!(changed(&mut table), [0; 0]);
        assert_eq!(table.end(1, &write, Written::Silently), Afterwards::Nothing);
        assert_eq!(table.end(1, &behind, Written::Told), Afterwards::Changed);
    }

    #[test]
    fn who_writes_what_it_has_not_read_is_not_told() {
        let mut table = Table::default();
        for (with, want) in [(Use::Write, Afterwards::Nothing), (Use::WriteUnderPrefix, Afterwards::Changed)] {
            let write = table.begin(1, 0, KEY, with, false);
            assert_eq!(changed(&mut table), [0; 0]);
            assert_eq!(table.end(1, &write, Written::Told), want, "{with:?}");
            assert_eq!(table.len(), 0);
        }
    }

    #[test]
    fn of_several_writes_the_last_decides() {
        let mut table = Table::default();
        let [first, second] = [0; 2].map(|_| table.begin(1, 0, KEY, Use::WriteUnderPrefix, false));
        assert_eq!(changed(&mut table), [0; 0]);
        assert_eq!(table.end(1, &first, Written::LastDecides), Afterwards::Nothing);
        assert_eq!(table.end(1, &second, Written::LastDecides), Afterwards::Changed);
        let [first, second] = [0; 2].map(|_| table.begin(1, 0, KEY, Use::WriteUnderPrefix, false));
        assert_eq!(changed(&mut table), [0; 0]);
        assert_eq!(table.end(1, &first, Written::LastDecides), Afterwards::Nothing);
        assert_eq!(table.end(1, &second, Written::Silently), Afterwards::Nothing);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_reader_under_a_prefix_is_in_the_table_only_while_it_reads() {
        let mut table = Table::default();
        let due = table.begin(1, 0, KEY, Use::ReadUnderPrefix, false);
        assert_eq!(changed(&mut table), [0; 0]);
        assert_eq!(table.end(1, &due, Written::Told), Afterwards::Changed);
        let due = table.begin(1, 0, KEY, Use::ReadUnderPrefix, false);
        assert_eq!(table.end(1, &due, Written::Told), Afterwards::Nothing);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn what_finds_no_room_is_told_to_be_invalid() {
        let mut table = Table::default();
        let due = table.begin(1, 0, b"due", Use::Read, false);
        for key in [b"a", b"b"] {
            let due = table.begin(1, 1, key, Use::Read, false);
            table.end(1, &due, Written::Told);
        }
        let mut told = Vec::new();
        while table.evict(0, 7, |id, pool, key| told.push((id, pool, key.to_vec()))) {}
        assert_eq!(told.len(), 2);
        assert_eq!(table.len(), 1);
        assert_eq!(table.end(1, &due, Written::Told), Afterwards::Nothing);
    }
}
