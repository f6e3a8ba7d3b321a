//! The first half of a check: keys, types and bounds, by a walk of the document along the schema.
//!
//! serde stops at the first thing it dislikes. This walk goes on, blames each unknown key, missing key, wrong type and
//! number out of bounds, and takes what it blamed out of the document. What is left always deserializes, so the rules
//! of [`super::check`] still run on it and the reader gets every fault in one pass.
//!
//! # Invariants
//! - The walk goes no deeper than the schema, whatever the document.

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::faults::{Fault, Faults, nearest};

/// What people write who come from elsewhere, and what it is called here.
const ELSEWHERE: [(&str, &str); 14] = [
    ("servers", "each server is a `[[pool.node]]` with a `name` and an `address`"),
    ("nodes", "each node is a `[[pool.node]]`"),
    ("pools", "each pool is a `[[pool]]`"),
    ("listeners", "each listener is a `[[listener]]`"),
    ("users", "each user is a `[[user]]` with a `name` and `rules`"),
    ("routes", "each route is a `[[listener.route]]`"),
    ("listen", "the address of a listener is `bind` in `[[listener]]`"),
    ("distribution", "the rule that places keys is `placement` in `[pool.ring]`"),
    ("timeout", "timeouts are `connect_timeout_ms`, `queue_timeout_ms` and `service_timeout_ms` in `[[pool]]`"),
    (
        "server_connections",
        "a worker has one connection to a node for each protocol version, so there is nothing to set",
    ),
    ("auto_eject_hosts", "a failing node's keys are never served by another node, so there is nothing to set"),
    ("level", "the level is set in `[[pool]]`, and for some of its keys in `[[listener.route]]`"),
    ("password", "secrets do not stand in this file: use `password_file` or `password_env`"),
    ("token", "secrets do not stand in this file: use `token_file` or `token_env`"),
];

/// What the names of keys hold whose values must not be shown. Such keys do not exist, but people write them.
const SECRETS: [&str; 5] = ["password", "token", "secret", "auth", "requirepass"];

/// Walks `document` along `schema`, reports what does not fit to `faults`, and removes it. Gives the paths of the settings
/// that were removed, or were probably meant by a key that is none: what is missing at such a path was not left out.
pub(super) fn walk(schema: &Value, document: &mut Spanned<DeTable<'_>>, faults: &mut Faults) -> BTreeSet<String> {
    let span = document.span();
    let mut walk = Walk { root: schema, faults, removed: BTreeSet::new() };
    walk.table(schema, document.get_mut(), &span, "");
    walk.removed
}

/// Masks what looks like a secret in a text that is no TOML, where there are no values to mask.
pub(super) fn mask_lines(text: &str, faults: &mut Faults) {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        if let Some((key, value)) = line.split_once(['=', ':'])
            && is_secret(key)
        {
            faults.mask(&(end - value.len()..end));
        }
        start = end;
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    SECRETS.iter().any(|word| key.contains(word))
}

struct Walk<'s, 'f> {
    root: &'s Value,
    faults: &'f mut Faults,
    removed: BTreeSet<String>,
}

impl Walk<'_, '_> {
    fn table(&mut self, schema: &Value, table: &mut DeTable<'_>, span: &Range<usize>, path: &str) {
        for required in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            if !table.contains_key(required) {
                self.faults.push(missing(span, required, path));
            }
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        for (key, mut value) in std::mem::take(table) {
            let name = key.get_ref();
            let Some(property) = properties.and_then(|properties| properties.get(name.as_ref())) else {
                let known = properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str));
                let fault = self.unknown(&key.span(), name, known, path);
                self.faults.push(fault);
                if is_secret(name) {
                    self.faults.mask(&value.span());
                }
                continue;
            };
            let path = below(path, name);
            if self.fits(property, &mut value, &key.span(), &path) {
                table.insert(key, value);
            } else {
                self.removed.insert(path);
            }
        }
    }

    /// Whether the value has the property's type and lies within its bounds; reports it otherwise. Tables and arrays
    /// always fit once their unfit parts are gone.
    fn fits(&mut self, schema: &Value, value: &mut Spanned<DeValue<'_>>, key: &Range<usize>, path: &str) -> bool {
        let span = value.span();
        let expected = schema.get("type").and_then(Value::as_str);
        let fault = match (expected, value.get_mut()) {
            (Some("object"), DeValue::Table(table)) => {
                self.table(schema, table, &span, path);
                return true;
            }
            (Some("array"), DeValue::Array(array)) => {
                let Some(items) = schema.get("items") else { return true };
                let whole = std::mem::replace(array, DeArray::new());
                for mut item in whole {
                    let place = item.span();
                    if self.fits(items, &mut item, &place, path) {
                        array.push(item);
                    }
                }
                return self.within_length(schema, array.len(), &span, key, path);
            }
            (Some("integer"), DeValue::Integer(integer)) => {
                out_of_bounds(schema, i128::from_str_radix(integer.as_str(), integer.radix()).ok(), &span, path)
            }
            (Some("boolean"), DeValue::Boolean(_)) => None,
            (Some("string") | None, DeValue::String(text)) => {
                let choices = choices(schema);
                if choices.is_empty() {
                    return self.within_length(schema, text.len(), &span, key, path);
                }
                (!choices.contains(&text.as_ref())).then(|| not_a_choice(text, &choices, &span, path))
            }
            (_, other) => Some(wrong_type(schema, other, &span, key, path)),
        };
        let fits = fault.is_none();
        if let Some(fault) = fault {
            self.faults.push(fault);
        }
        fits
    }

    /// Whether a string of that many bytes, or an array of that many items, is allowed; reports it otherwise.
    fn within_length(
        &mut self,
        schema: &Value,
        length: usize,
        span: &Range<usize>,
        key: &Range<usize>,
        path: &str,
    ) -> bool {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
        let length = length as u64;
        let (least, most) = (bound("minLength").or(bound("minItems")), bound("maxLength").or(bound("maxItems")));
        if least.is_some_and(|least| length < least) {
            self.faults.push(Fault::new(if span.is_empty() { key } else { span }, format!("`{path}` is empty")));
            return false;
        }
        if let Some(most) = most.filter(|most| *most < length) {
            let fault = Fault::new(span, format!("`{path}` is too long")).label(format!("{length}, at most {most}"));
            self.faults.push(fault);
            return false;
        }
        true
    }

    fn unknown<'k>(
        &mut self,
        span: &Range<usize>,
        name: &str,
        known: impl Iterator<Item = &'k str> + Clone,
        path: &str,
    ) -> Fault {
        let place = if path.is_empty() { "at the top level".to_owned() } else { format!("in `{path}`") };
        let fault = Fault::new(span, format!("unknown key `{name}` {place}"));
        if let Some((_, help)) = ELSEWHERE.iter().find(|(word, _)| *word == name) {
            return fault.help(*help);
        }
        if let Some(home) = home_of(self.root, name, "") {
            self.removed.insert(below(&home, name));
            let home = if home.is_empty() { "the top level".to_owned() } else { format!("`{home}`") };
            return fault.help(format!("`{name}` belongs to {home}"));
        }
        if let Some(meant) = nearest(name, known.clone()) {
            self.removed.insert(below(path, meant));
            return fault.help(format!("did you mean `{meant}`?"));
        }
        fault.help(format!("known here: {}", known.collect::<Vec<_>>().join(", ")))
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn missing(span: &Range<usize>, name: &str, path: &str) -> Fault {
    if path.is_empty() {
        return Fault::new(&(0..0), format!("there is no `[[{name}]]`")).help(format!("add a `[[{name}]]` table"));
    }
    let fault = Fault::new(span, format!("`{path}` has no `{name}`"));
    if name == "node" {
        return fault.help("add a `[[pool.node]]` table for each store");
    }
    fault.help(format!("add `{name} = …`"))
}

/// The path of a table that has this key, for a key that stands in the wrong one.
fn home_of(schema: &Value, name: &str, path: &str) -> Option<String> {
    let properties = schema.get("properties")?.as_object()?;
    if properties.contains_key(name) {
        return Some(path.to_owned());
    }
    properties.iter().find_map(|(key, property)| {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        home_of(property.get("items").unwrap_or(property), name, &path)
    })
}

/// The words a string may be, if it is not free text.
pub(super) fn choices(schema: &Value) -> Vec<&str> {
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let single = schema.get("const").and_then(Value::as_str);
    let nested = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten().flat_map(choices);
    listed.chain(single).chain(nested).collect()
}

fn not_a_choice(text: &str, choices: &[&str], span: &Range<usize>, path: &str) -> Fault {
    let fault = Fault::new(span, format!("`{path}` cannot be this")).label("unknown value");
    let all = choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
    match (path.rsplit('.').next(), text) {
        (Some("protocol"), "http") => fault.help("HTTP comes with a later version; `redis` is served"),
        (Some("placement"), "random") => fault.help("a random placement cannot find a key again and is not offered"),
        _ => match nearest(text, choices.iter().copied()) {
            Some(meant) => fault.help(format!("did you mean `{meant}`? There are: {all}")),
            None => fault.help(format!("there are: {all}")),
        },
    }
}

fn out_of_bounds(schema: &Value, number: Option<i128>, span: &Range<usize>, path: &str) -> Option<Fault> {
    let bound = |name: &str| schema.get(name).and_then(Value::as_i64).map(i128::from);
    let (least, most) = (bound("minimum").unwrap_or(0), bound("maximum").unwrap_or(i128::from(i64::MAX)));
    if number.is_some_and(|number| least <= number && number <= most) {
        return None;
    }
    let fault = Fault::new(span, format!("`{path}` is out of bounds"));
    Some(fault.label(format!("from {} to {}", grouped(least), grouped(most))))
}

/// A number as TOML lets it be written, so that it can be pasted: `1_000_000`.
pub(super) fn grouped(number: i128) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if 0 < index && (digits.len() - index).is_multiple_of(3) {
            grouped.push('_');
        }
        grouped.push(digit);
    }
    grouped
}

fn wrong_type(schema: &Value, value: &DeValue<'_>, span: &Range<usize>, key: &Range<usize>, path: &str) -> Fault {
    let (expected, help) = match schema.get("type").and_then(Value::as_str) {
        Some("object") => ("a table", Some(format!("write `[{path}]` on a line of its own"))),
        Some("array") if value.is_table() => ("an array of tables", Some(format!("write `[[{path}]]`"))),
        Some("array") => ("an array", None),
        Some("integer") if path.ends_with("_ms") => {
            ("an integer", Some("a number of milliseconds, such as 1_500".to_owned()))
        }
        Some("integer") if path.ends_with("_s") => {
            ("an integer", Some("a number of seconds, such as 86_400".to_owned()))
        }
        Some("integer") if path.contains("_bytes") => {
            ("an integer", Some("a number of bytes, such as 1_048_576".to_owned()))
        }
        Some("integer") => ("an integer", None),
        Some("boolean") => ("`true` or `false`", None),
        _ => ("a string", None),
    };
    let place = if span.is_empty() { key } else { span };
    let fault = Fault::new(place, format!("`{path}` must be {expected}")).label(format!("this is {}", kind(value)));
    match help {
        Some(help) => fault.help(help),
        None => fault,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
