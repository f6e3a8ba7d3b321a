//! Answers to `COMMAND` and to the `HELP` of a container, from the table, for the verbs quoit serves.
//!
//! The shapes are those of Redis 7.0 in both protocols, checked against a running server. redis-cli asks `COMMAND DOCS`
//! for its completion, drivers ask `COMMAND` and `COMMAND GETKEYS` to route.
//!
//! It deliberately leaves out the `arguments`, `complexity` and `history` of `COMMAND DOCS` and the `notes` of key
//! specifications: clients treat them as optional, and they would be the larger part of the table.

use super::glob::glob;
use super::keys::{Begin, Find, KeyError, KeyIndexes, KeySpec, each_key};
use super::reply::{self, Resp};
use super::{Args, Flag, Row, Unsupported, all, lookup_full_name, resolve};

/// Flags of a key specification that say something about the specification and not about a key.
const SPEC_ONLY_FLAGS: [&str; 3] = ["incomplete", "not_key", "variable_flags"];

/// Answers `COMMAND` or one of its subcommands but `HELP`; `row` is what `resolve` found for `args`.
pub fn command(out: &mut Vec<u8>, resp: Resp, row: &Row, args: &Args<'_>) {
    match row.name {
        "command|count" => reply::integer(out, i64::try_from(served(all()).count()).unwrap_or(i64::MAX)),
        "command|docs" => docs(out, resp, args),
        "command|getkeys" => getkeys(out, resp, args, Listed::Keys),
        "command|getkeysandflags" => getkeys(out, resp, args, Listed::KeysAndFlags),
        "command|info" if args.len() > 2 => info_of(out, resp, args),
        "command|list" => list(out, args),
        _ => {
            reply::array_header(out, served(all()).count());
            served(all()).for_each(|row| info(out, resp, row));
        }
    }
}

/// Answers `CONFIG HELP` and its like; `row` is what `resolve` found, the container's `help`.
pub fn help(out: &mut Vec<u8>, row: &Row) {
    let container = row.name.split('|').next().unwrap_or_default();
    let name = container.to_ascii_uppercase();
    let subcommands = || lookup_full_name(container.as_bytes()).into_iter().flat_map(|row| served(row.subcommands));
    reply::array_header(out, 1 + 2 * subcommands().count());
    reply::simple(out, &format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for row in subcommands() {
        reply::simple(out, &row.name.split('|').nth(1).unwrap_or_default().to_ascii_uppercase());
        reply::simple(out, &format!("    {}", row.about.summary));
    }
}

fn served(rows: &'static [Row]) -> impl Iterator<Item = &'static Row> {
    rows.iter().filter(|row| row.is_served())
}

fn named(args: &Args<'_>) -> impl Iterator<Item = Option<&'static Row>> {
    args.iter().skip(2).map(|name| lookup_full_name(name).filter(|row| row.is_served()))
}

// --- INFO -----------------------------------------------------------------------------------------------------------

fn info_of(out: &mut Vec<u8>, resp: Resp, args: &Args<'_>) {
    reply::array_header(out, args.len().saturating_sub(2));
    for row in named(args) {
        match row {
            Some(row) => info(out, resp, row),
            // The servers answer a null bulk string here although an array would stand here.
            None => reply::null(out, resp),
        }
    }
}

/// The ten elements of one command.
fn info(out: &mut Vec<u8>, resp: Resp, row: &Row) {
    let about = row.about;
    let (first, last, step) = about.position;
    reply::array_header(out, 10);
    reply::bulk(out, row.name.as_bytes());
    reply::integer(out, row.arity.into());
    reply::set_header(out, resp, row.flags.len());
    row.flags.iter().for_each(|flag| reply::simple(out, flag.as_str()));
    for number in [first, last, step] {
        reply::integer(out, number.into());
    }
    reply::set_header(out, resp, about.categories.len());
    about.categories.iter().for_each(|category| reply::simple(out, &format!("@{category}")));
    reply::set_header(out, resp, about.tips.len());
    about.tips.iter().for_each(|tip| reply::bulk(out, tip.as_bytes()));
    reply::set_header(out, resp, row.keys.len());
    row.keys.iter().for_each(|spec| key_spec(out, resp, spec));
    if row.subcommands.is_empty() {
        reply::set_header(out, resp, 0);
    } else {
        reply::array_header(out, served(row.subcommands).count());
        served(row.subcommands).for_each(|row| info(out, resp, row));
    }
}

fn key_spec(out: &mut Vec<u8>, resp: Resp, spec: &KeySpec) {
    reply::map_header(out, resp, 3);
    reply::bulk(out, b"flags");
    reply::set_header(out, resp, spec.flags.len());
    spec.flags.iter().for_each(|flag| reply::simple(out, flag));
    reply::bulk(out, b"begin_search");
    match spec.begin {
        Begin::Index(index) => {
            typed(out, resp, "index", 1);
            number(out, "index", index.into());
        }
        Begin::Keyword { word, from } => {
            typed(out, resp, "keyword", 2);
            reply::bulk(out, b"keyword");
            reply::bulk(out, word.as_bytes());
            number(out, "startfrom", from.into());
        }
        Begin::Unknown => typed(out, resp, "unknown", 0),
    }
    reply::bulk(out, b"find_keys");
    match spec.find {
        Find::Range { last, step, limit } => {
            typed(out, resp, "range", 3);
            number(out, "lastkey", last.into());
            number(out, "keystep", step.into());
            number(out, "limit", limit.into());
        }
        Find::KeyCount { at, first, step } => {
            typed(out, resp, "keynum", 3);
            number(out, "keynumidx", at.into());
            number(out, "firstkey", first.into());
            number(out, "keystep", step.into());
        }
        Find::Unknown => typed(out, resp, "unknown", 0),
    }
}

/// A map of a type and its `fields` numbers, whose head this is.
fn typed(out: &mut Vec<u8>, resp: Resp, name: &str, fields: usize) {
    reply::map_header(out, resp, 2);
    reply::bulk(out, b"type");
    reply::bulk(out, name.as_bytes());
    reply::bulk(out, b"spec");
    reply::map_header(out, resp, fields);
}

fn number(out: &mut Vec<u8>, name: &str, value: i64) {
    reply::bulk(out, name.as_bytes());
    reply::integer(out, value);
}

// --- DOCS -----------------------------------------------------------------------------------------------------------

fn docs(out: &mut Vec<u8>, resp: Resp, args: &Args<'_>) {
    if args.len() > 2 {
        reply::map_header(out, resp, named(args).flatten().count());
        named(args).flatten().for_each(|row| doc(out, resp, row));
    } else {
        reply::map_header(out, resp, served(all()).count());
        served(all()).for_each(|row| doc(out, resp, row));
    }
}

fn doc(out: &mut Vec<u8>, resp: Resp, row: &Row) {
    let about = row.about;
    let texts = [("summary", about.summary), ("since", about.since), ("group", about.group)];
    let texts = || texts.iter().filter(|(_, text)| !text.is_empty());
    let has_subcommands = !row.subcommands.is_empty();
    reply::bulk(out, row.name.as_bytes());
    reply::map_header(out, resp, texts().count() + usize::from(has_subcommands));
    for (name, text) in texts() {
        reply::bulk(out, name.as_bytes());
        reply::bulk(out, text.as_bytes());
    }
    if has_subcommands {
        reply::bulk(out, b"subcommands");
        reply::map_header(out, resp, served(row.subcommands).count());
        served(row.subcommands).for_each(|row| doc(out, resp, row));
    }
}

// --- LIST -----------------------------------------------------------------------------------------------------------

fn list(out: &mut Vec<u8>, args: &Args<'_>) {
    let filter = match (args.len(), args.get(3), args.get(4)) {
        (2, _, _) => Filter::None,
        (5, Some(kind), Some(value)) if args.is_word(2, "FILTERBY") => match kind.to_ascii_uppercase().as_slice() {
            b"MODULE" => Filter::Module,
            b"ACLCAT" => Filter::Category(value),
            b"PATTERN" => Filter::Pattern(value),
            _ => return reply::syntax_error(out),
        },
        _ => return reply::syntax_error(out),
    };
    let rows = || served(all()).flat_map(|row| std::iter::once(row).chain(served(row.subcommands)));
    let listed = || rows().filter(|row| filter.takes(row));
    reply::array_header(out, listed().count());
    listed().for_each(|row| reply::bulk(out, row.name.as_bytes()));
}

enum Filter<'a> {
    None,
    /// quoit knows no modules.
    Module,
    Category(&'a [u8]),
    Pattern(&'a [u8]),
}

impl Filter<'_> {
    fn takes(&self, row: &Row) -> bool {
        match self {
            Self::None => true,
            Self::Module => false,
            Self::Category(name) => {
                row.about.categories.iter().any(|category| category.as_bytes().eq_ignore_ascii_case(name))
            }
            Self::Pattern(pattern) => glob(pattern, row.name.as_bytes()),
        }
    }
}

// --- GETKEYS ----------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy)]
enum Listed {
    Keys,
    KeysAndFlags,
}

fn getkeys(out: &mut Vec<u8>, resp: Resp, args: &Args<'_>, listed: Listed) {
    let request = args.skip(2);
    let row = match resolve(&request) {
        Ok(row) => row,
        // An odd MSET is no request, but the servers name its keys.
        Err(Unsupported::WrongArity(row)) if row.takes(request.len()) => row,
        Err(Unsupported::WrongArity(_)) => return reply::getkeys_arity(out),
        Err(Unsupported::UnknownCommand | Unsupported::UnknownSubcommand(_)) => return reply::getkeys_unknown(out),
    };
    let mut indexes = KeyIndexes::new();
    let mut specs = Vec::new();
    match each_key(row, &request, &mut indexes, |spec| specs.push(spec)) {
        Ok(()) => {}
        Err(_) if row.flags.contains(Flag::NoMandatoryKeys) => return reply::array_header(out, 0),
        Err(KeyError::NoKeys) if row.keys.iter().all(|spec| spec.flags.contains(&"not_key")) => {
            return reply::getkeys_none(out);
        }
        Err(KeyError::NoKeys | KeyError::Malformed) => return reply::getkeys_malformed(out),
    }
    reply::array_header(out, indexes.len());
    for (index, spec) in indexes.iter().zip(specs) {
        let key = request.get(*index as usize).unwrap_or_default();
        match listed {
            Listed::Keys => reply::bulk(out, key),
            Listed::KeysAndFlags => {
                let flags = narrower_flags(row, &request).unwrap_or(spec.flags);
                let flags = || flags.iter().filter(|flag| !SPEC_ONLY_FLAGS.contains(flag));
                reply::array_header(out, 2);
                reply::bulk(out, key);
                reply::set_header(out, resp, flags().count());
                flags().for_each(|flag| reply::simple(out, flag));
            }
        }
    }
}

/// What these arguments do with the key where that is less than what the verb may do: `SET` without `GET` reads nothing, and
/// `BITFIELD` of nothing but `GET` writes nothing.
fn narrower_flags(row: &Row, request: &Args<'_>) -> Option<&'static [&'static str]> {
    match row.name {
        "set" if !(3..request.len()).any(|at| request.is_word(at, "GET")) => Some(&["OW", "update"]),
        "bitfield" => {
            let mut at = 2;
            while at < request.len() {
                at += match () {
                    () if request.is_word(at, "GET") && at + 2 < request.len() => 3,
                    () if request.is_word(at, "OVERFLOW") && at + 1 < request.len() => 2,
                    () => return None,
                };
            }
            Some(&["RO", "access"])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::OwnedArgs;
    use super::super::{Handling, LocalVerb};
    use super::*;

    fn ask(request: &str, resp: Resp) -> String {
        let args = OwnedArgs::new(request.split(' '));
        let row = resolve(&args.view()).unwrap();
        let mut out = Vec::new();
        match row.handling {
            Handling::Local(LocalVerb::Command) => command(&mut out, resp, row, &args.view()),
            Handling::Local(LocalVerb::Help) => help(&mut out, row),
            _ => panic!("{request} is not answered here"),
        }
        String::from_utf8(out).unwrap().replace("\r\n", " ").trim_end().to_owned()
    }

    #[track_caller]
    fn check(request: &str, want: &str) {
        assert_eq!(ask(request, Resp::Two), want, "{request}");
    }

    #[test]
    fn getkeys_names_keys_or_says_why_not() {
        check("COMMAND GETKEYS GET k", "*1 $1 k");
        check("COMMAND GETKEYS MSET a 1 b", "*2 $1 a $1 b");
        check("COMMAND GETKEYS EVAL x 0", "*0");
        check("COMMAND GETKEYS ZUNION 2 a", "-ERR Invalid arguments specified for command");
        check("COMMAND GETKEYS GET a b", "-ERR Invalid number of arguments specified for command");
        check("COMMAND GETKEYS CONFIG GET x", "-ERR The command has no key arguments");
        check("COMMAND GETKEYS CONFIG nope", "-ERR Invalid command specified");
        check("COMMAND GETKEYSANDFLAGS SET a b", "*1 *2 $1 a *2 +OW +update");
        check("COMMAND GETKEYSANDFLAGS SET a b GET", "*1 *2 $1 a *3 +RW +access +update");
        check("COMMAND GETKEYSANDFLAGS BITFIELD a OVERFLOW FAIL GET u8 0", "*1 *2 $1 a *2 +RO +access");
        check("COMMAND GETKEYSANDFLAGS BITFIELD a GET u8 0 SET u8 0 1", "*1 *2 $1 a *3 +RW +access +update");
        check("COMMAND GETKEYSANDFLAGS RENAME a b", "*2 *2 $1 a *3 +RW +access +delete *2 $1 b *2 +OW +update");
    }

    #[test]
    fn list_filters() {
        check("COMMAND LIST FILTERBY PATTERN xre?d", "*1 $5 xread");
        check(
            "COMMAND LIST FILTERBY PATTERN CONFIG*",
            "*5 $6 config $10 config|get $11 config|help $16 config|resetstat $10 config|set",
        );
        check("COMMAND LIST FILTERBY MODULE x", "*0");
        check("COMMAND LIST FILTERBY ACLCAT nope", "*0");
        check("COMMAND LIST FILTERBY ACLCAT", "-ERR syntax error");
        check("COMMAND LIST nonsense", "-ERR syntax error");
    }

    #[test]
    fn docs_and_info_leave_out_what_is_not_served() {
        check("COMMAND DOCS shutdown post clusterscan cluster|reset nonesuch", "*0");
        check("COMMAND INFO shutdown nonesuch", "*2 $-1 $-1");
        assert!(ask("COMMAND DOCS get", Resp::Three).starts_with("%1 $3 get %3 $7 summary $"));
        assert!(ask("COMMAND DOCS", Resp::Two).contains("$3 set *6 $7 summary"));
        let count: usize = ask("COMMAND COUNT", Resp::Two).trim_start_matches(':').parse().unwrap();
        assert!(ask("COMMAND", Resp::Two).starts_with(&format!("*{count} *10 ")));
    }

    #[test]
    fn help_lists_the_served_subcommands() {
        let help = ask("CONFIG HELP", Resp::Two);
        assert!(
            help.starts_with("*9 +CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are: +GET + "),
            "{help}"
        );
    }
}
