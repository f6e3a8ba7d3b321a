#!/usr/bin/env python3
"""Writes src/command/table.rs from the facts of real servers and our own decisions.

    tools/generate_commands.py            rewrites the table
    tools/generate_commands.py --print    prints it instead

Facts: tests/data/commands/commands.json, made by tools/dump_commands.py. Decisions: tools/command_decisions.toml.
Stops where a verb has no decision, two decisions, or a decision that would be unsafe on a shared store connection or
between replicas.
Needs Python 3.11 and nothing else; the output depends on the two files alone.
"""

import json
import pathlib
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
FACTS = ROOT / "tests/data/commands/commands.json"
DECISIONS = ROOT / "tools/command_decisions.toml"
TABLE = ROOT / "src/command/table.rs"

# Verbs with one of these flags are forwarded only where a decision says why that is safe.
UNSAFE_FLAGS = {"admin", "blocking", "no_multi", "noscript", "pubsub"}
SLOT_BITS = 12  # as in lookup.rs
MASK = (1 << 64) - 1


def fail(message):
    sys.exit(f"generate_commands: {message}")


# --- decisions ------------------------------------------------------------------------------------------------------


def explicit_decisions(decisions, names):
    """Verb -> the Rust expression of its handling, for every verb a section names."""
    found = {}

    def decide(verb, handling):
        if verb not in names:
            fail(f"a decision names {verb!r}, which no server has")
        if verb in found:
            fail(f"{verb!r} has two decisions")
        found[verb] = handling

    for verb, rule in decisions["split"].items():
        decide(verb, f"Handling::Split(SplitRule::{rule})")
    for verb, rule in decisions["keyspace"].items():
        decide(verb, f"Handling::Keyspace(KeyspaceVerb::{rule})")
    for verb, name in decisions["transaction"].items():
        decide(verb, f"Handling::Transaction(TransactionVerb::{name})")
    for verb, program in decisions["run"].items():
        decide(verb, f"Handling::Run(Program::{program})")
    for verb, rule in decisions["programs"].items():
        decide(verb, f"Handling::Programs(ProgramsVerb::{rule})")
    for verb, rule in decisions["pubsub"].items():
        decide(verb, f"Handling::PubSub(PubSubVerb::{rule})")
    for verb, local in decisions["local"].items():
        decide(verb, f"Handling::Local(LocalVerb::{local})")
    for verb in decisions["blocking"]["verbs"]:
        decide(verb, "Handling::Blocking")
    for verb in decisions["to_database"]["verbs"]:
        decide(verb, "Handling::ToDatabase")
    for section, variant in (("later", "Later"), ("refused", "Refused")):
        for entry in decisions[section]:
            for verb in entry["verbs"]:
                decide(verb, f"Handling::{variant}({text(entry['reason'])})")
    for section, variant in (("forward", "Forward"), ("same_node", "SameNode")):
        for entry in decisions[section]:
            for verb in entry["verbs"]:
                decide(verb, f"Handling::{variant}")
    return found


def handling_of(row, explicit, has_children):
    """A decision, or what the facts settle."""
    name = row["name"]
    container = name.split("|")[0]
    decided = explicit.get(name) or explicit.get(container)
    if decided and (name in explicit or not keyless_decision_hides_keys(row, decided)):
        return decided
    if has_children:
        return f"Handling::Refused({text('a subcommand is missing')})"
    unsafe = UNSAFE_FLAGS.intersection(row["flags"])
    if unsafe:
        fail(f"{name!r} is {sorted(unsafe)} and has no decision")
    if single_key_at(row) is not None:
        return "Handling::Forward"
    if keys_of(row):
        return "Handling::SameNode"
    fail(f"{name!r} has no key and no decision")


def keyless_decision_hides_keys(row, decided):
    """A container's decision must not swallow a subcommand that has a key, unless it declines it."""
    return bool(keys_of(row)) and not ("Later" in decided or "Refused" in decided)


def explicit_classes(decisions, names):
    """Verb -> its class of replication, for every verb the section names."""
    found = {}
    for name, verbs in decisions["replication"].items():
        for verb in verbs:
            if verb not in names:
                fail(f"a class of replication names {verb!r}, which no server has")
            if verb in found:
                fail(f"{verb!r} has two classes of replication")
            found[verb] = camel(name)
    return found


def replication_of(row, explicit, handling):
    """A decision, or what the facts settle; a verb that writes is never settled by silence."""
    name = row["name"]
    found = explicit.get(name)
    # Pools that keep several copies have one database: quoit itself says that there is no other.
    if found is None and (handling.startswith("Handling::Local") or handling == "Handling::ToDatabase"):
        found = "Local"
    if found is None and handling.startswith("Handling::Refused"):
        found = "Refused"
    if found is None and "readonly" in row["flags"] and any("not_key" not in spec["flags"] for spec in keys_of(row)):
        found = "Read"
    found = found or explicit.get(name.split("|")[0])
    if found is None:
        fail(f"{name!r} has no class of replication")
    check_replication(row, found)
    return found


def check_replication(row, found):
    """What a class promises, as far as the facts can tell."""
    name, flags = row["name"], row["flags"]
    if found == "Read" and "write" in flags:
        fail(f"{name!r} writes and cannot be Read")
    if found in ("Blind", "Update", "Opaque") and "readonly" in flags:
        fail(f"{name!r} is readonly and cannot be {found}")
    if found in ("Blind", "Update") and "noscript" in flags:
        fail(f"{name!r} is not allowed in scripts and cannot be {found}")
    if found in ("Blind", "Update") and len(keys_of(row)) != 1:
        fail(f"{name!r} has several kinds of keys and cannot be {found}")


# --- facts ----------------------------------------------------------------------------------------------------------


def keys_of(row):
    return row.get("keys", [])


def single_key_at(row):
    specs = keys_of(row)
    if len(specs) != 1:
        return None
    begin, find = specs[0]["begin"], specs[0]["find"]
    single = begin["type"] == "index" and find["type"] == "range" and find["lastkey"] == 0
    return begin["index"] if single and "not_key" not in specs[0]["flags"] else None


def arity_of(row):
    """A module's command says "any number" and counts for itself: ask for the key at least."""
    at = single_key_at(row)
    return -(at + 1) if at is not None and -(at + 1) < row["arity"] < 0 else row["arity"]


# --- Rust -----------------------------------------------------------------------------------------------------------


def text(value):
    return json.dumps(value, ensure_ascii=False)


def texts(values):
    return "&[" + ", ".join(text(value) for value in values) + "]"


def camel(word):
    return "".join(part.capitalize() for part in word.split("_"))


def key_spec(spec):
    begin, find = spec["begin"], spec["find"]
    if "unknown" in (begin["type"], find["type"]):
        begin_rust, find_rust = "Begin::Unknown", "Find::Unknown"
    else:
        if begin["type"] == "index":
            begin_rust = f"Begin::Index({begin['index']})"
        else:
            begin_rust = f"Begin::Keyword {{ word: {text(begin['keyword'])}, from: {begin['startfrom']} }}"
        if find["type"] == "range":
            find_rust = f"Find::Range {{ last: {find['lastkey']}, step: {find['keystep']}, limit: {find['limit']} }}"
        else:
            find_rust = (
                f"Find::KeyCount {{ at: {find['keynumidx']}, first: {find['firstkey']}, step: {find['keystep']} }}"
            )
    return f"KeySpec {{ begin: {begin_rust}, find: {find_rust}, flags: {texts(spec['flags'])} }}"


class Table:
    """The rows as Rust text, with the lists that many rows share taken out as constants."""

    def __init__(self, rows, decisions):
        self.rows = {row["name"]: row for row in rows}
        self.explicit = explicit_decisions(decisions, self.rows)
        self.classes = explicit_classes(decisions, self.rows)
        # A number for each name, without gaps: users' rights are a bit a row. A variant has its verb's.
        self.ids = {name: number for number, name in enumerate(self.rows)}
        self.variants = {}
        for entry in decisions["variant"]:
            if entry.get("blocking"):
                handling = "Handling::Blocking"
            elif entry.get("to_database"):
                handling = "Handling::ToDatabase"
            elif "later" in entry:
                handling = f"Handling::Later({text(entry['later'])})"
            else:
                handling = f"Handling::Refused({text(entry['refused'])})"
            for verb in entry["verbs"]:
                self.variants.setdefault(verb, []).append((entry["when"], handling))
        self.shared = {"KEYS": {}, "FLAGS": {}}

    def share(self, kind, rust):
        return self.shared[kind].setdefault(rust, f"{kind}_{len(self.shared[kind])}")

    def row(self, row, handling=None):
        name = row["name"]
        children = [] if "|" in name else [child for child in self.rows if child.startswith(name + "|")]
        own = handling is None
        handling = handling or handling_of(row, self.explicit, bool(children))
        refused_variant = not own and handling.startswith("Handling::Refused")
        replication = "Refused" if refused_variant else replication_of(row, self.classes, handling)
        at = single_key_at(row) if handling == "Handling::Forward" else None
        if handling == "Handling::Forward" and at is None:
            fail(f"{name!r} is forwarded but has not one key at a fixed place")
        specs = keys_of(row)
        keys = self.share("KEYS", "&[" + ", ".join(key_spec(spec) for spec in specs) + "]") if specs else "&[]"
        flags = "Flags::of(&[" + ", ".join("Flag::" + camel(flag) for flag in row["flags"]) + "])"
        flags = self.share("FLAGS", flags)
        access = "Write" if "write" in row["flags"] else "Read" if "readonly" in row["flags"] else "Other"
        position = tuple(row.get("position", [0, 0, 0]))
        fields = [
            f"name: {text(name)}",
            f"id: {self.ids[name]}",
            f"arity: {arity_of(row)}",
            f"flags: {flags}",
            f"class: VerbClass::{access}",
            f"handling: {handling}",
            f"replication: Replication::{replication}",
            f"single_key_at: {'None' if at is None else f'Some({at})'}",
            f"keys: {keys}",
        ]
        if own:
            variants = [
                f"Variant {{ when: Condition::{when}, row: {self.row(row, other)} }}"
                for when, other in self.variants.get(name, [])
            ]
            subcommands = ["\n        " + self.row(self.rows[child]) for child in children]
            closing = "\n    " if subcommands else ""
        else:
            variants, subcommands, closing = [], [], ""
        fields += [
            "variants: &[" + ", ".join(variants) + "]",
            "subcommands: &[" + ",".join(subcommands) + closing + "]",
            "about: " + self.about(row, position),
        ]
        return "Row { " + ", ".join(fields) + " }"

    def about(self, row, position):
        return (
            f"&About {{ summary: {text(row.get('summary', ''))}, since: {text(row.get('since', ''))}, "
            f"group: {text(row.get('group', ''))}, position: {position}, "
            f"categories: {texts(row.get('categories', []))}, tips: {texts(row.get('tips', []))} }}"
        )


def packed(name):
    """As `pack` in lookup.rs: lower case, eight bytes a word, the first byte lowest."""
    raw = name.encode().ljust(24, b"\0")
    return [int.from_bytes(raw[at : at + 8], "little") for at in (0, 8, 16)]


def slot(name, multiplier):
    """As `slot` in lookup.rs."""
    first, second, third = packed(name)
    mixed = first ^ (second << 23 | second >> 41) & MASK ^ (third << 47 | third >> 17) & MASK
    return (mixed * multiplier & MASK) >> (64 - SLOT_BITS)


def find_multiplier(names):
    """The first odd number of a fixed sequence that gives every name a slot of its own."""
    state = 0
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        mixed = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & MASK
        multiplier = (mixed ^ mixed >> 31) | 1
        seen = set()
        for name in names:
            place = slot(name, multiplier)
            if place in seen:
                break
            seen.add(place)
        else:
            return multiplier


def grouped(number):
    digits = f"{number:016x}"
    return "0x" + "_".join(digits[at : at + 4] for at in range(0, 16, 4))


HEADER = """\
//! The command table: one row a verb, by name. GENERATED by `tools/generate_commands.py`, do not edit.
//!
//! Facts come from the `COMMAND` replies of {servers}
//! (`tests/data/commands/commands.json`), handling and replication from `tools/command_decisions.toml`. Summaries are
//! those of Redis up to 7.0 and of Valkey (BSD licence).

use super::keys::{{Begin, Find, KeySpec, KeySpecs}};
use super::row::{{
    About, Flag, Flags, Handling, KeyspaceVerb, LocalVerb, Program, ProgramsVerb, PubSubVerb, Replication, Row, SplitRule,
    TransactionVerb, VerbClass,
}};
use super::variant::{{Condition, Variant}};

/// Gives every name of `ROWS` a slot of its own in `lookup`.
pub(super) const MULTIPLIER: u64 = {multiplier};
"""


def generate():
    rows = json.loads(FACTS.read_text())
    decisions = tomllib.loads(DECISIONS.read_text())
    servers = sorted({server for row in rows for server in row["servers"]})
    rows = sorted(rows + decisions["extra"], key=lambda row: row["name"])
    table = Table(rows, decisions)
    tops = [row for row in rows if "|" not in row["name"]]
    lines = [f"    {table.row(row)}," for row in tops]
    out = [HEADER.format(multiplier=grouped(find_multiplier([row["name"] for row in tops])), servers=", ".join(servers))]
    for kind, rust_type in (("FLAGS", "Flags"), ("KEYS", "KeySpecs")):
        out += [f"const {name}: {rust_type} = {rust};" for rust, name in table.shared[kind].items()]
        out.append("")
    out.append("/// How many rows there are, subcommands included: one more than the highest `id`.")
    out.append(f"pub const IDS: usize = {len(table.ids)};")
    out.append("")
    out.append("/// Sorted by name.")
    out.append(f"pub(super) static ROWS: [Row; {len(tops)}] = [")
    out += lines
    out.append("];")
    return "\n".join(out) + "\n"


def main():
    rust = generate()
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(rust)
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        TABLE.write_text(rust)


if __name__ == "__main__":
    main()
