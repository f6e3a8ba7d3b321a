//! What quoit itself says to clients: small encoders, and every error text in one place.
//!
//! Where Redis has a text for the same thing it is used to the letter, because clients and people match on it
//! (observed on Redis 7.0.15). Where quoit has something of its own to say, the text names the verb or the node.
//! Each function appends one whole reply to `out`.
//!
//! # Invariants
//!
//! * What came from a client, a store or a file cannot end a line: CR, LF and NUL in it become spaces.

use super::{Args, Row};
use std::fmt::{Display, Write as _};

/// The protocol a client has chosen by `HELLO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resp {
    /// RESP2, which every connection starts with.
    #[default]
    Two,
    /// RESP3.
    Three,
}

impl Resp {
    /// The number in `HELLO`.
    pub fn number(self) -> i64 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

/// How many bytes of a client's own words an error repeats, as the servers do.
const ECHO_BYTES_MAX: usize = 128;

// --- encoders -------------------------------------------------------------------------------------------------------

/// `+text`.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    line(out, b'+', text);
}

/// `+OK`.
pub fn ok(out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK\r\n");
}

/// `-text`; the text begins with its code, such as `ERR`.
pub fn error(out: &mut Vec<u8>, text: &str) {
    line(out, b'-', text);
}

/// `:number`.
pub fn integer(out: &mut Vec<u8>, number: i64) {
    line(out, b':', number);
}

/// A bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    line(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// A number with a point: a bulk string in RESP2.
pub fn double(out: &mut Vec<u8>, resp: Resp, number: f64) {
    match resp {
        Resp::Two => bulk(out, number.to_string().as_bytes()),
        Resp::Three => line(out, b',', number),
    }
}

/// Text with its format: a verbatim string in RESP3, a bulk string in RESP2. `INFO` and `CLIENT LIST` answer so.
pub fn verbatim_text(out: &mut Vec<u8>, resp: Resp, text: &[u8]) {
    match resp {
        Resp::Two => bulk(out, text),
        Resp::Three => {
            line(out, b'=', text.len() + b"txt:".len());
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// No value: a null bulk string in RESP2.
pub fn null(out: &mut Vec<u8>, resp: Resp) {
    out.extend_from_slice(match resp {
        Resp::Two => b"$-1\r\n",
        Resp::Three => b"_\r\n",
    });
}

/// No array: a null array in RESP2.
pub fn null_array(out: &mut Vec<u8>, resp: Resp) {
    out.extend_from_slice(match resp {
        Resp::Two => b"*-1\r\n",
        Resp::Three => b"_\r\n",
    });
}

/// The head of an array; `len` elements follow.
pub fn array_header(out: &mut Vec<u8>, len: usize) {
    line(out, b'*', len);
}

/// The head of a map; `pairs` keys and values follow. An array of twice that in RESP2.
pub fn map_header(out: &mut Vec<u8>, resp: Resp, pairs: usize) {
    match resp {
        Resp::Two => line(out, b'*', pairs.saturating_mul(2)),
        Resp::Three => line(out, b'%', pairs),
    }
}

/// The head of a set; `len` elements follow. An array in RESP2.
pub fn set_header(out: &mut Vec<u8>, resp: Resp, len: usize) {
    match resp {
        Resp::Two => line(out, b'*', len),
        Resp::Three => line(out, b'~', len),
    }
}

// --- the request cannot be served as it is ---------------------------------------------------------------------------

/// No such verb; repeats the beginning of the request as the servers do.
pub fn unknown_command(out: &mut Vec<u8>, args: &Args<'_>) {
    let mut text = Vec::new();
    for argument in args.iter().skip(1) {
        let Some(room) = ECHO_BYTES_MAX.checked_sub(text.len()).filter(|room| *room > 0) else { break };
        text.push(b'\'');
        text.extend_from_slice(c_string(argument, room));
        text.extend_from_slice(b"' ");
    }
    let verb = c_string(args.get(0).unwrap_or_default(), ECHO_BYTES_MAX);
    error_bytes(out, &[b"ERR unknown command '", verb, b"', with args beginning with: ", &text]);
}

/// The container has no such subcommand.
pub fn unknown_subcommand(out: &mut Vec<u8>, args: &Args<'_>) {
    let container = args.get(0).unwrap_or_default().to_ascii_uppercase();
    let name = c_string(args.get(1).unwrap_or_default(), ECHO_BYTES_MAX);
    let container = c_string(&container, usize::MAX);
    error_bytes(out, &[b"ERR unknown subcommand '", name, b"'. Try ", container, b" HELP."]);
}

/// Too few or too many arguments.
pub fn wrong_arity(out: &mut Vec<u8>, row: &Row) {
    error_bytes(out, &[b"ERR wrong number of arguments for '", row.name.as_bytes(), b"' command"]);
}

/// A digest of a script whose text nobody here has seen.
pub fn no_script(out: &mut Vec<u8>) {
    error(out, "NOSCRIPT No matching script. Please use EVAL.");
}

/// A function that no store has.
pub fn no_function(out: &mut Vec<u8>) {
    error(out, "ERR Function not found");
}

/// Keys that must share a node do not; the text of Redis Cluster.
pub fn crossslot(out: &mut Vec<u8>) {
    error(out, "CROSSSLOT Keys in request don't hash to the same slot");
}

/// `EXEC` after a command of the transaction was refused.
pub fn exec_aborted(out: &mut Vec<u8>) {
    error(out, "EXECABORT Transaction discarded because of previous errors.");
}

/// `EXEC` that the store refuses, or one of the commands before it.
pub fn exec_aborted_because(out: &mut Vec<u8>, why: &[u8]) {
    let why = why.strip_suffix(b"\r\n").unwrap_or(why);
    error_bytes(out, &[b"EXECABORT Transaction discarded because of: ", why]);
}

/// `MULTI` between `MULTI` and `EXEC`.
pub fn nested_multi(out: &mut Vec<u8>) {
    error(out, "ERR MULTI calls can not be nested");
}

/// `EXEC` or `DISCARD` without `MULTI`.
pub fn without_multi(out: &mut Vec<u8>, row: &Row) {
    error_line(out, format_args!("ERR {} without MULTI", spoken(row)));
}

/// `WATCH` between `MULTI` and `EXEC`.
pub fn watch_inside_multi(out: &mut Vec<u8>) {
    error(out, "ERR WATCH inside MULTI is not allowed");
}

/// A command that the servers do not take in a transaction.
pub fn forbidden_in_transaction(out: &mut Vec<u8>) {
    error(out, "ERR Command not allowed inside a transaction");
}

/// A command that quoit cannot make part of a transaction.
pub fn not_in_transaction(out: &mut Vec<u8>, row: &Row) {
    error_line(
        out,
        format_args!("ERR '{}' is refused by quoit inside a transaction: it is not about one node", spoken(row)),
    );
}

/// A command that scripts cannot run, and so no transaction of a replicated pool can.
pub fn not_in_replicated_transaction(out: &mut Vec<u8>, row: &Row) {
    error_line(
        out,
        format_args!(
            "ERR '{}' is refused by quoit inside a transaction of a pool with replicas: stores do not run it in scripts",
            spoken(row)
        ),
    );
}

/// A transaction of a replicated pool in which nothing names a key.
pub fn no_key_in_transaction(out: &mut Vec<u8>) {
    error(out, "ERR a transaction has to name a key where keys have several copies: name one in a script's KEYS");
}

/// A verb quoit never serves.
pub fn refused(out: &mut Vec<u8>, row: &Row, reason: &str) {
    error_line(out, format_args!("ERR '{}' is refused by quoit: {reason}", spoken(row)));
}

/// `ACL SETUSER` of a name that rules could not name.
pub fn user_name_with_spaces(out: &mut Vec<u8>) {
    error(out, "ERR Usernames can't contain spaces or null characters");
}

/// The same of one that cannot be shown.
pub fn user_name_not_text(out: &mut Vec<u8>) {
    error(out, "ERR quoit takes names of users in UTF-8 alone");
}

/// `ACL SETUSER` with a selector that does not end.
pub fn unmatched_selector(out: &mut Vec<u8>, word: &[u8]) {
    error_line(
        out,
        format_args!("ERR Unmatched parenthesis in acl selector starting at '{}'.", String::from_utf8_lossy(word)),
    );
}

/// `ACL SETUSER` with a rule that is none.
pub fn wrong_rule(out: &mut Vec<u8>, rule: &[u8], why: &dyn std::fmt::Display) {
    error_line(out, format_args!("ERR Error in ACL SETUSER modifier '{}': {why}", String::from_utf8_lossy(rule)));
}

/// `ACL SETUSER` of one user more.
pub fn too_many_users(out: &mut Vec<u8>, most: usize) {
    error_line(out, format_args!("ERR there are {most} users already; ACL DELUSER some"));
}

/// `ACL DELUSER default`.
pub fn default_user_stays(out: &mut Vec<u8>) {
    error(out, "ERR The 'default' user cannot be removed");
}

/// `ACL LOAD` and `ACL SAVE` without a file of users.
pub fn no_acl_file(out: &mut Vec<u8>) {
    error(
        out,
        "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER \
         command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store \
         users in the Redis configuration.",
    );
}

/// A verb quoit does not serve yet.
pub fn later(out: &mut Vec<u8>, row: &Row, reason: &str) {
    error_line(out, format_args!("ERR '{}' is not supported by quoit yet: {reason}", spoken(row)));
}

/// An option or argument out of place.
pub fn syntax_error(out: &mut Vec<u8>) {
    error(out, "ERR syntax error");
}

/// A number was expected.
pub fn not_an_integer(out: &mut Vec<u8>) {
    error(out, "ERR value is not an integer or out of range");
}

/// A time to wait that is no number of seconds.
pub fn timeout_not_a_float(out: &mut Vec<u8>) {
    error(out, "ERR timeout is not a float or out of range");
}

/// A time to wait that is no number of milliseconds.
pub fn timeout_not_an_integer(out: &mut Vec<u8>) {
    error(out, "ERR timeout is not an integer or out of range");
}

/// A time to wait below zero.
pub fn timeout_negative(out: &mut Vec<u8>) {
    error(out, "ERR timeout is negative");
}

/// A time to wait beyond what a clock counts.
pub fn timeout_out_of_range(out: &mut Vec<u8>) {
    error(out, "ERR timeout is out of range");
}

/// To a client that waited, and was told to stop.
pub fn unblocked(out: &mut Vec<u8>) {
    error(out, "UNBLOCKED client unblocked via CLIENT UNBLOCK");
}

/// `CLIENT UNBLOCK` with another reason than it knows.
pub fn unblock_reason(out: &mut Vec<u8>) {
    error(out, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
}

/// More keys or a bigger reply than quoit holds in memory for one request.
pub fn too_large(out: &mut Vec<u8>, what: &str, limit: usize) {
    error_line(out, format_args!("ERR {what} exceeds quoit's limit of {limit}"));
}

/// `SCAN` with a cursor that is no number.
pub fn invalid_cursor(out: &mut Vec<u8>) {
    error(out, "ERR invalid cursor");
}

/// `KEYS` with more names than one reply may have.
pub fn keys_too_many(out: &mut Vec<u8>, limit: usize) {
    error_line(
        out,
        format_args!("ERR the reply to KEYS exceeds quoit's limit of {limit} bytes (keys_reply_bytes_max); use SCAN"),
    );
}

/// A command about all keys that took too long.
pub fn keyspace_timeout(out: &mut Vec<u8>, verb: &str, limit_ms: u128) {
    error_line(
        out,
        format_args!(
            "ERR {verb} was not done within {limit_ms} ms (keyspace_timeout_ms), and what it did is not undone"
        ),
    );
}

/// What every node has to do, and some did not. It may be repeated.
pub fn incomplete(out: &mut Vec<u8>, verb: &str, why: &str) {
    error_line(out, format_args!("ERR {verb} is not complete, repeat it: {why}"));
}

/// The bytes are no request; the connection is closed after it. `what` as the servers say it: `invalid bulk length`.
pub fn protocol_error(out: &mut Vec<u8>, what: &str) {
    error_line(out, format_args!("ERR Protocol error: {what}"));
}

// --- the request cannot be served now ---------------------------------------------------------------------------------

/// A node gave no reply. Its keys are never served by another node, so the client must know which it is; `why` says
/// whether the command may have been applied.
pub fn node_failed(out: &mut Vec<u8>, node: &str, why: impl Display) {
    error_line(out, format_args!("ERR node {node}: {why}"));
}

/// An error in a store's own words.
pub fn store_error(out: &mut Vec<u8>, text: &[u8]) {
    error_line(out, format_args!("{}", String::from_utf8_lossy(text)));
}

/// A write that some replicas may have taken, and not enough are known to.
pub fn unknown_outcome(out: &mut Vec<u8>, why: impl Display) {
    error_line(out, format_args!("UNKNOWN the command may or may not have been applied: {why}"));
}

/// A command that too few replicas could serve; nothing was changed.
pub fn no_replicas(out: &mut Vec<u8>, why: impl Display) {
    error_line(out, format_args!("NOREPLICAS too few replicas, nothing was changed: {why}"));
}

/// A key that quoit keeps for itself.
pub fn reserved_key(out: &mut Vec<u8>) {
    error_line(
        out,
        format_args!("ERR keys that begin with \\x00q belong to quoit in a replicated pool; use another key"),
    );
}

/// Whether a reply is one of the two of a replicated pool that say that replicas were missing: nothing that the client
/// asked for is wrong. Stores have a `NOREPLICAS` of their own, in other words.
pub fn is_unavailable(reply: &[u8]) -> bool {
    reply.starts_with(b"-UNKNOWN the command may or may not") || reply.starts_with(b"-NOREPLICAS too few replicas,")
}

/// No route or pool takes the key.
pub fn no_pool(out: &mut Vec<u8>) {
    error(out, "ERR no pool is configured for this key");
}

/// The listener has as many clients as it may; the connection is closed after it.
pub fn too_many_clients(out: &mut Vec<u8>) {
    error(out, "ERR max number of clients reached");
}

/// A client that speaks plain text where TLS is spoken: all that it can read.
pub fn tls_needed(out: &mut Vec<u8>) {
    error(out, "ERR this port speaks TLS: connect with TLS, such as redis-cli --tls");
}

/// A client that speaks RESP2 and has subscriptions can tell messages and replies apart only where there are few replies.
pub fn subscribed(out: &mut Vec<u8>, row: &Row) {
    error_line(
        out,
        format_args!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
             context",
            row.name
        ),
    );
}

// --- connection commands ----------------------------------------------------------------------------------------------

/// `HELLO` with a version that does not exist.
pub fn noproto(out: &mut Vec<u8>) {
    error(out, "NOPROTO unsupported protocol version");
}

/// `HELLO` with something that is no version.
pub fn protocol_version_not_an_integer(out: &mut Vec<u8>) {
    error(out, "ERR Protocol version is not an integer or out of range");
}

/// `HELLO` with an option it does not have, or without the option's arguments.
pub fn hello_option(out: &mut Vec<u8>, option: &[u8]) {
    error_bytes(out, &[b"ERR Syntax error in HELLO option '", c_string(option, ECHO_BYTES_MAX), b"'"]);
}

/// A request before `AUTH` where the listener asks for a password.
pub fn noauth(out: &mut Vec<u8>) {
    error(out, "NOAUTH Authentication required.");
}

/// `HELLO` before `AUTH`.
pub fn hello_noauth(out: &mut Vec<u8>) {
    error(
        out,
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> \
         option can be used to authenticate the client and select the RESP protocol version at the same time",
    );
}

/// A verb that the user may not use.
pub fn no_permission_for_command(out: &mut Vec<u8>, row: &Row) {
    error_line(out, format_args!("NOPERM this user has no permissions to run the '{}' command", row.name));
}

/// A key that the user may not use, or not so.
pub fn no_permission_for_key(out: &mut Vec<u8>) {
    error(out, "NOPERM this user has no permissions to access one of the keys used as arguments");
}

/// A channel that the user may not use.
pub fn no_permission_for_channel(out: &mut Vec<u8>) {
    error(out, "NOPERM this user has no permissions to access one of the channels used as arguments");
}

/// Why a user who may not do everything runs no scripts.
pub const NO_SCRIPTS: &str = "may run no scripts: quoit cannot check what they do. Allow it everything (~* &* +@all), or \
                              set trust_scripts in its [[user]] table";

/// A script of a user who may not do everything.
pub fn no_permission_for_script(out: &mut Vec<u8>) {
    error_line(out, format_args!("NOPERM this user {NO_SCRIPTS}"));
}

/// `AUTH` with a wrong name or password.
pub fn wrongpass(out: &mut Vec<u8>) {
    error(out, "WRONGPASS invalid username-password pair or user is disabled.");
}

/// `AUTH` with one argument where the listener has no password.
pub fn auth_without_password(out: &mut Vec<u8>) {
    error(
        out,
        "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
         configuration is correct?",
    );
}

/// A database that the pool does not have.
pub fn no_such_database(out: &mut Vec<u8>) {
    error(out, "ERR DB index is out of range");
}

/// `MOVE` to the database that the key is in.
pub fn same_object(out: &mut Vec<u8>) {
    error(out, "ERR source and destination objects are the same");
}

/// A key in, or on its way to, a database that its pool does not have.
pub fn too_few_databases(out: &mut Vec<u8>, row: &Row, pool: &str, databases: u16) {
    let last = databases.saturating_sub(1);
    let what = if databases > 1 { format!("databases 0 to {last}") } else { "database 0 alone".to_owned() };
    error_line(
        out,
        format_args!("ERR '{}' is refused by quoit: pool {pool} has {what}; SELECT another database", spoken(row)),
    );
}

/// `SELECT` of another database, where that would concern more than what comes after it. `what` is where, and `mend` what to
/// do first.
pub fn select_refused(out: &mut Vec<u8>, what: &str, mend: &str) {
    error_line(out, format_args!("ERR 'SELECT' of another database is refused by quoit {what}: {mend}"));
}

/// `SELECT` of a number that no server counts to.
pub fn outside_i32(out: &mut Vec<u8>) {
    error(out, "ERR value is out of range, value must between -2147483648 and 2147483647");
}

/// A client name or `CLIENT SETINFO` value that could not be listed. `what` is `Client names`, `lib-name` or `lib-ver`.
pub fn unprintable(out: &mut Vec<u8>, what: &str) {
    error_line(out, format_args!("ERR {what} cannot contain spaces, newlines or special characters."));
}

/// `CLIENT SETINFO` of something else.
pub fn unrecognized_option(out: &mut Vec<u8>, option: &[u8]) {
    error_bytes(out, &[b"ERR Unrecognized option '", c_string(option, ECHO_BYTES_MAX), b"'"]);
}

/// `CLUSTER`, `READONLY` and their like: what a server outside a cluster says, which cluster clients look for.
pub fn cluster_disabled(out: &mut Vec<u8>) {
    error(out, "ERR This instance has cluster support disabled");
}

/// `CLUSTER REPLICAS` and its like of a node that is not the emulated one.
pub fn unknown_cluster_node(out: &mut Vec<u8>, id: &[u8]) {
    error_bytes(out, &[b"ERR Unknown node ", c_string(id, ECHO_BYTES_MAX)]);
}

/// `MOVE` where a cluster is emulated.
pub fn move_in_cluster(out: &mut Vec<u8>) {
    error(out, "ERR MOVE is not allowed in cluster mode");
}

/// `SELECT` of a database other than 0, where a cluster is emulated.
pub fn select_in_cluster(out: &mut Vec<u8>) {
    error(out, "ERR SELECT is not allowed in cluster mode");
}

/// `QUOIT` with something that it does not take.
pub fn quoit_subcommand(out: &mut Vec<u8>) {
    error(out, "ERR QUOIT takes: LEVEL [level], NODE name command, ROUTE key, VERSIONS key, HELP");
}

/// `QUOIT NODE` of a node that no pool has.
pub fn unknown_node(out: &mut Vec<u8>, name: &[u8]) {
    error_bytes(out, &[b"ERR there is no node ", c_string(name, ECHO_BYTES_MAX), b"; QUOIT ROUTE names one of a key"]);
}

/// `QUOIT NODE` of a name that nodes of several pools have.
pub fn ambiguous_node(out: &mut Vec<u8>, name: &[u8]) {
    error_bytes(out, &[b"ERR several pools have a node ", c_string(name, ECHO_BYTES_MAX), b"; write pool/node"]);
}

/// `QUOIT NODE` with a command that is not about one node, or changes something.
pub fn not_for_nodes(out: &mut Vec<u8>) {
    error(
        out,
        "ERR QUOIT NODE passes on what asks about one node and changes nothing, such as INFO, SLOWLOG GET, CLIENT LIST, \
         CONFIG GET, DBSIZE, LATENCY LATEST, MEMORY STATS; connect to the node for anything else",
    );
}

/// `CONFIG SET` of what is not for clients to set.
pub fn setting_refused(out: &mut Vec<u8>, name: &[u8]) {
    let name = String::from_utf8_lossy(name);
    error_line(
        out,
        format_args!(
            "ERR 'CONFIG SET {name}' is refused by quoit: its own settings but for those of SLOWLOG and LATENCY are in its \
             file, which it takes over by itself when it is edited; of those of the stores it passes on what says how values are kept, and \
             notify-keyspace-events; connect to the nodes for anything else"
        ),
    );
}

/// `CONFIG SET` with a value that a setting cannot have.
pub fn setting_unfit(out: &mut Vec<u8>, name: &[u8], reason: &str) {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    error_line(out, format_args!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}"));
}

/// `CONFIG SET maxmemory-policy` where keys have several copies.
pub fn eviction_refused(out: &mut Vec<u8>) {
    error(
        out,
        "ERR 'CONFIG SET maxmemory-policy' is refused by quoit: stores that drop keys by themselves cannot keep several \
         copies of them alike; the policy is noeviction where replicas is above 1",
    );
}

/// `QUOIT NODE … CONFIG GET` of a password.
pub fn node_secrets(out: &mut Vec<u8>) {
    error(out, "ERR QUOIT NODE does not show the passwords of stores; name settings that none of them matches");
}

/// `QUOIT LEVEL` with a word that is none.
pub fn unknown_level(out: &mut Vec<u8>, why: impl Display) {
    error_line(out, format_args!("ERR {why}; default goes back to the pool's own"));
}

/// `QUOIT LEVEL` of a level that a pool's quorums cannot keep.
pub fn level_without_quorums(out: &mut Vec<u8>, level: &str, pool: &str, why: impl Display) {
    error_line(out, format_args!("ERR level {level} cannot be kept by pool {pool}: {why}"));
}

/// `QUOIT VERSIONS` of a key that is on one node.
pub fn one_copy(out: &mut Vec<u8>, pool: &str) {
    error_line(out, format_args!("ERR pool {pool} keeps one copy of each key and no versions"));
}

// --- ACL --------------------------------------------------------------------------------------------------------------

/// A subcommand with more than it takes, where its arity is left to itself.
pub fn subcommand_syntax(out: &mut Vec<u8>, args: &Args<'_>) {
    let container = args.get(0).unwrap_or_default().to_ascii_uppercase();
    let name = c_string(args.get(1).unwrap_or_default(), ECHO_BYTES_MAX);
    let parts = [b"ERR unknown subcommand or wrong number of arguments for '", name, b"'. Try ", &container, b" HELP."];
    error_bytes(out, &parts);
}

/// `ACL CAT` of a category that does not exist.
pub fn unknown_category(out: &mut Vec<u8>, name: &[u8]) {
    error_bytes(out, &[b"ERR Unknown category '", c_string(name, usize::MAX), b"'"]);
}

/// `ACL DRYRUN` for nobody.
pub fn no_such_user(out: &mut Vec<u8>, name: &[u8]) {
    error_bytes(out, &[b"ERR User '", c_string(name, usize::MAX), b"' not found"]);
}

/// `ACL DRYRUN` of a verb without a row.
pub fn no_such_command(out: &mut Vec<u8>, name: &[u8]) {
    error_bytes(out, &[b"ERR Command '", c_string(name, usize::MAX), b"' not found"]);
}

/// `ACL GENPASS` of too few or too many bits.
pub fn genpass_bits(out: &mut Vec<u8>, most: i64) {
    error_line(
        out,
        format_args!(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to {most}"
        ),
    );
}

/// `ACL LOAD` of a configuration with a fault.
pub fn not_reloaded(out: &mut Vec<u8>, why: &str) {
    error_line(out, format_args!("ERR the configuration is as it was: {why}"));
}

// --- other clients, slow requests, waiting ----------------------------------------------------------------------------

/// `CLIENT KILL address` of nobody.
pub fn no_such_client(out: &mut Vec<u8>) {
    error(out, "ERR No such client");
}

/// `CLIENT KILL ID` with no number above 0.
pub fn client_id_not_positive(out: &mut Vec<u8>) {
    error(out, "ERR client-id should be greater than 0");
}

/// `CLIENT KILL MAXAGE` with no number.
pub fn max_age_not_an_integer(out: &mut Vec<u8>) {
    error(out, "ERR maxage is not an integer or out of range");
}

/// `CLIENT KILL MAXAGE` with no number above 0.
pub fn max_age_not_positive(out: &mut Vec<u8>) {
    error(out, "ERR maxage should be greater than 0");
}

/// `CLIENT LIST ID` with something that is no number.
pub fn invalid_client_id(out: &mut Vec<u8>) {
    error(out, "ERR Invalid client ID");
}

/// `TYPE` with a word that is none.
pub fn unknown_client_type(out: &mut Vec<u8>, word: &[u8]) {
    error_bytes(out, &[b"ERR Unknown client type '", c_string(word, ECHO_BYTES_MAX), b"'"]);
}

/// `CLIENT KILL USER` of nobody.
pub fn no_such_user_to_close(out: &mut Vec<u8>, user: &[u8]) {
    error_bytes(out, &[b"ERR No such user '", c_string(user, ECHO_BYTES_MAX), b"'"]);
}

/// `CLIENT PAUSE` of something else.
pub fn pause_mode(out: &mut Vec<u8>) {
    error(out, "ERR CLIENT PAUSE mode must be WRITE or ALL");
}

/// A number below 0, or none.
pub fn not_positive(out: &mut Vec<u8>) {
    error(out, "ERR value is out of range, must be positive");
}

/// `WAITAOF` with other than 0 or 1 for the local file.
pub fn waitaof_local(out: &mut Vec<u8>) {
    error(out, "ERR value is out of range, value must between 0 and 1");
}

/// `WAITAOF` for the local file: quoit keeps nothing on a disk.
pub fn waitaof_without_aof(out: &mut Vec<u8>) {
    error(out, "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.");
}

/// `SLOWLOG GET` with a number below -1, or none.
pub fn slowlog_count(out: &mut Vec<u8>) {
    error(out, "ERR count should be greater than or equal to -1");
}

/// `COMMANDLOG` of another type than `slow`.
pub fn commandlog_type(out: &mut Vec<u8>) {
    error(out, "ERR quoit keeps slow requests alone: the type of COMMANDLOG has to be slow");
}

/// `LATENCY GRAPH`: nothing is watched.
pub fn no_latency_samples(out: &mut Vec<u8>, event: &[u8]) {
    error_bytes(out, &[b"ERR No samples available for event '", c_string(event, ECHO_BYTES_MAX), b"'"]);
}

// --- COMMAND ----------------------------------------------------------------------------------------------------------

/// `COMMAND GETKEYS` of a verb without a row.
pub fn getkeys_unknown(out: &mut Vec<u8>) {
    error(out, "ERR Invalid command specified");
}

/// `COMMAND GETKEYS` of a verb without keys.
pub fn getkeys_none(out: &mut Vec<u8>) {
    error(out, "ERR The command has no key arguments");
}

/// `COMMAND GETKEYS` of a request with too few or too many arguments.
pub fn getkeys_arity(out: &mut Vec<u8>) {
    error(out, "ERR Invalid number of arguments specified for command");
}

/// `COMMAND GETKEYS` of a request whose keys cannot be told.
pub fn getkeys_malformed(out: &mut Vec<u8>) {
    error(out, "ERR Invalid arguments specified for command");
}

// --- helpers ----------------------------------------------------------------------------------------------------------

/// `CONFIG SET` rather than `config|set`.
fn spoken(row: &Row) -> String {
    row.name.replace('|', " ").to_ascii_uppercase()
}

/// What the servers' `%.*s` prints of it: up to `max` bytes, not past a NUL.
fn c_string(bytes: &[u8], max: usize) -> &[u8] {
    let end = bytes.iter().take(max).position(|byte| *byte == 0).unwrap_or(bytes.len().min(max));
    bytes.get(..end).unwrap_or_default()
}

fn line(out: &mut Vec<u8>, kind: u8, text: impl Display) {
    out.push(kind);
    append_display(out, text);
    out.extend_from_slice(b"\r\n");
}

fn error_line(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    line(out, b'-', text);
}

fn error_bytes(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.push(b'-');
    for part in parts {
        out.extend(part.iter().map(|byte| one_line(*byte)));
    }
    out.extend_from_slice(b"\r\n");
}

fn one_line(byte: u8) -> u8 {
    if matches!(byte, b'\r' | b'\n' | 0) { b' ' } else { byte }
}

/// Formats straight into the buffer, byte by byte past anything that would end the line.
fn append_display(out: &mut Vec<u8>, text: impl Display) {
    struct OneLine<'a>(&'a mut Vec<u8>);
    impl std::fmt::Write for OneLine<'_> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.extend(text.bytes().map(one_line));
            Ok(())
        }
    }
    // A `Vec` takes every write; a `Display` that fails of itself leaves a shorter text.
    write!(OneLine(out), "{text}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::super::args::OwnedArgs;
    use super::super::lookup;
    use super::*;

    #[track_caller]
    fn check(write: impl FnOnce(&mut Vec<u8>), want: &str) {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), want);
    }

    #[test]
    fn values_look_as_the_protocol_asks() {
        check(|out| simple(out, "PONG"), "+PONG\r\n");
        check(ok, "+OK\r\n");
        check(|out| integer(out, i64::MIN), ":-9223372036854775808\r\n");
        check(|out| bulk(out, b"a\r\nb"), "$4\r\na\r\nb\r\n");
        check(|out| verbatim_text(out, Resp::Two, b"a"), "$1\r\na\r\n");
        check(|out| verbatim_text(out, Resp::Three, b"a"), "=5\r\ntxt:a\r\n");
        check(|out| null(out, Resp::Two), "$-1\r\n");
        check(|out| null(out, Resp::Three), "_\r\n");
        check(|out| null_array(out, Resp::Two), "*-1\r\n");
        check(|out| null_array(out, Resp::Three), "_\r\n");
        check(|out| map_header(out, Resp::Two, 2), "*4\r\n");
        check(|out| map_header(out, Resp::Three, 2), "%2\r\n");
        check(|out| set_header(out, Resp::Two, 2), "*2\r\n");
        check(|out| set_header(out, Resp::Three, 2), "~2\r\n");
    }

    #[track_caller]
    fn check_unknown(words: &[&str], want: &str) {
        check(|out| unknown_command(out, &OwnedArgs::new(words).view()), want);
    }

    #[test]
    fn an_unknown_command_is_repeated_but_not_at_length() {
        check_unknown(&["foo"], "-ERR unknown command 'foo', with args beginning with: \r\n");
        check_unknown(&["foo", "a", "b"], "-ERR unknown command 'foo', with args beginning with: 'a' 'b' \r\n");
        check_unknown(&["f\r\noo", "a\0b"], "-ERR unknown command 'f  oo', with args beginning with: 'a' \r\n");
        let long = "x".repeat(200);
        let cut = |len| "x".repeat(len);
        check_unknown(
            &[&long, &long, "b"],
            &format!("-ERR unknown command '{}', with args beginning with: '{}' \r\n", cut(128), cut(128)),
        );
        check_unknown(
            &["f", &cut(100), &long],
            &format!("-ERR unknown command 'f', with args beginning with: '{}' '{}' \r\n", cut(100), cut(25)),
        );
    }

    #[test]
    fn errors_name_the_verb_or_the_node_on_one_line() {
        let row = lookup(b"config").unwrap();
        let set = row.subcommands.iter().find(|row| row.name == "config|set").unwrap();
        check(|out| wrong_arity(out, set), "-ERR wrong number of arguments for 'config|set' command\r\n");
        check(|out| refused(out, set, "no"), "-ERR 'CONFIG SET' is refused by quoit: no\r\n");
        check(|out| later(out, row, "no"), "-ERR 'CONFIG' is not supported by quoit yet: no\r\n");
        check(|out| node_failed(out, "a\nb", "why\r"), "-ERR node a b: why \r\n");
        check(
            |out| unknown_subcommand(out, &OwnedArgs::new(["config", "no"]).view()),
            "-ERR unknown subcommand 'no'. Try CONFIG HELP.\r\n",
        );
    }
}
