//! The rules of one pool: its nodes, its ring, its breaker. A part of [`super::check`].
//!
//! # Invariants
//! - A pool that comes out has a ring that builds, and as many nodes as the ring has members, in the same order.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use super::address::{Address, AddressError};
use super::check::Check;
use super::faults::Fault;
use super::file::{At, BreakerTable, NodeTable, PoolTable, RingTable};
use super::secret::Secret;
use super::{Breaker, Node, Pool, Timeouts};
use crate::ring::{Member, Placement, Ring, RingError, RingSpec, ShardKey};

/// The most hash slots there are: Redis Cluster's number.
const SLOTS: u16 = 16_384;

impl Check<'_> {
    /// Checks one pool.
    pub(super) fn pool(&mut self, table: &PoolTable) -> Option<Pool> {
        let (quorums, level) = self.replication(table);
        let password = self.secret("password", table.password_file.as_ref(), table.password_env.as_ref());
        let has_password = table.password_file.is_some() || table.password_env.is_some();
        self.user_has_password(table.username.as_ref(), has_password);
        let placement = table.ring.placement.as_ref().map_or(Placement::Ketama, |placement| placement.value);
        self.unique(table);
        let tls = table.tls.as_ref().and_then(|tls| self.store_tls(tls));
        let nodes: Vec<_> = table.node.iter().map(|node| self.node(node, table, password.as_ref())).collect();
        let breaker = self.breaker(&table.breaker);
        let ring = self.ring(table, placement);
        Some(Pool {
            name: table.name.as_ref()?.value.clone(),
            protocol: table.protocol,
            replicas: u32::from(table.replicas.value),
            databases: self.databases(table),
            quorums,
            level,
            operation_timeout: Duration::from_millis(table.operation_timeout_ms),
            hedge: Some(table.hedge_ms).filter(|ms| 0 < *ms).map(Duration::from_millis),
            repair_queue_len: table.repair_queue_len,
            tombstone_grace: Duration::from_secs(table.tombstone_grace_s),
            adopt: table.adopt,
            ring: ring?,
            nodes: nodes.into_iter().collect::<Option<_>>()?,
            tls,
            timeouts: Timeouts {
                connect: Duration::from_millis(table.connect_timeout_ms),
                queue: Duration::from_millis(table.queue_timeout_ms),
                service: Duration::from_millis(table.service_timeout_ms),
            },
            breaker: breaker?,
            queue_bytes_max: table.queue_bytes_max,
            in_flight_max: table.in_flight_max,
            exclusive_connections_max: table.exclusive_connections_max,
            stream_threshold_bytes: table.stream_threshold_bytes,
        })
    }

    /// No two nodes with one name, one address or one place on the ring.
    fn unique(&mut self, pool: &PoolTable) {
        let mut names: HashMap<&str, &Range<usize>> = HashMap::new();
        let mut ring_names: HashMap<&str, &Range<usize>> = HashMap::new();
        let mut addresses: HashMap<Address, &Range<usize>> = HashMap::new();
        for node in &pool.node {
            if let Some(name) = &node.name {
                self.name("node", name);
                if let Some(first) = names.insert(&name.value, &name.span) {
                    self.duplicate("two nodes of a pool have the same name", &name.span, first);
                    continue; // One line too many was copied: one fault for it is enough.
                }
            }
            if let Some(name) = node.ring_name.as_ref().or(node.name.as_ref())
                && let Some(first) = ring_names.insert(&name.value, &name.span)
            {
                self.duplicate("two nodes of a pool have the same place on the ring", &name.span, first);
            }
            let Some(address) = &node.address else { continue };
            if let Ok(parsed) = parse(address, pool)
                && let Some(first) = addresses.insert(parsed, &address.span)
            {
                self.duplicate("two nodes of a pool have the same address", &address.span, first);
            }
        }
    }

    fn node(&mut self, table: &NodeTable, pool: &PoolTable, pool_password: Option<&Secret>) -> Option<Node> {
        let own = self.secret("password", table.password_file.as_ref(), table.password_env.as_ref());
        let has_own = table.password_file.is_some() || table.password_env.is_some();
        let has_pools = pool.password_file.is_some() || pool.password_env.is_some();
        self.user_has_password(table.username.as_ref(), has_own || has_pools);
        let address = table.address.as_ref().and_then(|address| match parse(address, pool) {
            Ok(parsed) => {
                self.store_tls_reaches(pool, address, &parsed);
                Some(parsed)
            }
            Err(error) => {
                self.push(Fault::new(&address.span, "the address of a node is not understood").help(error.to_string()));
                if error == AddressError::Credentials {
                    self.faults.mask(&address.span);
                }
                None
            }
        });
        Some(Node {
            name: table.name.as_ref()?.value.clone(),
            address: address?,
            weight: table.weight.value,
            zone: table.zone.clone(),
            username: table.username.as_ref().or(pool.username.as_ref()).map(|username| username.value.clone()),
            password: own.or_else(|| pool_password.cloned()),
        })
    }

    fn user_has_password(&mut self, username: Option<&At<String>>, has_password: bool) {
        if let Some(username) = username
            && !has_password
        {
            self.push(
                Fault::new(&username.span, "a user without a password cannot authenticate")
                    .help("add `password_file` or `password_env`"),
            );
        }
    }

    fn member(&mut self, table: &NodeTable, placement: Placement) -> Option<Member> {
        if let Some(ring_name) = table.ring_name.as_ref().filter(|_| !placement.uses_names()) {
            self.push(
                Fault::new(&ring_name.span, format!("placement `{placement}` hashes no names")).help("remove it"),
            );
        }
        Some(Member {
            weight: table.weight.value,
            zone: table.zone.clone(),
            slots: table.slots.as_ref().map(|slots| self.slots(&slots.value)).unwrap_or_default(),
            range_start: table.range_start.as_ref().map(|start| start.value.as_bytes().to_vec()),
            ring_name: table.ring_name.as_ref().map(|name| name.value.clone()),
            ..Member::new(&table.name.as_ref()?.value)
        })
    }

    fn slots(&mut self, texts: &[At<String>]) -> Vec<(u16, u16)> {
        let mut ranges = Vec::new();
        for text in texts {
            match slot_range(&text.value) {
                Some(range) => ranges.push(range),
                None => self.push(
                    Fault::new(&text.span, "this is no range of hash slots")
                        .help("a slot or a range of them from 0 to 16383, such as `\"0-5460\"`"),
                ),
            }
        }
        ranges
    }

    fn breaker(&mut self, table: &BreakerTable) -> Option<Breaker> {
        let (least, most) = (&table.backoff_min_ms, &table.backoff_max_ms);
        if most.value < least.value {
            let (blamed, other) = if most.span.is_empty() { (least, most) } else { (most, least) };
            let fault = Fault::new(&blamed.span, "`backoff_max_ms` is less than `backoff_min_ms`");
            let fault = if other.span.is_empty() {
                fault.help(format!("the other one is {} by default", other.value))
            } else {
                fault.related(&other.span, "the other one")
            };
            self.push(fault);
            return None;
        }
        Some(Breaker {
            failures: table.failures,
            backoff_min: Duration::from_millis(least.value),
            backoff_max: Duration::from_millis(most.value),
            ramp: Duration::from_millis(table.ramp_ms),
        })
    }

    fn ring(&mut self, pool: &PoolTable, placement: Placement) -> Option<RingSpec> {
        let table = &pool.ring;
        if let Some(hash) = table.hash.as_ref().filter(|_| placement == Placement::Range) {
            self.push(
                Fault::new(&hash.span, "placement `range` does not hash keys").help("remove `hash`: keys are compared"),
            );
        }
        let shard_key = self.shard_key(table, placement)?;
        let hash = table.hash.as_ref().map_or_else(|| placement.default_hash(), |hash| hash.value);
        let members: Vec<_> = pool.node.iter().filter_map(|node| self.member(node, placement)).collect();
        let spec = RingSpec { placement, hash, shard_key, members };
        // A node that lost its name or its slots to another fault leaves gaps that are none.
        let whole = spec.members.len() == pool.node.len() && !self.faults.any_within(&extent(pool));
        for error in spec.faults() {
            self.ring_error(&error, pool, whole);
        }
        if self.faults.is_empty()
            && let Err(error) = Ring::build(spec.clone())
        {
            self.ring_error(&error, pool, true);
        }
        Some(spec)
    }

    /// Blames the setting of the node that the ring names. What is wrong with the ring as a whole is only said when it
    /// is `whole`. Names that occur twice have been blamed before.
    fn ring_error(&mut self, error: &RingError, pool: &PoolTable, whole: bool) {
        let of_the_whole = matches!(
            error,
            RingError::TooManyMembers { .. }
                | RingError::TooMuchWeight { .. }
                | RingError::SlotsMissing { .. }
                | RingError::RangeGap { .. }
        );
        if of_the_whole && !whole {
            return;
        }
        let span = |name: &String, setting: fn(&NodeTable) -> Span| {
            pool.node.iter().find(|node| node.name.as_ref().is_some_and(|at| at.value == *name)).and_then(setting)
        };
        let (blamed, related) = match error {
            // Names were compared and nodes counted before, and the texts of slots refused as they were read.
            RingError::DuplicateName { .. }
            | RingError::DuplicateRingName { .. }
            | RingError::EmptyName { .. }
            | RingError::BadSlots { .. }
            | RingError::Empty => return,
            RingError::TooManyMembers { .. } | RingError::TooMuchWeight { .. } | RingError::SlotsMissing { .. } => {
                (None, None)
            }
            RingError::ZeroWeight { name } | RingError::WeightIgnored { name, .. } => {
                (span(name, |node| Some(span_of(&node.weight))), None)
            }
            RingError::SlotsIgnored { name, .. } => (span(name, slots_span), None),
            RingError::SlotOverlap { name, other, .. } => (span(name, slots_span), span(other, slots_span)),
            RingError::RangeStartMissing { name } => (span(name, name_span), None),
            RingError::RangeIgnored { name, .. } | RingError::RangeGap { name, .. } => {
                (span(name, range_start_span), None)
            }
            RingError::RangeStartTwice { name, other, .. } => {
                (span(name, range_start_span), span(other, range_start_span))
            }
        };
        let general = || pool.ring.placement.as_ref().map(|at| at.span.clone()).or(pool.name.as_ref().map(span_of));
        let message = error.to_string();
        // The ring says what is wrong and, after the last colon, what mends it.
        let (title, help) =
            message.rsplit_once(": ").map_or((message.as_str(), None), |(title, help)| (title, Some(help)));
        let mut fault = Fault::new(&blamed.or_else(general).unwrap_or(0..0), title);
        if let Some(help) = help {
            fault = fault.help(help);
        }
        if let Some(related) = related {
            fault = fault.related(&related, "the other one");
        }
        self.push(fault);
    }

    fn shard_key(&mut self, table: &RingTable, placement: Placement) -> Option<ShardKey> {
        let tag = match (&table.hash_tag, &table.key_regex) {
            (Some(tag), Some(regex)) => {
                self.push(
                    Fault::new(&regex.span, "`hash_tag` and `key_regex` both say what is hashed")
                        .related(&tag.span, "the other one")
                        .help("keep one of them"),
                );
                return None;
            }
            (None, Some(regex)) => return self.key_regex(regex),
            (None, None) => default_hash_tag(placement),
            (Some(tag), None) => match tag.value.as_bytes() {
                [] => None,
                [open, close] if open.is_ascii_graphic() && close.is_ascii_graphic() => Some((*open, *close)),
                _ => {
                    self.push(
                        Fault::new(&tag.span, "a hash tag is two characters")
                            .help("such as `\"{}\"`; `\"\"` hashes whole keys"),
                    );
                    return None;
                }
            },
        };
        Some(tag.map_or(ShardKey::Whole, |(open, close)| ShardKey::HashTag { open, close }))
    }

    fn key_regex(&mut self, text: &At<String>) -> Option<ShardKey> {
        // 1 MiB of compiled program: far beyond what a key's structure needs, and small enough for every worker.
        match regex::bytes::RegexBuilder::new(&text.value).size_limit(1 << 20).build() {
            Ok(regex) => Some(ShardKey::Regex(regex)),
            Err(error) => {
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                self.push(Fault::new(&text.span, "`key_regex` is not a regular expression").label(reason));
                None
            }
        }
    }
}

/// An address of a pool's node. `rediss://` says what the pool says anyway.
pub(super) fn parse(address: &At<String>, pool: &PoolTable) -> Result<Address, AddressError> {
    let plain = address.value.strip_prefix("rediss://").filter(|_| pool.tls.is_some());
    plain.unwrap_or(&address.value).parse()
}

type Span = Option<Range<usize>>;

fn span_of<T>(at: &At<T>) -> Range<usize> {
    at.span.clone()
}

fn name_span(node: &NodeTable) -> Span {
    node.name.as_ref().map(span_of)
}

fn slots_span(node: &NodeTable) -> Span {
    node.slots.as_ref().map(span_of)
}

fn range_start_span(node: &NodeTable) -> Span {
    node.range_start.as_ref().map(span_of)
}

/// The bytes of the file from a pool's first blamable setting to its last.
fn extent(pool: &PoolTable) -> Range<usize> {
    let nodes = pool.node.iter().flat_map(|node| {
        let texts = [&node.name, &node.address, &node.ring_name, &node.range_start].map(|at| at.as_ref().map(span_of));
        texts.into_iter().chain([slots_span(node), Some(span_of(&node.weight))])
    });
    let placement = pool.ring.placement.as_ref().map(span_of);
    let spans = nodes.chain([pool.name.as_ref().map(span_of), placement]).flatten().filter(|span| !span.is_empty());
    spans.reduce(|whole, span| whole.start.min(span.start)..whole.end.max(span.end)).unwrap_or(0..0)
}

fn default_hash_tag(placement: Placement) -> Option<(u8, u8)> {
    match placement {
        Placement::Ketama | Placement::Rendezvous | Placement::Maglev | Placement::Jump | Placement::Slots => {
            Some((b'{', b'}'))
        }
        Placement::KetamaTwemproxy | Placement::KetamaLibmemcached | Placement::Modula | Placement::Range => None,
    }
}

fn slot_range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| -> Option<u16> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().filter(|slot| *slot < SLOTS)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}
