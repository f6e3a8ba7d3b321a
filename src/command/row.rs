//! What the table knows of one verb: the columns of a row and the closed sets of values they hold.
//!
//! # Invariants
//!
//! * A row whose handling is `Forward` has `single_key_at`; no other row has.
//! * `SameNode` and `Split` rows have at least one key specification that names keys.
//! * Flags, key specifications, tips and categories are facts of real servers; `handling` and `replication` are our
//!   decisions.
//! * No row that may write has the class `Read`; a `Blind` or `Update` row has one kind of keys and is allowed in scripts.

use super::keys::KeySpecs;
use super::variant::Variant;

/// One verb, or one subcommand of a container such as `CONFIG`.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Lower case; a subcommand is `container|subcommand`.
    pub name: &'static str,
    /// Its number among all rows, below [`super::IDS`]. Variants have their verb's, and numbers change with the table.
    pub id: u16,
    /// How many arguments a request has, the verb (and subcommand) among them; negative means "at least".
    pub arity: i32,
    /// The servers' flags of the command.
    pub flags: Flags,
    /// Its metrics label.
    pub class: VerbClass,
    /// What quoit does with it.
    pub handling: Handling,
    /// How its plainest form goes to the replicas of its keys; [`super::replicate::classify`] looks at the arguments.
    pub replication: Replication,
    /// Where its only key stands; the fast path of `keys`.
    pub single_key_at: Option<u8>,
    /// Where its keys stand.
    pub keys: KeySpecs,
    /// The same verb where certain arguments change what quoit does with it.
    pub variants: &'static [Variant],
    /// Rows of a container, by name.
    pub subcommands: &'static [Row],
    /// What only introspection reads, kept off the hot path's cache lines.
    pub about: &'static About,
}

impl Row {
    /// Whether a request of `len` arguments, the verb among them, has as many as the verb takes.
    pub fn takes(&self, len: usize) -> bool {
        let bound = usize::try_from(self.arity.unsigned_abs()).unwrap_or(usize::MAX);
        if self.arity < 0 { len >= bound } else { len == bound }
    }

    /// Whether quoit serves the verb in any form, so that `COMMAND` lists it.
    pub fn is_served(&self) -> bool {
        match self.handling {
            Handling::Local(LocalVerb::HttpRequest) => false,
            Handling::Local(LocalVerb::ClusterDisabled) | Handling::Later(_) | Handling::Refused(_) => {
                self.subcommands.iter().any(Row::is_served)
            }
            Handling::Forward
            | Handling::SameNode
            | Handling::Split(_)
            | Handling::Keyspace(_)
            | Handling::Transaction(_)
            | Handling::Run(_)
            | Handling::Programs(_)
            | Handling::Blocking
            | Handling::PubSub(_)
            | Handling::ToDatabase
            | Handling::Local(_) => true,
        }
    }
}

/// The columns that only `COMMAND` shows.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// One sentence, empty where no text under a free licence exists.
    pub summary: &'static str,
    /// The server version that brought it; empty for modules' commands.
    pub since: &'static str,
    /// The servers' group, such as `string`.
    pub group: &'static str,
    /// First key, last key, step: the old form of the key specifications.
    pub position: (i32, i32, i32),
    /// ACL categories without their `@`.
    pub categories: &'static [&'static str],
    /// The servers' hints to proxies and clients.
    pub tips: &'static [&'static str],
}

/// The verb class of metrics: a closed label set, usable as an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VerbClass {
    /// Reads keys.
    Read = 0,
    /// Changes keys.
    Write = 1,
    /// Everything else.
    Other = 2,
}

impl VerbClass {
    /// Every class, in the order of its number.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Other];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Other => "other",
        }
    }
}

/// What quoit does with a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// Exactly one key: the frame goes untouched to its node, and exactly one reply comes back.
    Forward,
    /// Several keys (or one whose place depends on the arguments): all on one node, else `-CROSSSLOT`.
    SameNode,
    /// Several keys on any nodes: one fragment a node, replies merged by the rule.
    Split(SplitRule),
    /// About all keys, whichever: every node is asked.
    Keyspace(KeyspaceVerb),
    /// Begins, ends or guards a transaction.
    Transaction(TransactionVerb),
    /// Runs a script or function: on the node of its keys, wherever that is if it has none.
    Run(Program),
    /// About scripts and functions themselves: told to every node.
    Programs(ProgramsVerb),
    /// May wait for as long as the client says: all keys on one node, and a connection of its own to it.
    Blocking,
    /// Publishes or listens to messages, or asks who does.
    PubSub(PubSubVerb),
    /// Brings a key to another database of the same node, which its pool must have.
    ToDatabase,
    /// Answered by quoit itself.
    Local(LocalVerb),
    /// Not served yet, for this reason.
    Later(&'static str),
    /// Never served, for this reason.
    Refused(&'static str),
}

/// How a verb goes to the replicas of its keys, in a pool that keeps several copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// Changes nothing that a client can see: one replica answers once enough of them are known to agree.
    Read,
    /// Neither its outcome nor its reply depends on what was there: one round to all replicas.
    Blind,
    /// Of one key, and gives replicas that agree the same outcome: each runs it for itself on the agreed state.
    Update,
    /// One replica runs it, and the others get the state of the keys it has written.
    Opaque,
    /// Has no key of its own: asks or tells each node by itself.
    FanOut,
    /// Quoit answers.
    Local,
    /// Never served.
    Refused,
}

impl Replication {
    /// Every class.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::Blind, Self::Update, Self::Opaque, Self::FanOut, Self::Local, Self::Refused];

    /// Its word in the documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Blind => "blind",
            Self::Update => "update",
            Self::Opaque => "opaque",
            Self::FanOut => "fan-out",
            Self::Local => "local",
            Self::Refused => "refused",
        }
    }
}

/// How a split verb's fragments are cut and their replies become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitRule {
    /// A key an argument; an array with an element a key, in request order.
    Mget,
    /// A key and its value; `OK`.
    Mset,
    /// A key an argument; the sum of the integers.
    SumIntegers,
}

/// The verbs that go over the keys of all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyspaceVerb {
    /// How many keys there are.
    Dbsize,
    /// All keys of the client's database: `FLUSHDB`.
    Flush,
    /// All keys of all databases: `FLUSHALL`.
    FlushAll,
    /// All names at once.
    Keys,
    /// Any one name.
    Randomkey,
    /// All names, a page at a time.
    Scan,
}

/// The verbs of transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the verb of its name")]
pub enum TransactionVerb {
    Discard,
    Exec,
    Multi,
    Unwatch,
    Watch,
}

/// How a request names what it runs, by its second word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// By its text: `EVAL`.
    Text,
    /// By the SHA1 digest of its text: `EVALSHA`.
    Digest,
    /// By the name of a function: `FCALL`.
    Function,
}

/// The verbs about scripts and functions, by how the answers of all nodes become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramsVerb {
    /// Each node does it, and that is the answer if all give the same: `FUNCTION FLUSH`, `LOAD`, `RESTORE`.
    Change,
    /// The same; a node that has no such library has done it.
    FunctionDelete,
    /// As `Change`; quoit remembers the text.
    ScriptLoad,
    /// As `Change`; quoit forgets what it remembers.
    ScriptFlush,
    /// Whether all have it.
    ScriptExists,
    /// The first that has it.
    ScriptShow,
    /// Past whatever runs: `SCRIPT KILL`, `FUNCTION KILL`.
    Kill,
    /// Past whatever runs, and of the node where something does.
    FunctionStats,
    /// One node answers for all: `FUNCTION DUMP`, `LIST`.
    AskOne,
}

/// The verbs of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the verb of its name, the last five those of `PUBSUB`")]
pub enum PubSubVerb {
    Subscribe,
    Unsubscribe,
    Psubscribe,
    Punsubscribe,
    Ssubscribe,
    Sunsubscribe,
    Publish,
    Spublish,
    Channels,
    Numpat,
    Numsub,
    Shardchannels,
    Shardnumsub,
}

/// The verbs quoit answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the verb of its name")]
pub enum LocalVerb {
    /// `ACL` but its `HELP`, and what changes users.
    Acl,
    /// `ACL SETUSER`, `DELUSER` and `LOAD`.
    AclChange,
    Auth,
    ClientCaching,
    ClientCapa,
    ClientGetname,
    ClientGetredir,
    ClientId,
    ClientInfo,
    ClientKill,
    ClientList,
    ClientNoEvict,
    ClientNoTouch,
    ClientPause,
    ClientReply,
    ClientSetinfo,
    ClientSetname,
    ClientTracking,
    ClientTrackinginfo,
    ClientUnblock,
    ClientUnpause,
    /// `CLUSTER` with what asks, and `READONLY` and its like: the error of a server that is not part of a cluster, unless
    /// the listener passes for one.
    Cluster,
    /// What changes a cluster or looks into one: the same error, and never more.
    ClusterDisabled,
    /// `COMMAND` in all its forms: `introspect::command`.
    Command,
    Commandlog,
    ConfigGet,
    ConfigSet,
    ConfigResetstat,
    /// `DEBUG SLEEP`.
    Debug,
    /// `PFDEBUG`.
    Pfdebug,
    /// `PFSELFTEST`.
    Pfselftest,
    Echo,
    Hello,
    /// `CONFIG HELP` and its like: `introspect::help`.
    Help,
    /// The start of an HTTP request: the connection is closed without an answer, as the servers do.
    HttpRequest,
    Info,
    Latency,
    Lolwut,
    Monitor,
    Ping,
    Quit,
    Quoit,
    Reset,
    Role,
    Select,
    Slowlog,
    Time,
    Wait,
    Waitaof,
}

macro_rules! flags {
    ($($flag:ident = $name:literal,)*) => {
        /// One flag of a command, as the servers report it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "their meaning is the servers' manual page of COMMAND")]
        pub enum Flag { $($flag,)* }

        impl Flag {
            /// Every flag.
            pub const ALL: &'static [Self] = &[$(Self::$flag,)*];

            /// The servers' word for it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$flag => $name,)* }
            }
        }
    };
}

flags! {
    Admin = "admin",
    AllowBusy = "allow_busy",
    Asking = "asking",
    Blocking = "blocking",
    Denyoom = "denyoom",
    Fast = "fast",
    Loading = "loading",
    Movablekeys = "movablekeys",
    NoAsyncLoading = "no_async_loading",
    NoAuth = "no_auth",
    NoMandatoryKeys = "no_mandatory_keys",
    NoMulti = "no_multi",
    Noscript = "noscript",
    Pubsub = "pubsub",
    Readonly = "readonly",
    SkipCommandlog = "skip_commandlog",
    SkipMonitor = "skip_monitor",
    Stale = "stale",
    Write = "write",
}

/// A set of flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// The set of these.
    pub const fn of(flags: &[Flag]) -> Self {
        let (mut bits, mut rest) = (0, flags);
        while let [flag, others @ ..] = rest {
            bits |= 1 << *flag as u32;
            rest = others;
        }
        Self(bits)
    }

    /// Whether the flag is in the set.
    pub const fn contains(self, flag: Flag) -> bool {
        self.0 & (1 << flag as u32) != 0
    }

    /// The flags in it, by name.
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        Flag::ALL.iter().copied().filter(move |flag| self.contains(*flag))
    }

    /// How many are in it.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether none is.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}
