//! One set of rights: which commands, on which keys, with which channels. A user has one, and may have more.

use smallvec::SmallVec;

use super::Denial;
use crate::command::{
    Args, Flag, IDS_WITH_CONFIGURED, KeyIndexes, KeySpec, Row, all, each_key, generic, glob_exact, lookup_full_name,
};

/// The categories of commands, in the order in which Redis lists them. A test holds them against the table.
pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

const WORD_BITS: usize = 64;
const WORDS: usize = IDS_WITH_CONFIGURED.div_ceil(WORD_BITS);

/// Whether the verb is in the category, named in any case.
pub fn is_in_category(row: &Row, category: &str) -> bool {
    row.about.categories.iter().any(|own| own.eq_ignore_ascii_case(category))
}

/// Every row of the table, subcommands behind their container, and those that stand for the verbs of the file.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    all().iter().flat_map(|row| std::iter::once(row).chain(row.subcommands)).chain(generic())
}

/// A bit for each row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bits([u64; WORDS]);

impl Bits {
    #[inline]
    fn has(&self, id: u16) -> bool {
        let id = usize::from(id);
        self.0.get(id / WORD_BITS).is_some_and(|word| word >> (id % WORD_BITS) & 1 == 1)
    }

    fn set(&mut self, id: u16, to: bool) {
        let id = usize::from(id);
        if let Some(word) = self.0.get_mut(id / WORD_BITS) {
            let bit = 1 << (id % WORD_BITS);
            *word = if to { *word | bit } else { *word & !bit };
        }
    }
}

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) reads: bool,
    pub(super) writes: bool,
}

impl Use {
    pub(super) const BOTH: Self = Self { reads: true, writes: true };

    fn covers(self, other: Self) -> bool {
        (self.reads || !other.reads) && (self.writes || !other.writes)
    }
}

/// A pattern for names of keys, and what keys that match may be used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyPattern {
    pub(super) pattern: Vec<u8>,
    pub(super) may: Use,
}

/// A rule about commands, kept to be shown: `get`, `config|get`, `@read`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) grants: bool,
    pub(super) what: String,
}

/// One set of rights.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent marks, as the rules have them")]
pub struct Selector {
    commands: Bits,
    /// Commands that servers of the future may have, too.
    all_commands: bool,
    /// `+select|0`: a verb without subcommands, allowed with this first argument.
    first_arguments: Vec<(u16, Vec<u8>)>,
    pub(super) all_keys: bool,
    pub(super) keys: Vec<KeyPattern>,
    pub(super) all_channels: bool,
    pub(super) channels: Vec<Vec<u8>>,
    /// Whether what was said of commands began with all or with none.
    pub(super) began_with_all: bool,
    pub(super) said: Vec<Said>,
}

impl Default for Selector {
    fn default() -> Self {
        Self {
            commands: Bits([0; WORDS]),
            all_commands: false,
            first_arguments: Vec::new(),
            all_keys: false,
            keys: Vec::new(),
            all_channels: false,
            channels: Vec::new(),
            began_with_all: false,
            said: Vec::new(),
        }
    }
}

/// Why a rule about commands, keys or channels is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    Syntax,
    UnknownCommand,
    FirstArgumentOfSubcommand,
    KeyAfterAll,
    ChannelAfterAll,
}

// --- rules ----------------------------------------------------------------------------------------------------------

impl Selector {
    /// Everything.
    pub fn unlimited() -> Self {
        let mut selector = Self { all_keys: true, all_channels: true, ..Self::default() };
        selector.set_all(true);
        selector
    }

    /// Takes a rule about commands, keys or channels.
    pub(super) fn apply(&mut self, rule: &str) -> Result<(), Wrong> {
        match rule.to_ascii_lowercase().as_str() {
            "allkeys" | "~*" => {
                self.all_keys = true;
                self.keys.clear();
            }
            "resetkeys" => {
                self.all_keys = false;
                self.keys.clear();
            }
            "allchannels" | "&*" => {
                self.all_channels = true;
                self.channels.clear();
            }
            "resetchannels" => {
                self.all_channels = false;
                self.channels.clear();
            }
            "allcommands" | "+@all" => self.set_all(true),
            "nocommands" | "-@all" => self.set_all(false),
            _ => return self.apply_pattern(rule),
        }
        Ok(())
    }

    fn apply_pattern(&mut self, rule: &str) -> Result<(), Wrong> {
        let mut letters = rule.chars();
        match (letters.next(), letters.as_str()) {
            (Some('~'), pattern) => self.add_key(pattern, Use::BOTH),
            (Some('%'), rest) => {
                let (letters, pattern) = rest.split_once('~').ok_or(Wrong::Syntax)?;
                let may = match letters.to_ascii_uppercase().as_str() {
                    "R" => Use { reads: true, writes: false },
                    "W" => Use { reads: false, writes: true },
                    "RW" | "WR" => Use::BOTH,
                    _ => return Err(Wrong::Syntax),
                };
                self.add_key(pattern, may)
            }
            (Some('&'), pattern) => self.add_channel(pattern),
            (Some(sign @ ('+' | '-')), what) => {
                let what = what.to_ascii_lowercase();
                let grants = sign == '+';
                match what.strip_prefix('@') {
                    Some(category) => self.set_category(grants, category)?,
                    None => self.set_command(grants, &what)?,
                }
                self.note(grants, what);
                Ok(())
            }
            _ => Err(Wrong::Syntax),
        }
    }

    fn add_key(&mut self, pattern: &str, may: Use) -> Result<(), Wrong> {
        if self.all_keys {
            return Err(Wrong::KeyAfterAll);
        }
        match self.keys.iter_mut().find(|known| known.pattern == pattern.as_bytes()) {
            Some(known) => {
                known.may = Use { reads: known.may.reads || may.reads, writes: known.may.writes || may.writes };
            }
            None => self.keys.push(KeyPattern { pattern: pattern.as_bytes().to_vec(), may }),
        }
        Ok(())
    }

    fn add_channel(&mut self, pattern: &str) -> Result<(), Wrong> {
        if self.all_channels {
            return Err(Wrong::ChannelAfterAll);
        }
        if !self.channels.iter().any(|known| known == pattern.as_bytes()) {
            self.channels.push(pattern.as_bytes().to_vec());
        }
        Ok(())
    }

    fn set_all(&mut self, to: bool) {
        self.commands = Bits([if to { u64::MAX } else { 0 }; WORDS]);
        (self.all_commands, self.began_with_all) = (to, to);
        self.first_arguments.clear();
        self.said.clear();
    }

    fn set(&mut self, row: &Row, to: bool) {
        self.commands.set(row.id, to);
        self.all_commands &= to;
        self.first_arguments.retain(|(id, _)| *id != row.id);
        for row in row.subcommands {
            self.set(row, to);
        }
    }

    fn set_category(&mut self, grants: bool, category: &str) -> Result<(), Wrong> {
        if !CATEGORIES.contains(&category) {
            return Err(Wrong::UnknownCommand);
        }
        for row in rows().filter(|row| is_in_category(row, category)) {
            // Not its subcommands: each is in the categories that it is in.
            self.commands.set(row.id, grants);
            self.all_commands &= grants;
            self.first_arguments.retain(|(id, _)| *id != row.id);
        }
        Ok(())
    }

    fn set_command(&mut self, grants: bool, name: &str) -> Result<(), Wrong> {
        let Some((container, sub)) = name.rsplit_once('|').filter(|_| grants) else {
            let row = lookup_full_name(name.as_bytes()).ok_or(Wrong::UnknownCommand)?;
            self.set(row, grants);
            return Ok(());
        };
        let row = lookup_full_name(container.as_bytes()).ok_or(Wrong::UnknownCommand)?;
        if row.name.contains('|') {
            return Err(Wrong::FirstArgumentOfSubcommand);
        }
        if sub.is_empty() {
            return Err(Wrong::Syntax);
        }
        if row.subcommands.is_empty() {
            let allowed = (row.id, sub.as_bytes().to_vec());
            if !self.first_arguments.contains(&allowed) {
                self.first_arguments.push(allowed);
            }
        } else {
            self.set(lookup_full_name(name.as_bytes()).ok_or(Wrong::UnknownCommand)?, true);
        }
        Ok(())
    }

    /// Keeps the rule to be shown. It takes the place of what was said before of the same thing, or of parts of it.
    fn note(&mut self, grants: bool, what: String) {
        let part = format!("{what}|");
        self.said.retain(|said| said.what != what && !said.what.starts_with(&part));
        self.said.push(Said { grants, what });
    }
}

// --- requests ---------------------------------------------------------------------------------------------------------

impl Selector {
    /// Whether nothing is left out.
    pub(super) fn is_unlimited(&self) -> bool {
        self.all_commands && self.all_keys && self.all_channels
    }

    /// Whether it grants this request.
    pub(super) fn check(&self, row: &Row, args: &Args<'_>) -> Result<(), Denial> {
        if !self.grants(row) && !self.grants_first_argument(row, args) {
            return Err(Denial::Command);
        }
        if !self.all_keys && !row.keys.is_empty() {
            self.check_keys(row, args)?;
        }
        if !self.all_channels && row.flags.contains(Flag::Pubsub) {
            self.check_channels(row, args)?;
        }
        Ok(())
    }

    /// Whether it grants the verb with one key, whatever the arguments behind the key are.
    pub(super) fn grants_any_arguments(&self, row: &Row, key: &[u8]) -> bool {
        let spec = row.keys.first();
        self.grants(row)
            && (self.all_keys || spec.is_some_and(|spec| self.may_use(key, stated_use(spec))))
            && !row.flags.contains(Flag::Pubsub)
    }

    /// Nobody is kept from signing in and from leaving.
    #[inline]
    fn grants(&self, row: &Row) -> bool {
        self.commands.has(row.id) || row.flags.contains(Flag::NoAuth)
    }

    fn grants_first_argument(&self, row: &Row, args: &Args<'_>) -> bool {
        let Some(first) = args.get(1) else { return false };
        self.first_arguments.iter().any(|(id, allowed)| *id == row.id && allowed.eq_ignore_ascii_case(first))
    }

    fn check_keys(&self, row: &Row, args: &Args<'_>) -> Result<(), Denial> {
        if let (Some(at), Some(spec)) = (row.single_key_at, row.keys.first()) {
            let at = usize::from(at);
            let key = args.get(at).unwrap_or_default();
            return if self.may_use(key, use_of(row, spec, args)) { Ok(()) } else { Err(Denial::Key(at)) };
        }
        let (mut indexes, mut specs) = (KeyIndexes::new(), SmallVec::<[&KeySpec; 16]>::new());
        if each_key(row, args, &mut indexes, |spec| specs.push(spec)).is_err() {
            return Ok(()); // It names none, or none as it should: the store refuses it.
        }
        let refused = indexes.iter().zip(specs).find(|(at, spec)| {
            let key = args.get(**at as usize).unwrap_or_default();
            !self.may_use(key, use_of(row, spec, args))
        });
        refused.map_or(Ok(()), |(at, _)| Err(Denial::Key(*at as usize)))
    }

    fn may_use(&self, key: &[u8], wanted: Use) -> bool {
        self.keys.iter().any(|known| known.may.covers(wanted) && glob_exact(&known.pattern, key))
    }

    fn check_channels(&self, row: &Row, args: &Args<'_>) -> Result<(), Denial> {
        let (count, are_patterns) = match row.name {
            "subscribe" | "ssubscribe" => (usize::MAX, false),
            "psubscribe" => (usize::MAX, true),
            "publish" | "spublish" => (1, false),
            _ => return Ok(()),
        };
        let has = if are_patterns { Self::has_channel_pattern } else { Self::has_channel };
        let mut named = args.iter().enumerate().skip(1).take(count);
        let refused = named.find(|(_, channel)| !has(self, channel));
        refused.map_or(Ok(()), |(at, _)| Err(Denial::Channel(at)))
    }

    /// Whether it has this channel.
    pub(super) fn has_channel(&self, channel: &[u8]) -> bool {
        self.all_channels || self.channels.iter().any(|known| glob_exact(known, channel))
    }

    /// A pattern is allowed if it was written so in a rule: which channels it takes in is too much to ask.
    pub(super) fn has_channel_pattern(&self, pattern: &[u8]) -> bool {
        self.all_channels || self.channels.iter().any(|known| known == pattern)
    }

    /// Whether it has every channel that `other` has, pattern by pattern.
    pub(super) fn has_channels_of(&self, other: &Self) -> bool {
        self.all_channels
            || (!other.all_channels && other.channels.iter().all(|channel| self.channels.contains(channel)))
    }
}

/// What a specification says that a command does with these keys. Neither reads nor writes, such as `EXISTS`, needs no
/// more than a pattern that matches.
fn stated_use(spec: &KeySpec) -> Use {
    let has = |flag: &str| spec.flags.contains(&flag);
    Use { reads: has("access"), writes: has("insert") || has("delete") || has("update") }
}

/// The same for one request, where it depends on the arguments: `SET` reads with `GET` alone, and `BITFIELD` writes
/// unless it has nothing but `GET`.
fn use_of(row: &Row, spec: &KeySpec, args: &Args<'_>) -> Use {
    if !spec.flags.contains(&"variable_flags") {
        return stated_use(spec);
    }
    match row.name {
        "set" => Use { reads: (3..args.len()).any(|at| args.is_word(at, "GET")), writes: true },
        "bitfield" => bitfield_use(args),
        _ => stated_use(spec),
    }
}

/// `GET type offset` reads; anything else but `OVERFLOW how`, and what is not well-formed, may write.
fn bitfield_use(args: &Args<'_>) -> Use {
    let mut at = 2;
    while at < args.len() {
        at += match () {
            () if args.is_word(at, "GET") && at + 2 < args.len() => 3,
            () if args.is_word(at, "OVERFLOW") && at + 1 < args.len() => 2,
            () => return Use::BOTH,
        };
    }
    Use { reads: true, writes: false }
}
