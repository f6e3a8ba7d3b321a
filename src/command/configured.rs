//! Verbs that the file adds to the table: those of modules, and those that a store has under another name.
//!
//! # Invariants
//! - No verb of the table is changed. They are looked for only where the table has nothing.
//! - A definition has one row for the life of the process, so that reloads leave nothing behind.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::table::IDS;
use super::{
    About, Args, Begin, Find, Flag, Flags, Handling, KeySpec, Replication, Row, Unsupported, VerbClass, lookup, resolve,
};

/// How many numbers rows have, these among them: all that read have one, and all that write.
pub const IDS_WITH_CONFIGURED: usize = IDS + 2;

/// Where a verb has its keys, and what it does with them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Verb {
    /// In lower case.
    pub name: String,
    /// The place of its first key; the verb is 0.
    pub first_key: u32,
    /// The place of its last key, from the first one; negative: from the end.
    pub last_key: i32,
    /// The distance of two keys.
    pub key_step: u32,
    /// Whether it may change its keys.
    pub writes: bool,
}

/// The verbs that a file adds.
#[derive(Debug, Clone, Default)]
pub struct Configured(HashMap<Vec<u8>, &'static Row>);

impl Configured {
    /// Adds a verb. Whether there was none of its name, here or in the table.
    pub fn add(&mut self, verb: &Verb) -> bool {
        let is_new = lookup(verb.name.as_bytes()).is_none() && !self.0.contains_key(verb.name.as_bytes());
        if is_new {
            self.0.insert(verb.name.clone().into_bytes(), row_of(verb));
        }
        is_new
    }

    /// The row that decides about a request.
    ///
    /// # Errors
    /// Where no row fits.
    #[inline]
    pub fn resolve(&self, args: &Args<'_>) -> Result<&'static Row, Unsupported> {
        match resolve(args) {
            Err(Unsupported::UnknownCommand) if !self.0.is_empty() => self.find(args),
            resolved => resolved,
        }
    }

    #[cold]
    fn find(&self, args: &Args<'_>) -> Result<&'static Row, Unsupported> {
        let name = args.get(0).unwrap_or_default().to_ascii_lowercase();
        let row = *self.0.get(&name).ok_or(Unsupported::UnknownCommand)?;
        if row.takes(args.len()) { Ok(row) } else { Err(Unsupported::WrongArity(row)) }
    }
}

/// What stands for all of them where rights are given by category: one row that reads, and one that writes.
pub fn generic() -> [&'static Row; 2] {
    static ROWS: LazyLock<[Row; 2]> = LazyLock::new(|| [generic_row(false), generic_row(true)]);
    let [reads, writes] = &*ROWS;
    [reads, writes]
}

fn generic_row(writes: bool) -> Row {
    Row {
        name: "",
        id: u16::try_from(IDS + usize::from(writes)).unwrap_or(u16::MAX),
        arity: -2,
        flags: if writes { Flags::of(&[Flag::Write]) } else { Flags::of(&[Flag::Readonly]) },
        class: if writes { VerbClass::Write } else { VerbClass::Read },
        handling: Handling::SameNode,
        // What it does nobody knows: one replica runs it, and the others get the states.
        replication: if writes { Replication::Opaque } else { Replication::Read },
        single_key_at: None,
        keys: &[],
        variants: &[],
        subcommands: &[],
        about: if writes { &ABOUT_WRITES } else { &ABOUT_READS },
    }
}

static ABOUT_READS: About =
    About { summary: "", since: "", group: "module", position: (1, 1, 1), categories: &["read", "slow"], tips: &[] };
static ABOUT_WRITES: About = About { categories: &["slow", "write"], ..ABOUT_READS };

fn row_of(verb: &Verb) -> &'static Row {
    static ROWS: LazyLock<Mutex<HashMap<Verb, &'static Row>>> = LazyLock::new(Mutex::default);
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    rows.entry(verb.clone()).or_insert_with(|| {
        let is_single = verb.last_key == 0;
        let spec = KeySpec {
            begin: Begin::Index(verb.first_key),
            find: Find::Range { last: verb.last_key, step: verb.key_step, limit: 0 },
            flags: if verb.writes { &["RW", "access", "update"] } else { &["RO", "access"] },
        };
        let single_key_at = u8::try_from(verb.first_key).ok().filter(|_| is_single);
        // Rows are handed about without an owner; there is one for each definition, whatever is reloaded.
        Box::leak(Box::new(Row {
            name: Box::leak(verb.name.clone().into_boxed_str()),
            arity: -i32::try_from(verb.first_key + 1).unwrap_or(i32::MAX),
            handling: if single_key_at.is_some() { Handling::Forward } else { Handling::SameNode },
            single_key_at,
            keys: Box::leak(Box::new([spec])),
            ..generic_row(verb.writes)
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::super::args::OwnedArgs;
    use super::super::{KeyIndexes, keys};
    use super::*;

    fn verb(name: &str, last_key: i32, writes: bool) -> Verb {
        Verb { name: name.to_owned(), first_key: 1, last_key, key_step: 1, writes }
    }

    #[test]
    fn they_are_found_where_the_table_has_nothing() {
        let mut verbs = Configured::default();
        assert!(verbs.add(&verb("json.get", 0, false)));
        assert!(verbs.add(&verb("json.mget", -2, false)));
        assert!(verbs.add(&verb("json.set", 0, true)));
        assert!(!verbs.add(&verb("get", 0, true)), "the table has it");
        assert!(!verbs.add(&verb("json.set", 0, false)), "it is there already");
        let check = |request: &str, want: Result<&[u32], &str>| {
            let args = OwnedArgs::new(request.split(' '));
            let got = match verbs.resolve(&args.view()) {
                Ok(row) => {
                    let mut found = KeyIndexes::new();
                    keys(row, &args.view(), &mut found).unwrap();
                    Ok(found.to_vec())
                }
                Err(Unsupported::WrongArity(_)) => Err("arity"),
                Err(_) => Err("unknown"),
            };
            assert_eq!(got.as_deref(), want.as_ref().copied(), "{request}");
        };
        check("JSON.GET k $", Ok(&[1]));
        check("json.mget a b c $", Ok(&[1, 2, 3]));
        check("JSON.GET", Err("arity"));
        check("JSON.NONE k", Err("unknown"));
        check("GET k", Ok(&[1]));
    }

    #[test]
    fn a_definition_has_one_row() {
        let (mut one, mut other) = (Configured::default(), Configured::default());
        one.add(&verb("bf.add", 0, true));
        other.add(&verb("bf.add", 0, true));
        let args = OwnedArgs::new(["BF.ADD", "k", "v"]);
        let (Ok(one), Ok(other)) = (one.resolve(&args.view()), other.resolve(&args.view())) else { panic!() };
        assert!(std::ptr::eq(one, other));
        assert_eq!((one.class, one.handling, usize::from(one.id)), (VerbClass::Write, Handling::Forward, IDS + 1));
    }
}
