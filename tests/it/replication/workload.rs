//! Clients that use keys of every kind at the same time through several proxies, and remember what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::checks::{self, Access, Added, Look, Seen, Span};
use crate::support::{Client, PATIENCE, Value, eventually, is_refused, is_unknown};

/// What a key is used as, and by which commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `SET`, also with an expiry and in `MSET`; `GET`.
    Register,
    /// `GETSET`, `GET`.
    Swap,
    /// `INCR`, `GET`.
    Counter,
    /// `RPUSH`, `LRANGE`.
    List,
    /// `APPEND`, `GET`.
    Text,
    /// `XADD` with ids of ours, `XRANGE`.
    Stream,
    /// `SADD`, `SMEMBERS`.
    Set,
    /// `HSET`, `HKEYS`.
    Hash,
    /// `ZADD`, `ZRANGE`.
    Scores,
    /// `RPUSH`, `LPOP`.
    Queue,
    /// `SADD`, `SPOP`.
    Bag,
    /// Two sets with one hash tag, `SMOVE` between them.
    Pair,
}

impl Kind {
    pub(super) const ALL: [Self; 12] = [
        Self::Register,
        Self::Swap,
        Self::Counter,
        Self::List,
        Self::Text,
        Self::Stream,
        Self::Set,
        Self::Hash,
        Self::Scores,
        Self::Queue,
        Self::Bag,
        Self::Pair,
    ];
}

/// Letters of one item of a text: they are cut apart again.
const ITEM_LENGTH: usize = 8;
const PAIR_ITEMS: u32 = 12;

/// One key (a pair: two).
#[derive(Clone, Debug)]
struct Object {
    kind: Kind,
    key: String,
}

impl Object {
    fn pair(&self) -> [String; 2] {
        [format!("{{{}}}a", self.key), format!("{{{}}}b", self.key)]
    }

    fn keys(&self) -> Vec<String> {
        if self.kind == Kind::Pair { self.pair().into() } else { vec![self.key.clone()] }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Read,
    Write(String),
    Take,
    /// Between the sets of a pair; which item does not matter, it must be in one of them.
    Move,
}

#[derive(Clone, Debug)]
enum Outcome {
    Answer(Value),
    /// Applied or not, now or later.
    Unknown,
    /// Certainly not applied, for want of replicas.
    Refused,
    /// Certainly not applied: another's id was first.
    TooLate,
}

#[derive(Clone, Debug)]
struct Event {
    object: usize,
    action: Action,
    span: Span,
    outcome: Outcome,
}

/// What became of the operations of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) answered: u64,
    pub(super) unknown: u64,
    pub(super) refused: u64,
}

/// The clients' keys and how they behave.
pub(super) struct Workload {
    objects: Vec<Object>,
    addresses: Vec<SocketAddr>,
    clients: usize,
    /// Whether a broken connection to a proxy is part of the test.
    pub(super) proxies_may_die: bool,
    started: Instant,
    next_stream_id: AtomicU64,
    stop: AtomicBool,
    /// Answers that nothing allows.
    surprises: Mutex<BTreeSet<String>>,
    answered: AtomicU64,
}

impl Workload {
    /// `each` keys of every kind, their names after `name`.
    pub(super) fn new(name: &str, addresses: Vec<SocketAddr>, clients: usize, each: usize) -> Self {
        let objects = (0..each).flat_map(|number| {
            Kind::ALL.map(|kind| Object { kind, key: format!("{name}:{kind:?}:{number}").to_ascii_lowercase() })
        });
        Self {
            objects: objects.collect(),
            addresses,
            clients,
            proxies_may_die: false,
            started: Instant::now(),
            next_stream_id: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            surprises: Mutex::new(BTreeSet::new()),
            answered: AtomicU64::new(0),
        }
    }

    /// Runs the clients as long as `meanwhile` takes, then checks every key. Afterwards the pool must be whole again:
    /// `heal` waits for that. Prints and gives what became of the operations.
    pub(super) fn run(&self, random: &mut fastrand::Rng, meanwhile: impl FnOnce(&Self), heal: impl FnOnce()) -> Tally {
        self.prepare();
        let events = thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients)
                .map(|number| {
                    let random = random.fork();
                    scope.spawn(move || {
                        Person { workload: self, number, random, sequence: 0, events: Vec::new() }.live()
                    })
                })
                .collect();
            // A failure in here must not leave the clients running: the scope waits for them.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(self)));
            self.stop.store(true, Ordering::Relaxed);
            let events: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client ends")).collect();
            outcome.unwrap_or_else(|failure| std::panic::resume_unwind(failure));
            events.concat()
        });
        let surprises = self.surprises.lock().expect("no thread panics with it").clone();
        assert!(surprises.is_empty(), "answers that nothing allows: {surprises:#?}");
        heal();
        let tally = self.report(&events);
        self.check(events);
        tally
    }

    /// How many operations were answered so far.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Removes its keys again.
    pub(super) fn clear(&self) {
        let mut client = Client::connect(self.addresses[0]);
        for key in self.objects.iter().flat_map(Object::keys) {
            eventually("a key is deleted", PATIENCE, || !client.command(&["DEL", &key]).is_error());
        }
    }

    fn prepare(&self) {
        let mut client = Client::connect(self.addresses[0]);
        for object in self.objects.iter().filter(|object| object.kind == Kind::Pair) {
            for item in 0..PAIR_ITEMS {
                let [first, _] = object.pair();
                let item = item.to_string();
                eventually("a set is filled", PATIENCE, || !client.command(&["SADD", &first, &item]).is_error());
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn surprise(&self, text: String) {
        let mut surprises = self.surprises.lock().expect("no thread panics with it");
        if surprises.len() < 10 {
            surprises.insert(text);
        }
    }

    fn report(&self, events: &[Event]) -> Tally {
        let (mut kinds, mut all) = (BTreeMap::<Kind, Tally>::new(), Tally::default());
        for event in events {
            let kind = self.objects[event.object].kind;
            for tally in [kinds.entry(kind).or_default(), &mut all] {
                match event.outcome {
                    Outcome::Answer(_) | Outcome::TooLate => tally.answered += 1,
                    Outcome::Unknown => tally.unknown += 1,
                    Outcome::Refused => tally.refused += 1,
                }
            }
        }
        let Tally { answered, unknown, refused } = all;
        let mut line =
            format!("{} operations: {answered} answered, {unknown} unknown, {refused} refused;", events.len());
        for (kind, tally) in &kinds {
            write!(line, " {kind:?} {}/{}/{}", tally.answered, tally.unknown, tally.refused).expect("a string grows");
        }
        eprintln!("{line}");
        for (kind, tally) in kinds {
            assert!(tally.answered > 0, "no operation of {kind:?} was answered");
        }
        all
    }

    /// Reads every key through every proxy, then compares all that was seen with what one store would have shown.
    fn check(&self, mut events: Vec<Event>) {
        let mut lasts: Vec<Vec<Value>> = Vec::new();
        let mut clients: Vec<_> = self.addresses.iter().map(|address| Client::connect(*address)).collect();
        for (index, object) in self.objects.iter().enumerate() {
            for client in &mut clients {
                let mut values = Vec::new();
                for command in read_commands(object) {
                    let call = self.now();
                    let mut value = Value::Null;
                    eventually("a key can be read", PATIENCE, || {
                        value = client.command(&command);
                        assert!(
                            !value.is_error() || is_refused(&value) || is_unknown(&value),
                            "{command:?}: {value:?}"
                        );
                        !value.is_error()
                    });
                    let span = Span { call, end: self.now() };
                    let outcome = Outcome::Answer(value.clone());
                    events.push(Event { object: index, action: Action::Read, span, outcome });
                    values.push(value);
                }
                lasts.truncate(index);
                lasts.push(values);
            }
        }
        let mut by_object: Vec<Vec<Event>> = vec![Vec::new(); self.objects.len()];
        for event in events {
            by_object[event.object].push(event);
        }
        let wrong: Vec<_> = by_object
            .iter()
            .zip(&lasts)
            .zip(&self.objects)
            .filter_map(|((events, last), object)| {
                check(object.kind, events, last).err().map(|wrong| format!("{}: {wrong}", object.key))
            })
            .collect();
        assert!(wrong.is_empty(), "{} of {} keys are wrong:\n{}", wrong.len(), self.objects.len(), wrong.join("\n"));
    }
}

/// The commands that read all of an object.
fn read_commands(object: &Object) -> Vec<Vec<String>> {
    let key = &object.key;
    let line = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    match object.kind {
        Kind::Register | Kind::Swap | Kind::Counter | Kind::Text => vec![line(&["GET", key])],
        Kind::List | Kind::Queue => vec![line(&["LRANGE", key, "0", "-1"])],
        Kind::Stream => vec![line(&["XRANGE", key, "-", "+"])],
        Kind::Set | Kind::Bag => vec![line(&["SMEMBERS", key])],
        Kind::Hash => vec![line(&["HKEYS", key])],
        Kind::Scores => vec![line(&["ZRANGE", key, "0", "-1"])],
        Kind::Pair => object.pair().iter().map(|key| line(&["SMEMBERS", key])).collect(),
    }
}

/// One client: a connection to each proxy, one operation after the other.
struct Person<'w> {
    workload: &'w Workload,
    number: usize,
    random: fastrand::Rng,
    sequence: u32,
    events: Vec<Event>,
}

impl Person<'_> {
    fn live(mut self) -> Vec<Event> {
        let mut connections: Vec<Option<Client>> = self.workload.addresses.iter().map(|_| None).collect();
        let mut proxy = self.number % connections.len();
        while !self.workload.stop.load(Ordering::Relaxed) {
            if self.random.u8(..8) == 0 {
                proxy = self.random.usize(..connections.len());
            }
            if connections[proxy].is_none() {
                connections[proxy] = self.connect(proxy);
            }
            let Some(client) = &mut connections[proxy] else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            if let Err(error) = self.operate(client) {
                connections[proxy] = None;
                if !self.workload.proxies_may_die {
                    self.workload.surprise(format!("a connection to proxy {proxy} ended: {error}"));
                }
            }
        }
        self.events
    }

    fn connect(&self, proxy: usize) -> Option<Client> {
        let connected = Client::try_connect(self.workload.addresses[proxy]);
        if let Err(error) = &connected
            && !self.workload.proxies_may_die
        {
            self.workload.surprise(format!("proxy {proxy} takes no connection: {error}"));
        }
        connected.ok()
    }

    fn item(&mut self) -> String {
        self.sequence += 1;
        let item = format!("{:02}{:06}", self.number, self.sequence);
        assert_eq!(item.len(), ITEM_LENGTH, "more items than fit");
        item
    }

    fn operate(&mut self, client: &mut Client) -> io::Result<()> {
        let object = self.random.usize(..self.workload.objects.len());
        let (action, command) = self.choose(&self.workload.objects[object]);
        let call = self.workload.now();
        let reply = client.try_command(&command);
        let end = self.workload.now();
        let (outcome, failed) = match reply {
            Ok(reply) => (self.classify(&command, reply), None),
            Err(error) => (Outcome::Unknown, Some(error)),
        };
        if matches!(outcome, Outcome::Answer(_)) {
            self.workload.answered.fetch_add(1, Ordering::Relaxed);
        }
        let end = if matches!(outcome, Outcome::Unknown) { Duration::MAX } else { end };
        self.events.push(Event { object, action, span: Span { call, end }, outcome });
        failed.map_or(Ok(()), Err)
    }

    fn classify(&self, command: &[String], reply: Value) -> Outcome {
        if is_refused(&reply) {
            return Outcome::Refused;
        }
        if is_unknown(&reply) {
            return Outcome::Unknown;
        }
        if command[0] == "XADD" && reply.text().contains("equal or smaller") {
            return Outcome::TooLate;
        }
        // An item is new: where it was there already, it was added twice.
        let is_new = !["SADD", "HSET", "ZADD"].contains(&command[0].as_str()) || reply == Value::Integer(1);
        if reply.is_error() || !is_new {
            self.workload.surprise(format!("{command:?} was answered by {reply:?}"));
            return Outcome::Unknown;
        }
        Outcome::Answer(reply)
    }

    /// The next operation on an object: three in five write.
    fn choose(&mut self, object: &Object) -> (Action, Vec<String>) {
        let reads = !matches!(object.kind, Kind::Queue | Kind::Bag | Kind::Pair);
        if reads && self.random.u8(..5) < 2 {
            return (Action::Read, read_commands(object).swap_remove(0));
        }
        if object.kind == Kind::Pair {
            let [mut from, mut to] = object.pair();
            if self.random.bool() {
                std::mem::swap(&mut from, &mut to);
            }
            let item = self.random.u32(..PAIR_ITEMS).to_string();
            return (Action::Move, vec!["SMOVE".to_owned(), from, to, item]);
        }
        let takes = matches!(object.kind, Kind::Queue | Kind::Bag);
        if takes && self.random.u8(..5) < 2 {
            let verb = if object.kind == Kind::Queue { "LPOP" } else { "SPOP" };
            return (Action::Take, vec![verb.to_owned(), object.key.clone()]);
        }
        let item = self.item();
        let command = self.write_command(object, &item);
        (Action::Write(item), command)
    }

    fn write_command(&mut self, object: &Object, item: &str) -> Vec<String> {
        let key = object.key.as_str();
        let id;
        let words: &[&str] = match object.kind {
            Kind::Register => match self.random.u8(..6) {
                0 => &["SETEX", key, "86400", item],
                1 => &["MSET", key, item],
                2 => &["SET", key, item, "XX", "GET"],
                _ => &["SET", key, item],
            },
            Kind::Swap => &["GETSET", key, item],
            Kind::Counter if self.random.bool() => &["INCRBY", key, "1"],
            Kind::Counter => &["INCR", key],
            Kind::List | Kind::Queue => &["RPUSH", key, item],
            Kind::Text => &["APPEND", key, item],
            Kind::Stream => {
                id = format!("{}-0", self.workload.next_stream_id.fetch_add(1, Ordering::Relaxed));
                &["XADD", key, &id, "item", item]
            }
            Kind::Hash => &["HSET", key, item, "1"],
            Kind::Scores => &["ZADD", key, "1", item],
            Kind::Set | Kind::Bag | Kind::Pair => &["SADD", key, item],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}

fn check(kind: Kind, events: &[Event], last: &[Value]) -> Result<(), String> {
    match kind {
        Kind::Register => check_register(events),
        Kind::Swap => check_swap(events),
        Kind::Counter => check_counter(events, last),
        Kind::List | Kind::Text | Kind::Stream => {
            checks::sequence(&added(kind, events), &looks(kind, events), &last_look(kind, last))
        }
        Kind::Set | Kind::Hash | Kind::Scores => {
            checks::set(&added(kind, events), &looks(kind, events), &last_look(kind, last))
        }
        Kind::Queue | Kind::Bag => {
            let takes = events.iter().filter(|event| event.action == Action::Take);
            let unknown = takes.clone().filter(|event| matches!(event.outcome, Outcome::Unknown)).count();
            let items_taken: Vec<_> = takes
                .filter_map(|event| match &event.outcome {
                    Outcome::Answer(value @ Value::Bulk(_)) => Some(value.text()),
                    _ => None,
                })
                .collect();
            checks::queue(&added(kind, events), &items_taken, unknown, &items(kind, &last[0]))
        }
        Kind::Pair => check_pair(events, last),
    }
}

/// Each item is in one of the two sets. A move of unknown fate may have been applied to one of the keys alone: what is
/// promised is promised for each key by itself. Such a move is counted and shown.
fn check_pair(events: &[Event], last: &[Value]) -> Result<(), String> {
    let both: Vec<_> = last.iter().flat_map(|value| items(Kind::Pair, value)).collect();
    let wrong: Vec<_> = (0..PAIR_ITEMS)
        .map(|item| item.to_string())
        .filter(|item| both.iter().filter(|found| *found == item).count() != 1)
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let unknown = events.iter().filter(|event| matches!(event.outcome, Outcome::Unknown)).count();
    eprintln!("a pair: {wrong:?} are in none or in both sets, {unknown} moves are of unknown fate");
    if wrong.len() > unknown {
        return Err(format!("{wrong:?} are in none or in both sets, {unknown} moves are of unknown fate: {both:?}"));
    }
    Ok(())
}

/// The registers' accesses; refused writes are not among them, so that nobody may read what they wrote.
fn check_register(events: &[Event]) -> Result<(), String> {
    let (mut accesses, mut written) = (Vec::new(), BTreeSet::new());
    for event in events {
        match (&event.action, &event.outcome) {
            (_, Outcome::Refused | Outcome::TooLate)
            | (Action::Read, Outcome::Unknown)
            // `XX` on a key that was not there.
            | (Action::Write(_), Outcome::Answer(Value::Null)) => {}
            (Action::Write(item), outcome) => {
                accesses.push(Access::Write(item.clone(), event.span));
                written.insert(item.clone());
                // `SET … GET` has also read.
                if let Outcome::Answer(value @ Value::Bulk(_)) = outcome {
                    accesses.push(Access::Read(Some(value.text()), event.span));
                }
            }
            (_, Outcome::Answer(value)) => accesses.push(Access::Read(text(value), event.span)),
            _ => {}
        }
    }
    checks::register(&accesses)
}

/// A swap reads and writes at one moment: what it read, no other swap has replaced.
fn check_swap(events: &[Event]) -> Result<(), String> {
    let (mut accesses, mut replaced) = (Vec::new(), BTreeMap::new());
    for event in events {
        match (&event.action, &event.outcome) {
            (Action::Write(item), outcome @ (Outcome::Answer(_) | Outcome::Unknown)) => {
                accesses.push(Access::Write(item.clone(), event.span));
                let Outcome::Answer(old) = outcome else { continue };
                let old = text(old);
                if let Some(other) = replaced.insert(old.clone(), item) {
                    return Err(format!("{other} and {item} both replaced {old:?}"));
                }
                accesses.push(Access::Read(old, event.span));
            }
            (_, Outcome::Answer(value)) => accesses.push(Access::Read(text(value), event.span)),
            _ => {}
        }
    }
    checks::register(&accesses)
}

fn text(value: &Value) -> Option<String> {
    (*value != Value::Null).then(|| value.text())
}

fn check_counter(events: &[Event], last: &[Value]) -> Result<(), String> {
    let number = |value: &Value| match value {
        Value::Integer(number) => u64::try_from(*number).expect("it only grows"),
        Value::Null => 0,
        text => text.text().parse().expect("a number"),
    };
    let (mut seen, mut acked, mut unknown) = (Vec::new(), 0, 0);
    for event in events {
        let made = matches!(event.action, Action::Write(_));
        match &event.outcome {
            Outcome::Answer(value) => {
                acked += u64::from(made);
                seen.push(Seen { version: number(value), made, span: event.span });
            }
            Outcome::Unknown => unknown += u64::from(made),
            Outcome::Refused | Outcome::TooLate => {}
        }
    }
    checks::versions(&seen)?;
    let last = number(&last[0]);
    if (acked..=acked + unknown).contains(&last) {
        return Ok(());
    }
    Err(format!("{acked} increments were acknowledged, {unknown} are unknown, and it is {last}"))
}

fn added(kind: Kind, events: &[Event]) -> Vec<Added> {
    let mut added = Vec::new();
    for event in events {
        let Action::Write(item) = &event.action else { continue };
        let count = match (&event.outcome, kind) {
            (Outcome::Refused | Outcome::TooLate, _) => continue,
            (Outcome::Answer(Value::Integer(count)), Kind::List) => Some(u64::try_from(*count).expect("a length")),
            (Outcome::Answer(Value::Integer(length)), Kind::Text) => {
                Some(u64::try_from(*length).expect("a length") / ITEM_LENGTH as u64)
            }
            _ => None,
        };
        added.push(Added { item: item.clone(), span: event.span, count });
    }
    added
}

fn looks(kind: Kind, events: &[Event]) -> Vec<Look> {
    let reads = events.iter().filter(|event| event.action == Action::Read);
    reads
        .filter_map(|event| match &event.outcome {
            Outcome::Answer(value) => Some(Look { items: items(kind, value), span: event.span }),
            Outcome::Unknown | Outcome::Refused | Outcome::TooLate => None,
        })
        .collect()
}

fn last_look(kind: Kind, last: &[Value]) -> Look {
    let end = Duration::from_secs(u64::from(u32::MAX));
    Look { items: items(kind, &last[0]), span: Span { call: end, end } }
}

/// The items that a reply lists.
fn items(kind: Kind, value: &Value) -> Vec<String> {
    match kind {
        Kind::Text => {
            let text = value.text();
            text.as_bytes().chunks(ITEM_LENGTH).map(|item| String::from_utf8_lossy(item).into_owned()).collect()
        }
        // Each entry is its id and its fields.
        Kind::Stream => value.items().iter().map(|entry| entry.items()[1].items()[1].text()).collect(),
        _ => value.items().iter().map(Value::text).collect(),
    }
}
