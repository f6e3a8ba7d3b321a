//! The file as written: one struct a table, one field a key, a doc comment a setting.
//!
//! This is the one source of every key: [`super::schema()`] derives the JSON Schema from it, [`super::shape`] walks a
//! document against that schema, [`super::reference`] prints it for people, and serde reads it. Defaults are in the
//! `Default` of a table and bounds in its `range`, so neither is repeated in prose.
//!
//! # Invariants
//! - A document that [`super::shape`] has walked and pruned always deserializes.
//! - What a table requires is an `Option` here, marked by `required`: the walk has reported it as missing, and the
//!   check looks past it.
//! - No field holds a secret: secrets are named by file or environment variable. Rules of users may hold passwords, as
//!   they do in Redis's own files, and are written and shown without them.

use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::users::{AclAtRunTime, RulesText};
use crate::quorum::{Adopt, Level};
use crate::ring::{KeyHash, Placement};

/// A value and the bytes of the file that spell it.
#[derive(Clone, Debug, Default)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        toml::Spanned::<T>::deserialize(deserializer)
            .map(|spanned| Self { span: spanned.span(), value: spanned.into_inner() })
    }
}

impl<T: Serialize> Serialize for At<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// What quoit is told: who listens, which pools of stores there are, and how keys are placed on their nodes.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    /// File of users in the form of Redis's own (`aclfile`): lines of `user`, a name and rules. A relative path starts at
    /// the directory of this file. Users may stand here and in `[[user]]`, each once. It is read again by a reload: on
    /// `SIGHUP`, `POST /reload`, `ACL LOAD`, or when this file changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) aclfile: Option<At<String>>,
    /// Settings of the whole process.
    pub(super) proxy: ProxyTable,
    /// The port for metrics, health and reloads.
    pub(super) admin: AdminTable,
    /// One port for clients. At least one is needed.
    #[schemars(extend("required" = true), length(min = 1))]
    pub(super) listener: Vec<ListenerTable>,
    /// One set of stores that share a ring. At least one is needed.
    #[schemars(extend("required" = true), length(min = 1))]
    pub(super) pool: Vec<PoolTable>,
    /// One user that clients may sign in as.
    pub(super) user: Vec<UserTable>,
    /// One command that quoit does not know by itself.
    pub(super) command: Vec<CommandTable>,
}

/// A command of a module, or one that the stores have under another name: where its keys stand, so that it can be sent to
/// their nodes. Redis's own commands need none of these. All keys of a request have to be on one node. Rights: by the
/// categories `@read`, `@write` and `@all`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CommandTable {
    /// Its name, in any case, such as `JSON.GET`.
    #[schemars(extend("required" = true), length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<At<String>>,
    /// The place of its first key among the words of a request; the command itself is 0.
    #[schemars(range(min = 1, max = 255))]
    pub(super) first_key: u32,
    /// The place of its last key. Negative places count from the end: -1 is the last word. Default: one key.
    #[schemars(range(min = -255, max = 255))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_key: Option<i32>,
    /// How far two keys are apart: 2 where a value follows each.
    #[schemars(range(min = 1, max = 255))]
    pub(super) key_step: u32,
    /// Whether it may change a key. One that is wrongly said not to is sent to single replicas where keys have several
    /// copies, and changes only those.
    pub(super) writes: bool,
}

impl Default for CommandTable {
    fn default() -> Self {
        Self { name: None, first_key: 1, last_key: None, key_step: 1, writes: true }
    }
}

/// One user that clients may sign in as, on every listener. Without any there is `default`, who may do everything. See
/// docs/security.md.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct UserTable {
    /// Its name. `default` is who a client is before it signs in; unless it is `nopass` and `on`, or not named here and
    /// the listener has no password, clients must sign in first.
    #[schemars(extend("required" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<At<String>>,
    /// What it may do, in the rule language of Redis (`ACL SETUSER`), such as `on ~app:* +@all -@dangerous`. A new user is
    /// off, has no password and may do nothing. `#` and the SHA-256 of a password keeps the password itself out of the
    /// file; `>` and the password is taken, too. A change of rights holds from the next request on; who is signed in as a
    /// user that is gone, off, or has lost a password is disconnected.
    #[schemars(extend("required" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rules: Option<At<RulesText>>,
    /// File that holds one more password of this user. A relative path starts at the directory of this file. One trailing
    /// newline is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_file: Option<At<String>>,
    /// Environment variable that holds that password, instead of `password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_env: Option<At<String>>,
    /// Whether this user may run scripts and functions although it may not do everything. Quoit does not look into them,
    /// and on the stores they run with quoit's own rights: such a user can then reach any key that it can reach at all
    /// stores, by any command that scripts may use.
    pub(super) trust_scripts: bool,
}

/// Settings of the whole process.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ProxyTable {
    /// How many workers serve clients, each on a thread of its own with its own connections to every node. Default:
    /// one per core. More than the cores only costs memory and connections; fewer leaves cores to others on the
    /// machine. A change needs a restart.
    #[schemars(range(min = 1, max = 256))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workers: Option<usize>,
    /// How many clients may be connected at once, over all listeners. The next one is refused with an error. An idle
    /// client costs about a kilobyte of memory and one file descriptor.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) clients_max: usize,
    /// How many bytes the buffers of clients and store connections may hold together; each worker has an equal part.
    /// Beyond it a worker reads no more requests until some of its replies have been read, so that slow clients do not
    /// run the machine out of memory; when that lasts for a second, the clients that hold most are disconnected.
    /// Requests that are here are served. The parts of split replies are bounded by `multi_key_reply_bytes_max` instead,
    /// of which a worker holds four times as much in all. Less stops reading sooner. A change needs a restart.
    #[schemars(range(min = 16_777_216u64, max = 1_099_511_627_776u64))]
    pub(super) memory_bytes_max: u64,
    /// How long a shutdown waits for accepted requests to be answered before it closes their connections. Set it
    /// below the grace period of whatever supervises the process.
    #[schemars(range(min = 1, max = 3_600_000u64))]
    pub(super) drain_timeout_ms: u64,
    /// How many connections to stores the process may open in one second, over all nodes; each worker has an equal
    /// part, at least one a second. It keeps a fleet of proxies from holding down a store that is coming back. Less
    /// recovers more slowly. A change needs a restart.
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) connects_per_second_max: u32,
    /// From how many microseconds on a request is kept for `SLOWLOG GET`, from read to answered, the wait for its store
    /// included. 0 keeps every request, -1 none. While it is not -1 the beginning of each request is copied until it is
    /// answered. The log holds keys and values; nothing else does, and nobody but `SLOWLOG GET` shows it.
    #[schemars(range(min = -1, max = 86_400_000_000i64))]
    pub(super) slowlog_us: i64,
    /// How many requests `SLOWLOG` keeps, the newest ones, in the memory of the process. One takes 4 KiB at most.
    #[schemars(range(min = 0, max = 65_536))]
    pub(super) slowlog_len: usize,
    /// How many bytes the process may use to know which client has read which key, for `CLIENT TRACKING`; each worker has an
    /// equal part. A key costs its length and about 150 bytes. Where there are more, clients are told that some key has
    /// changed, so that it can be forgotten: less makes their caches less useful.
    #[schemars(range(min = 1_048_576u64, max = 1_099_511_627_776u64))]
    pub(super) tracking_bytes_max: u64,
    /// Whether `ACL SETUSER` and `ACL DELUSER` change users while quoit runs. What they change holds for this proxy alone, until
    /// it ends or a reload brings other users: several proxies then have different users unless each is told. `off` refuses
    /// both. Users made with `on` run no scripts unless they may do everything; with `trusting-scripts` they run any that
    /// their commands include, see `trust_scripts` in `[[user]]`.
    pub(super) acl_at_run_time: AclAtRunTime,
}

impl Default for ProxyTable {
    fn default() -> Self {
        Self {
            workers: None,
            clients_max: 10_000,
            memory_bytes_max: 1 << 30,
            drain_timeout_ms: 10_000,
            connects_per_second_max: 1_000,
            slowlog_us: 10_000,
            slowlog_len: 128,
            tracking_bytes_max: 256 << 20,
            acl_at_run_time: AclAtRunTime::Off,
        }
    }
}

/// The port for metrics, health and reloads: HTTP, for operators and their tools.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AdminTable {
    /// IP address and port, or `off`. Other than on loopback a token is required. A change needs a restart.
    pub(super) bind: At<String>,
    /// File that holds the token which requests that change something must carry (`Authorization: Bearer …`). A
    /// relative path starts at the directory of this file. One trailing newline is ignored. A change needs a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<At<String>>,
    /// Environment variable that holds the token, instead of `token_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_env: Option<At<String>>,
    /// Names under which the port may be asked, besides its addresses and `localhost`: a request whose `Host` is
    /// another name is refused unless it carries the token, so that no web page can read the port through a browser.
    /// A change needs a restart.
    #[schemars(length(max = 64))]
    pub(super) host_names: Vec<At<String>>,
}

impl Default for AdminTable {
    fn default() -> Self {
        let bind = At { value: "127.0.0.1:9380".to_owned(), span: 0..0 };
        Self { bind, token_file: None, token_env: None, host_names: Vec::new() }
    }
}

/// A protocol that clients or stores speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// RESP2 and RESP3, as Redis and Valkey speak it.
    #[default]
    Redis,
}

/// One port for clients.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListenerTable {
    /// What logs and metrics call this listener. Default: the address in `bind`, as written. Metrics take a new name
    /// with a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<At<String>>,
    /// IP address and port to listen on, such as `127.0.0.1:6380` or `[::]:6380`; `[::]` takes IPv6 alone. Or a Unix socket,
    /// such as `unix:/run/quoit/quoit.sock`: a socket there that nobody serves is replaced. A change needs a restart: a reload that adds a listener leaves it closed, and one that drops a listener is refused.
    #[schemars(extend("required" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bind: Option<At<String>>,
    /// The permissions of a Unix socket as `chmod` takes them: who may write may connect. Default: the user that quoit runs
    /// as. A change needs a restart.
    pub(super) socket_mode: At<String>,
    /// What clients speak here.
    pub(super) protocol: Protocol,
    /// Name of the pool that serves every key no route takes.
    #[schemars(extend("required" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pool: Option<At<String>>,
    /// Sends the keys with a prefix to another pool. The longest matching prefix wins; the order in the file does
    /// not matter.
    pub(super) route: Vec<RouteTable>,
    /// File that holds the password which clients must give by `AUTH` or `HELLO` before anything else, as the user
    /// `default`; here it takes the place of all passwords that `default` has elsewhere. Default: no password is asked
    /// for, unless the user `default` says otherwise. A change does not ask those again who are connected. A relative path
    /// starts at the directory of this file. One trailing newline is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_file: Option<At<String>>,
    /// Environment variable that holds the password, instead of `password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_env: Option<At<String>>,
    /// TLS 1.2 and 1.3 towards clients. Without this table they speak plain text; with it they must speak TLS. The files are
    /// watched: a new certificate is taken over by itself, for new connections. See docs/security.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<At<ListenerTlsTable>>,
    /// How many bytes one argument of a request may have: a key, a value. A longer one is a protocol error, and the
    /// client is disconnected. 512 MiB is the limit of Redis itself (`proto-max-bulk-len`). Less protects the stores
    /// from mistakes.
    #[schemars(range(min = 1_024u64, max = 536_870_912u64))]
    pub(super) request_bytes_max: u64,
    /// How many bytes of one request are held whole, where it cannot be passed on while it is received: more than one
    /// key (`MSET`, `DEL`), or a key that a route rewrites. A larger one is read, dropped and answered with an error.
    /// Requests for one key stream through from `stream_threshold_bytes` on.
    #[schemars(range(min = 1_024u64, max = 536_870_912u64))]
    pub(super) query_buffer_bytes_max: u64,
    /// How many bytes of replies and messages may be held for one client that does not read them; a client beyond it is
    /// disconnected. From 1 MiB on nothing more is read from that client, and a big reply waits at its store, on a
    /// connection of its own. More than that is held for the replies to requests that were read before, and where
    /// other clients have waited behind a big reply for a second. More lets slow clients hold more memory; less cuts
    /// them sooner.
    #[schemars(range(min = 65_536u64, max = 4_294_967_296u64))]
    pub(super) client_output_bytes_max: u64,
    /// How many keys one command may name, where it may name several. A command with more is refused with an error
    /// before anything is sent.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) keys_per_command_max: usize,
    /// How many bytes the nodes' replies to one split command may have together, as with `MGET` over several nodes.
    /// The keys of a node whose reply does not fit get an error. Less bounds memory; a command whose keys are all on
    /// one node is not split, and its reply not counted.
    #[schemars(range(min = 65_536u64, max = 4_294_967_296u64))]
    pub(super) multi_key_reply_bytes_max: u64,
    /// How many bytes the reply to one `KEYS` may have. A longer one becomes an error: `SCAN` gives the same names a page
    /// at a time. The reply is held until the client has read it, so less bounds memory.
    #[schemars(range(min = 65_536u64, max = 4_294_967_296u64))]
    pub(super) keys_reply_bytes_max: u64,
    /// How long one command that goes over all keys may take, in milliseconds: `KEYS`, `RANDOMKEY`, and in a pool with
    /// several replicas `DBSIZE`, `FLUSHALL` and `FLUSHDB`. Afterwards the client gets an error. More suits larger pools;
    /// less ends sooner what costs the stores much.
    #[schemars(range(min = 100, max = 86_400_000u64))]
    pub(super) keyspace_timeout_ms: u64,
    /// How long a client may send nothing, with no reply due, before it is disconnected. Default: for ever, as in
    /// Redis; a client whose machine vanished is found out by TCP keepalive after some ten minutes.
    #[schemars(range(min = 1_000u64, max = 604_800_000u64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle_timeout_ms: Option<u64>,
    /// Whether clients made for Redis Cluster may connect here: `CLUSTER SLOTS`, `SHARDS`, `NODES` and their like then
    /// say that this address has all slots, `READONLY`, `READWRITE` and `ASKING` are accepted, and `HELLO` and `INFO`
    /// say `cluster`. Keys are placed by the ring as ever: keys of one slot need not be on one node, so a command whose
    /// keys must be together gets `-CROSSSLOT` unless they share a `hash_tag`, as with any other client.
    pub(super) cluster_emulation: bool,
    /// Whether `PING` asks the stores. Otherwise quoit answers it, which says that the proxy is there. With this the answer is an
    /// error if so many stores do not answer, or are busy with a script (`-BUSY`), that some keys cannot be served. It is not
    /// for what takes proxies out of service: all proxies have the same stores, and one busy store would take them all. Each
    /// `PING` costs one to every store.
    pub(super) ping_asks_stores: bool,
    /// Host name or address, and port, under which clients made for Redis Cluster reach this listener. Default: the
    /// address that the client has connected to. Needed where that is another one for clients, behind a load balancer
    /// for instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster_announce: Option<At<String>>,
}

impl Default for ListenerTable {
    fn default() -> Self {
        Self {
            name: None,
            bind: None,
            socket_mode: At { value: "0600".to_owned(), span: 0..0 },
            protocol: Protocol::Redis,
            pool: None,
            route: Vec::new(),
            password_file: None,
            password_env: None,
            tls: None,
            request_bytes_max: 512 << 20,
            query_buffer_bytes_max: 64 << 20,
            client_output_bytes_max: 64 << 20,
            keys_per_command_max: 100_000,
            multi_key_reply_bytes_max: 64 << 20,
            keys_reply_bytes_max: 64 << 20,
            keyspace_timeout_ms: 60_000,
            idle_timeout_ms: None,
            cluster_emulation: false,
            ping_asks_stores: false,
            cluster_announce: None,
        }
    }
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ClientAuth {
    /// They are not asked for one.
    None,
    /// They are asked, and may have none. One that is shown must be good.
    Optional,
    /// Who has none is turned away.
    Required,
}

/// TLS towards clients.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListenerTlsTable {
    /// File with the certificate that clients are shown, in PEM, and behind it those that lead to one that clients know. A
    /// relative path starts at the directory of this file.
    #[schemars(extend("required" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cert_file: Option<At<String>>,
    /// File with the private key of that certificate, in PEM and without a passphrase: PKCS #8, PKCS #1 or SEC 1.
    #[schemars(extend("required" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_file: Option<At<String>>,
    /// File with the certificates of who may issue certificates to clients, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_ca_file: Option<At<String>>,
    /// Whether clients show a certificate. Default: `required` with a `client_ca_file`, which it needs, otherwise `none`. A
    /// certificate opens the connection; it makes nobody a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_auth: Option<At<ClientAuth>>,
    /// How long a client may take for the handshake before it is disconnected. Less spares memory when many connect and say
    /// nothing; too little keeps clients on slow networks out.
    #[schemars(range(min = 100, max = 600_000u64))]
    pub(super) handshake_timeout_ms: u64,
}

impl Default for ListenerTlsTable {
    fn default() -> Self {
        Self { cert_file: None, key_file: None, client_ca_file: None, client_auth: None, handshake_timeout_ms: 10_000 }
    }
}

/// TLS towards the stores of a pool.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PoolTlsTable {
    /// File with the certificates of who may issue certificates to stores, in PEM. Default: those that the system trusts. A
    /// relative path starts at the directory of this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ca_file: Option<At<String>>,
    /// File with the certificate that quoit shows to stores that ask for one (`tls-auth-clients`, which Redis has on by
    /// default), in PEM. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cert_file: Option<At<String>>,
    /// File with the private key of that certificate, in PEM and without a passphrase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_file: Option<At<String>>,
    /// The name that every store's certificate must be for, among its subject alternative names. Default: the host in the
    /// address of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_name: Option<At<String>>,
}

/// Sends the keys with a prefix to another pool.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RouteTable {
    /// What a key starts with to be taken by this route.
    #[schemars(extend("required" = true), length(min = 1, max = 1_024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prefix: Option<At<String>>,
    /// Name of the pool that serves these keys.
    #[schemars(extend("required" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pool: Option<At<String>>,
    /// What the store sees in place of the prefix: `""` strips it. Default: the key is sent as it came.
    #[schemars(length(max = 1_024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replace_prefix: Option<String>,
    /// What commands for these keys want of the replicas, in place of the `level` of the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) level: Option<At<Level>>,
}

/// One set of stores that share a ring.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PoolTable {
    /// What listeners, routes, logs and metrics call this pool.
    #[schemars(extend("required" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<At<String>>,
    /// What the stores speak.
    pub(super) protocol: Protocol,
    /// On how many nodes each key is kept, in different zones as far as there are some. With 1 keys are sent as they
    /// come and a dead node's keys fail. With more, a key is served while a majority of its nodes answers: 3 bear the
    /// loss of one node, 5 of two. 2 bear no loss: the data is safe, but a dead node stops its keys.
    /// Beside each key the stores then hold a record of 19 to 108 bytes. More cost memory and a request to each. Not
    /// more than there are nodes, and a reload cannot change it.
    #[schemars(range(min = 1, max = 7))]
    pub(super) replicas: At<u8>,
    /// How many databases clients may `SELECT`. Default: 16, the number of Redis; 1 with more than one replica, which
    /// cannot have more: the records of keys and what a store knows of its pool are kept in database 0. Database 0 costs the
    /// same whatever this is. Each other one that clients use has connections of its own to the stores. Not more than the stores'
    /// own `databases`.
    #[schemars(range(min = 1, max = 1_024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) databases: Option<At<u16>>,
    /// What commands want of the replicas before they are answered. Default: `linearizable`. Only with more than one
    /// replica. A route may name another for its keys. Unless it is `eventual`, the stores must not evict keys:
    /// `maxmemory-policy noeviction`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) level: Option<At<Level>>,
    /// How many replicas must have taken a write before it is answered. Default: a majority. More lose less when
    /// stores lose their data; fewer nodes may then be dead. Unless the level is `eventual`, twice of it must be more
    /// than `replicas`, and it and `read_quorum` together, too.
    #[schemars(range(min = 1, max = 7))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) write_quorum: Option<At<u8>>,
    /// How many replicas a read asks at least. Default: a majority. A read is answered when this many agree, and at
    /// least `replicas` - `read_quorum` + 1, so that the next one sees the same: a smaller number than a majority
    /// makes no read cheaper and needs a larger `write_quorum`.
    #[schemars(range(min = 1, max = 7))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) read_quorum: Option<At<u8>>,
    /// How long a replicated operation may take with all its tries, in milliseconds. Afterwards the client gets
    /// `-NOREPLICAS` if it was certainly not applied, and `-UNKNOWN` if it may have been. Less answers sooner when
    /// replicas are slow or many clients want one key; more lets more operations succeed.
    #[schemars(range(min = 10, max = 600_000u64))]
    pub(super) operation_timeout_ms: u64,
    /// How long a replicated read waits for the replicas it asked before it asks one more, in milliseconds. 0: never.
    /// Less hides slow replicas sooner and sends more requests; set it above what reads normally take.
    #[schemars(range(max = 60_000u64))]
    pub(super) hedge_ms: u64,
    /// How many keys of the pool may wait in each worker to be repaired in the background. Beyond it keys are
    /// dropped and found again by the next read. More remember more of a replica's absence and hold more memory.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(super) repair_queue_len: usize,
    /// How long the record of a deleted key is kept, in seconds. A replica that was away for longer may bring deleted
    /// keys back, unless it is emptied before it returns. Less saves memory where many keys are deleted.
    #[schemars(range(min = 60, max = 315_360_000u64))]
    pub(super) tombstone_grace_s: u64,
    /// Which value wins when replicas hold different values of a key from before quoit. Only a key without any record
    /// asks this; the first command that touches the key settles it.
    pub(super) adopt: Adopt,
    /// How keys are placed on nodes.
    pub(super) ring: RingTable,
    /// One store. At least one is needed.
    #[schemars(extend("required" = true), length(min = 1, max = 4_096))]
    pub(super) node: Vec<NodeTable>,
    /// User name for every node that does not name its own. Default: Redis's `default` user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) username: Option<At<String>>,
    /// File that holds the password for every node that does not name its own. A relative path starts at the
    /// directory of this file. One trailing newline is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_file: Option<At<String>>,
    /// Environment variable that holds that password, instead of `password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_env: Option<At<String>>,
    /// TLS 1.2 and 1.3 towards all stores of the pool, which must show a certificate of a known issuer for the name under which
    /// they are addressed. Without this table quoit speaks plain text to them; an empty one will do. The handshake is part of
    /// `connect_timeout_ms`. The files are watched: new ones are taken over by themselves, for new connections. See
    /// docs/security.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<At<PoolTlsTable>>,
    /// How long opening a connection to a node may take, name look-up, TLS and authentication included. Less notices a
    /// dead machine sooner; too little never connects over a slow network. A node that refuses, or does not answer in
    /// time, is left alone at once.
    #[schemars(range(min = 1, max = 60_000u64))]
    pub(super) connect_timeout_ms: u64,
    /// How long a request may wait in the proxy because its node does not take it: the connection is still being
    /// opened, or its socket is full. Afterwards it and those that wait behind it get an error; none of them was
    /// applied. Each counts as a failure of the node. The time of `service_timeout_ms` begins after it.
    #[schemars(range(min = 1, max = 600_000u64))]
    pub(super) queue_timeout_ms: u64,
    /// How long a node may take to answer a request that was sent, and to go on with a reply that it began. Afterwards
    /// the client gets an error, and the connection takes no further request: it is closed when all that are on it are
    /// answered or given up. Too little punishes slow commands; more keeps clients waiting on a node that hangs.
    #[schemars(range(min = 1, max = 600_000u64))]
    pub(super) service_timeout_ms: u64,
    /// How many bytes may wait unsent on one store connection: each worker has one to each node for each protocol
    /// version that its clients speak. Beyond it requests for that node are answered with an overload error. A single
    /// request that is larger is sent all the same. Less bounds memory; more rides out longer stalls.
    #[schemars(range(min = 65_536u64, max = 4_294_967_296u64))]
    pub(super) queue_bytes_max: usize,
    /// How many requests may be unanswered on one store connection. Beyond it requests for that node are answered with
    /// an overload error. Less answers sooner when a node is slow; more holds more in memory.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(super) in_flight_max: usize,
    /// How many store connections each worker may hold to each node, in each database, for clients that need one to
    /// themselves: those that `WATCH` keys or wait in a blocking command. Beyond it such a request is answered with an overload error.
    /// Less bounds what stores have to accept; more lets more clients wait. It should be above the number of clients that
    /// block at a time.
    #[schemars(range(min = 0, max = 65_536))]
    pub(super) exclusive_connections_max: usize,
    /// From which size on a request for one key is passed on while it is received, and a request or reply has a store
    /// connection to itself meanwhile, so that others do not wait behind it. For requests that of the listener's `pool`
    /// counts. Replies pass in pieces from 32 KiB on in any case. Less opens more connections, up to 16 at a time for
    /// each node and worker; more gathers larger requests in memory and lets others wait behind larger replies.
    #[schemars(range(min = 16_384u64, max = 536_870_912u64))]
    pub(super) stream_threshold_bytes: usize,
    /// When the proxy stops sending to a node that fails, and how it comes back. Its keys fail at once meanwhile; they
    /// are never served by another node.
    pub(super) breaker: BreakerTable,
}

impl Default for PoolTable {
    fn default() -> Self {
        Self {
            name: None,
            protocol: Protocol::Redis,
            replicas: At { value: 1, span: 0..0 },
            databases: None,
            level: None,
            write_quorum: None,
            read_quorum: None,
            operation_timeout_ms: 2_000,
            hedge_ms: 20,
            repair_queue_len: 10_000,
            tombstone_grace_s: 864_000,
            adopt: Adopt::Majority,
            ring: RingTable::default(),
            node: Vec::new(),
            username: None,
            password_file: None,
            password_env: None,
            tls: None,
            connect_timeout_ms: 1_000,
            queue_timeout_ms: 1_000,
            service_timeout_ms: 5_000,
            queue_bytes_max: 16 << 20,
            in_flight_max: 100_000,
            exclusive_connections_max: 1_024,
            stream_threshold_bytes: 1 << 20,
            breaker: BreakerTable::default(),
        }
    }
}

/// How keys are placed on nodes.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RingTable {
    /// The rule that gives a key its node. Default: `ketama`, which moves the least when nodes come and go and honours
    /// weights. The `ketama-twemproxy`, `ketama-libmemcached` and `modula` placements agree with existing fleets of
    /// those programs; `slots` with Redis Cluster. A change moves most keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) placement: Option<At<Placement>>,
    /// The hash of the sharding key. Default: what the placement's own world uses: `fnv1a_64` for `ketama-twemproxy`
    /// and `modula`, `md5` for `ketama-libmemcached`, `xxh64` for `maglev`, `crc16` for `slots`, else `xxh3`. `range`
    /// has none. A change moves most keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hash: Option<At<KeyHash>>,
    /// Two characters, such as `{}`: if a key holds something between them, only that is hashed, so keys that share
    /// it share a node. `""` hashes whole keys. Default: `{}` as in Redis Cluster, but whole keys for
    /// `ketama-twemproxy`, `ketama-libmemcached`, `modula` and `range`, as their own programs do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hash_tag: Option<At<String>>,
    /// A regular expression instead of `hash_tag`: its first group, or else its whole match, is what is hashed. A key
    /// that does not match is hashed whole. It runs once a request: keep it simple.
    #[schemars(length(min = 1, max = 1_024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_regex: Option<At<String>>,
}

/// One store.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NodeTable {
    /// The identity of the node on the ring. The address may change and nothing moves; a new name is a new node.
    #[schemars(extend("required" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<At<String>>,
    /// Where the store listens: `host:port`, `redis://host:port` or `unix:/path/to/socket`; `rediss://host:port`
    /// where the pool has `tls`. A host name is looked up
    /// again at every new connection and every 30 seconds; requests go where it leads then. While the look-up fails or
    /// finds nothing, the last good answer is used.
    #[schemars(extend("required" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<At<String>>,
    /// The node's part of the keys relative to the others. Only placements that honour weights accept other than 1.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) weight: At<u32>,
    /// Where the node is, such as a rack or an availability zone. The replicas of a key go to different zones as far as
    /// there are some, so that the loss of one zone is that of one replica; with one replica it changes nothing.
    /// Shown by `quoit route` and on `/ring`. Default: a zone of its own.
    #[schemars(length(min = 1, max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<String>,
    /// What is hashed for this node's place on the ring, if not `name`. For fleets whose ring was made of other names.
    /// Only for placements that hash names: not `jump`, `slots` and `range`.
    #[schemars(length(min = 1, max = 256))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ring_name: Option<At<String>>,
    /// With placement `slots`: the hash slots of this node, each a number or a range such as `"0-5460"`. All 16,384
    /// must be given to exactly one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) slots: Option<At<Vec<At<String>>>>,
    /// With placement `range`: the first key that is this node's. Exactly one node starts at `""`.
    #[schemars(length(max = 1_024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range_start: Option<At<String>>,
    /// User name for this node. Default: that of the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) username: Option<At<String>>,
    /// File that holds the password for this node. Default: that of the pool. A relative path starts at the directory
    /// of this file. One trailing newline is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_file: Option<At<String>>,
    /// Environment variable that holds that password, instead of `password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_env: Option<At<String>>,
}

impl Default for NodeTable {
    fn default() -> Self {
        Self {
            name: None,
            address: None,
            weight: At { value: 1, span: 0..0 },
            zone: None,
            ring_name: None,
            slots: None,
            range_start: None,
            username: None,
            password_file: None,
            password_env: None,
        }
    }
}

/// When the proxy stops sending to a node that fails, and how it comes back.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BreakerTable {
    /// How many failures in a row until the node is left alone: each request that times out, and each connection that
    /// the node closes with requests on it or before it has served any. Any reply counts as a success. A connection
    /// that is refused needs no counting. Each worker judges for itself. Fewer fails fast sooner; more forgives short
    /// trouble.
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) failures: u32,
    /// How long to wait before the first probe of a failed node. Each failed probe doubles the wait. The true wait is
    /// between half of it and all of it, by chance, so that a fleet of proxies does not probe at once.
    #[schemars(range(min = 1, max = 600_000u64))]
    pub(super) backoff_min_ms: At<u64>,
    /// How long to wait between probes at most. Less finds a returning node sooner; more spares it.
    #[schemars(range(min = 1, max = 600_000u64))]
    pub(super) backoff_max_ms: At<u64>,
    /// How long after it came back until a node may have `in_flight_max` requests unanswered again. It begins with 64
    /// of them and the bound grows evenly; what is above it gets an overload error. 0 gives all at once.
    #[schemars(range(max = 600_000u64))]
    pub(super) ramp_ms: u64,
}

impl Default for BreakerTable {
    fn default() -> Self {
        Self {
            failures: 5,
            backoff_min_ms: At { value: 100, span: 0..0 },
            backoff_max_ms: At { value: 10_000, span: 0..0 },
            ramp_ms: 1_000,
        }
    }
}
