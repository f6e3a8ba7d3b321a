//! twemproxy's `nutcracker.yml` as a configuration of ours: the same ports, the same pools, the same key on the same
//! server.
//!
//! Placement is the part that must not be wrong, and twemproxy does not write down all of it: what it hashes for a
//! server without a name was observed on nutcracker 0.5.0 and is in `ring_name`. Everything else is translated where
//! we have the same thing and left as a comment where we have not.
//!
//! # Invariants
//! - The result is a file that [`super::check_text`] accepts; whatever stands in the way is a fault of the original.
//! - A password in the original does not appear in the result.

use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Range;

use serde::Deserialize;
use serde::de::value::StrDeserializer;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::address::bind;
use super::check::is_name;
use super::faults::{Fault, Faults, nearest};
use super::shape::mask_lines;
use crate::ring::KeyHash;

/// The longest file that is read. A server is a line, and twemproxy itself keeps everything in one process.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// The deepest nesting that is read. The parser recurses and its frames are large; twemproxy itself reads two levels.
const DEPTH_MAX: usize = 40;

/// The port that twemproxy leaves out of a server's place on the ring: memcached's, for libmemcached's sake.
const PORT_LEFT_OUT: &str = "11211";

/// Every key of a pool in twemproxy 0.5.0.
const KEYS: [&str; 18] = [
    "listen",
    "client_connections",
    "hash",
    "hash_tag",
    "distribution",
    "timeout",
    "backlog",
    "tcpkeepalive",
    "reuseport",
    "preconnect",
    "redis",
    "redis_auth",
    "redis_db",
    "server_connections",
    "auto_eject_hosts",
    "server_retry_timeout",
    "server_failure_limit",
    "servers",
];

/// Keys that have no counterpart, and what to know instead.
const NOTES: [(&str, &str); 9] = [
    ("client_connections", "clients are limited for the whole process: `clients_max` in `[proxy]`"),
    ("backlog", "the accept queue has a fixed length"),
    ("tcpkeepalive", "connections to nodes and clients are always kept alive"),
    ("reuseport", "one acceptor hands clients to the workers"),
    ("preconnect", "when to connect to a node is not a setting"),
    ("server_connections", "a worker has one connection to a node for each protocol version"),
    ("auto_eject_hosts", "a failing node's keys are never served by another node; they fail at once until it is back"),
    ("server_retry_timeout", "see `backoff_min_ms` and `backoff_max_ms` in `[pool.breaker]`"),
    ("server_failure_limit", "see `failures` in `[pool.breaker]`"),
];

/// A word, for serde to find the variant of an enum.
type Word<'w> = StrDeserializer<'w, serde::de::value::Error>;

/// A scalar of the original, as text.
#[derive(Debug)]
struct Text {
    value: String,
    span: Range<usize>,
}

/// A pool of the original: its name, its settings, its servers.
struct Original {
    name: Text,
    settings: Vec<(Text, Text)>,
    servers: Vec<Text>,
}

impl Original {
    fn get(&self, key: &str) -> Option<&Text> {
        self.settings.iter().find(|(name, _)| name.value == key).map(|(_, value)| value)
    }

    fn is_true(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.value == "true")
    }
}

/// One line of `servers`, taken apart.
struct Server {
    /// Our name for the node.
    name: String,
    /// What twemproxy hashes, where that is not the name.
    ring_name: Option<String>,
    address: String,
    weight: u32,
}

/// Translates a `nutcracker.yml`. `name` is what faults call it.
///
/// # Errors
/// When the text is not such a file, or asks for what would not behave the same: memcached, a database other than 0,
/// the random distribution, listening on a host name or a Unix socket.
pub fn nutcracker(name: &str, text: &str) -> Result<String, Faults> {
    let mut import = Import { text, faults: Faults::new(name, text) };
    let pools = import.read();
    let body: String = pools.iter().map(|pool| import.pool(pool)).collect();
    if let (true, Err(found)) = (import.faults.is_empty(), super::check_text(name, &body)) {
        // What remains is of the whole, such as one address in two pools' listeners: told without its place.
        for fault in found.iter() {
            import.push(Fault { span: 0..0, related: None, ..fault.clone() });
        }
    }
    let head = format!(
        "#:schema ./quoit.schema.json\n# Translated from {} by `quoit import`. Keys stay on the servers they are on.\n",
        name.replace(char::is_control, "?")
    );
    import.faults.or(Some(head + &body))
}

struct Import<'t> {
    text: &'t str,
    faults: Faults,
}

impl Import<'_> {
    fn push(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    fn read(&mut self) -> Vec<Original> {
        if TEXT_BYTES_MAX < self.text.len() {
            self.push(Fault::new(&(0..0), "the file is longer than 4 MiB"));
            return Vec::new();
        }
        if let Some(line) = too_deep(self.text) {
            self.push(Fault::new(&(0..0), format!("line {line} is nested too deeply")));
            return Vec::new();
        }
        let documents = match MarkedYaml::load_from_str(self.text) {
            Ok(documents) => documents,
            Err(error) => {
                mask_lines(self.text, &mut self.faults);
                let place = self.offset(error.marker().index());
                self.push(Fault::new(&(place..place), format!("this is not YAML: {}", error.info())));
                return Vec::new();
            }
        };
        let Some(YamlData::Mapping(pools)) = documents.first().map(|document| &document.data) else {
            self.push(Fault::new(&(0..0), "there are no pools").help("a pool is a name and its settings below it"));
            return Vec::new();
        };
        pools.iter().filter_map(|(name, pool)| self.original(name, pool)).collect()
    }

    fn original(&mut self, name: &MarkedYaml<'_>, pool: &MarkedYaml<'_>) -> Option<Original> {
        let name = self.scalar(name)?;
        let YamlData::Mapping(settings) = &pool.data else {
            self.push(Fault::new(&name.span, format!("pool `{}` has no settings", name.value)));
            return None;
        };
        let mut original = Original { name, settings: Vec::new(), servers: Vec::new() };
        for (key, value) in settings {
            let Some(key) = self.scalar(key) else { continue };
            if !KEYS.contains(&key.value.as_str()) {
                let fault = Fault::new(&key.span, format!("unknown key `{}`", key.value));
                let meant = nearest(&key.value, KEYS);
                self.push(fault.help(meant.map_or_else(
                    || "twemproxy has no such setting".to_owned(),
                    |meant| format!("did you mean `{meant}`?"),
                )));
            } else if key.value != "servers" {
                let value = self.scalar(value);
                if let (Some(value), "redis_auth") = (&value, key.value.as_str()) {
                    self.faults.mask(&value.span);
                }
                original.settings.extend(value.map(|value| (key, value)));
            } else if let YamlData::Sequence(servers) = &value.data {
                original.servers = servers.iter().filter_map(|server| self.scalar(server)).collect();
            } else {
                self.push(Fault::new(&key.span, "`servers` is not a list"));
            }
        }
        Some(original)
    }

    fn scalar(&mut self, node: &MarkedYaml<'_>) -> Option<Text> {
        let span = self.offset(node.span.start.index())..self.offset(node.span.end.index());
        let value = match &node.data {
            YamlData::Value(Scalar::String(text)) => text.to_string(),
            YamlData::Value(Scalar::Integer(number)) => number.to_string(),
            YamlData::Value(Scalar::Boolean(truth)) => truth.to_string(),
            _ => {
                self.push(Fault::new(&span, "a word or a number is expected here"));
                return None;
            }
        };
        Some(Text { value, span })
    }

    /// The byte at which that character is: the parser counts characters.
    fn offset(&self, character: usize) -> usize {
        if self.text.is_ascii() {
            return character;
        }
        self.text.char_indices().nth(character).map_or(self.text.len(), |(offset, _)| offset)
    }

    /// The tables for one pool.
    fn pool(&mut self, pool: &Original) -> String {
        if !is_name(&pool.name.value) {
            self.push(
                Fault::new(&pool.name.span, "this name cannot be kept").help("letters, digits and . _ - : / @ + [ ]"),
            );
        }
        if !pool.is_true("redis") {
            self.push(
                Fault::new(&pool.name.span, format!("pool `{}` speaks memcached", pool.name.value))
                    .help("only pools with `redis: true` can be taken over"),
            );
        }
        if let Some(database) = pool.get("redis_db").filter(|database| database.value != "0") {
            self.push(Fault::new(
                &database.span,
                "a pool whose clients are all in another database than 0 is not supported",
            ));
        }
        let name = quoted(&pool.name.value);
        let mut out = String::new();
        let secret =
            pool.get("redis_auth").map(|_| format!("password_env = {}\n", quoted(&variable(&pool.name.value))));
        if secret.is_some() {
            out.push_str("\n# The password of `redis_auth` is not copied: set it in the environment.");
        }
        let listen = self.listen(pool).unwrap_or_default();
        let _infallible = write!(
            out,
            "\n[[listener]]\nname = {name}\nbind = {}\nprotocol = \"redis\"\npool = {name}\n{}",
            quoted(&listen),
            secret.as_deref().unwrap_or_default()
        );
        for (key, note) in NOTES {
            if let Some(value) = pool.get(key) {
                let value = value.value.replace(char::is_control, "?");
                let _infallible = write!(out, "\n# `{key}: {value}` has no counterpart: {note}.");
            }
        }
        let _infallible = write!(out, "\n[[pool]]\nname = {name}\nprotocol = \"redis\"\nreplicas = 1\n");
        out.push_str(&secret.unwrap_or_default());
        self.timeouts(pool, &mut out);
        self.ring(pool, &mut out);
        self.nodes(pool, &mut out);
        out
    }

    fn listen(&mut self, pool: &Original) -> Option<String> {
        let Some(listen) = pool.get("listen") else {
            self.push(Fault::new(&pool.name.span, format!("pool `{}` has no `listen`", pool.name.value)));
            return None;
        };
        let address = match listen.value.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => listen.value.clone(),
        };
        match bind(&address) {
            Ok(address) => Some(SocketAddr::to_string(&address)),
            Err(help) => {
                let fault = Fault::new(&listen.span, "quoit cannot listen there");
                self.push(if address.starts_with('/') {
                    fault.help("listening on a Unix socket is not served; choose a port on 127.0.0.1")
                } else {
                    fault.help(help)
                });
                None
            }
        }
    }

    fn timeouts(&mut self, pool: &Original, out: &mut String) {
        match pool.get("timeout") {
            None => out.push_str("# No `timeout` waited for ever; the defaults end a wait after seconds.\n"),
            Some(timeout) => match timeout.value.parse::<u64>() {
                Ok(timeout_ms) if (1..=60_000).contains(&timeout_ms) => {
                    let _infallible =
                        writeln!(out, "connect_timeout_ms = {timeout_ms}\nservice_timeout_ms = {timeout_ms}");
                }
                _ => self.push(Fault::new(&timeout.span, "the timeout is not from 1 to 60000 milliseconds")),
            },
        }
    }

    fn ring(&mut self, pool: &Original, out: &mut String) {
        let placement = match pool.get("distribution").map(|distribution| distribution.value.as_str()) {
            None | Some("ketama") => "ketama-twemproxy",
            Some("modula") => "modula",
            Some(other) => {
                let span = pool.get("distribution").map(|distribution| distribution.span.clone()).unwrap_or_default();
                let fault = Fault::new(&span, format!("distribution `{other}` cannot be taken over"));
                self.push(if other == "random" {
                    fault.help("a random distribution cannot find a key again")
                } else {
                    fault.help("there are `ketama` and `modula`")
                });
                return;
            }
        };
        let hash = pool.get("hash").map_or("fnv1a_64", |hash| hash.value.as_str());
        if let (Some(at), Err(_)) = (pool.get("hash"), KeyHash::deserialize(Word::new(hash))) {
            self.push(Fault::new(&at.span, format!("there is no hash `{hash}`")));
        }
        let _infallible = write!(out, "\n[pool.ring]\nplacement = \"{placement}\"\nhash = {}\n", quoted(hash));
        if let Some(tag) = pool.get("hash_tag") {
            let _infallible = writeln!(out, "hash_tag = {}", quoted(&tag.value));
        }
    }

    fn nodes(&mut self, pool: &Original, out: &mut String) {
        if pool.servers.is_empty() {
            self.push(Fault::new(&pool.name.span, format!("pool `{}` has no servers", pool.name.value)));
        }
        let mut servers = Vec::new();
        for line in &pool.servers {
            match server(&line.value) {
                Some(server) => servers.push(server),
                None => self.push(
                    Fault::new(&line.span, "this is not a server")
                        .help("`host:port:weight`, or `/path:weight`, and perhaps a name after a space"),
                ),
            }
        }
        for Server { name, ring_name, address, weight } in &servers {
            let (name, address) = (quoted(name), quoted(address));
            let _infallible = write!(out, "\n[[pool.node]]\nname = {name}\naddress = {address}\nweight = {weight}\n");
            if let Some(ring_name) = ring_name {
                let _infallible = writeln!(out, "ring_name = {}", quoted(ring_name));
            }
        }
    }
}

/// The number of the first line that may be nested too deeply. Block nesting stands further to the right with each level
/// (YAML 1.2.2, chapter 8); of brackets more must be open than are closed. Quotes are not looked at: this is a bound.
fn too_deep(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    let deep = |line: &str| {
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            if DEPTH_MAX < open {
                return true;
            }
        }
        DEPTH_MAX < line.bytes().take_while(|byte| matches!(byte, b' ' | b'\t' | b'-' | b'?')).count()
    };
    // A carriage return alone ends a line too (YAML 1.2.2, section 5.4).
    text.split(['\n', '\r']).position(deep).map(|index| index + 1)
}

/// Takes a line of `servers` apart, from its end as twemproxy does: a host may hold colons.
fn server(line: &str) -> Option<Server> {
    let (place, given) = match line.rsplit_once(' ') {
        Some((place, given)) => (place.trim_end(), Some(given)),
        None => (line, None),
    };
    let (place, weight) = place.rsplit_once(':')?;
    let weight = weight.parse().ok().filter(|weight| 0 < *weight)?;
    let (address, hashed) = if place.starts_with('/') {
        (format!("unix:{place}"), ring_name(place, None))
    } else {
        let (host, port) = place.rsplit_once(':')?;
        let bare = host.contains(':') && !host.starts_with('[');
        (if bare { format!("[{host}]:{port}") } else { place.to_owned() }, ring_name(host, Some(port)))
    };
    let hashed = given.map_or(hashed, str::to_owned);
    // A name that is clumsy for people, or that we do not allow, is left to the ring alone.
    let name = match given {
        Some(given) if is_name(given) => given.to_owned(),
        _ => place.to_owned(),
    };
    let ring_name = (hashed != name).then_some(hashed);
    Some(Server { name, ring_name, address, weight })
}

/// What twemproxy hashes for a server without a name: its address without the weight. It leaves memcached's port out,
/// and for a Unix socket the colon stays where the port would be.
fn ring_name(host: &str, port: Option<&str>) -> String {
    match port {
        Some(PORT_LEFT_OUT) => host.to_owned(),
        Some(port) => format!("{host}:{port}"),
        None => format!("{host}:"),
    }
}

/// The environment variable for a pool's password.
fn variable(pool: &str) -> String {
    let word = |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_uppercase() } else { '_' };
    format!("QUOIT_{}_PASSWORD", pool.chars().map(word).collect::<String>())
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests;
