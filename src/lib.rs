//! quoit: a stateless sharding proxy, as a library. The binary (`main.rs`) is flags around it.
//!
//! # Architecture
//!
//! ## The modules, in reading order
//!
//! A module imports only from modules above its line; modules of one line do not know each other. `tests/tidy.rs` holds
//! the list.
//!
//! | | |
//! |---|---|
//! | [`clock`] [`metrics`] | time, read once for each batch of work; what is counted, in cells that have one writer |
//! | [`command`] [`ring`] | one row a verb, and every error text; key → token → node. Both pure |
//! | [`version`] | which write is newer, and how a store keeps that: ballots, records, scripts. Pure |
//! | [`protocol`] [`quorum`] [`acl`] | RESP scanners: where a frame ends and where its arguments are; levels, and how many replicas must answer; who may do what. Pure |
//! | [`config`] | the file as written, as checked, as watched |
//! | [`backend`] [`listener`] | one request to one store; the accept loop |
//! | [`topology`] | the snapshot that a request sees: rings, and this worker's handles to the nodes |
//! | [`replication`] | keys with several replicas: quorums, proposals, repair, fences |
//! | [`coordinator`] | one command to one reply: whom to send what, and how to make one reply of several |
//! | [`frontend`] [`admin`] | a client's session; the operator's HTTP port |
//! | [`server`] | builds the parts, swaps the topology, drains |
//! | [`cli`] | the subcommands |
//!
//! ## Threads
//!
//! The control thread runs [`server::Server::run`]: it accepts clients, answers the admin port, watches the file and the
//! signals. Each worker is a thread with a current-thread runtime ([`frontend::redis::Worker`]) and owns its clients,
//! its connections to every node and their breakers. Workers share nothing that a request writes; the control thread
//! hands them clients and orders through bounded channels ([`frontend::redis::Order`]) and a new topology through an
//! `ArcSwap`. `docs/decisions/2026-11-23-one-thread-per-worker.md` says why.
//!
//! ## The path of one GET
//!
//! 1. [`listener::accept`] takes the connection; the server's `Intake` gives it to the worker with the fewest clients, by
//!    [`Order::Serve`](frontend::redis::Order::Serve). The worker starts a `Session`, a task of its own. Where the listener
//!    speaks TLS it shakes hands first (`src/frontend/redis/tls.rs`); [`backend::Stream`] hides it from all that follows.
//! 2. The socket can be read: the session reads into the worker's one scratch buffer and takes the worker's
//!    [`topology::View`], which serves the whole batch. [`protocol::resp::RequestScan`] finds where the request ends and
//!    where its arguments are. Nothing is copied.
//! 3. [`command::resolve`] gives the verb's [`command::Row`]. For `GET` its handling is
//!    [`Forward`](command::Handling::Forward): one key, at a fixed place. If there is anything that the client's user may not
//!    do, [`acl::User::check`] says whether it may do this.
//! 4. The session opens a slot, the place of the reply among those to this client's other requests, and calls
//!    [`coordinator::Coordinator::dispatch`]. [`topology::View::owner`] asks the pool's [`ring::Ring::primary`] and has
//!    the node.
//! 5. [`backend::redis::Node::send`] looks at the breaker and the bounds, and appends the frame, as it came, to the write
//!    buffer of its connection. An entry with the session and the slot joins the queue of those that wait for replies.
//! 6. The connection's task runs when the tasks that were ready before it have run, and writes the buffer: requests of
//!    many clients leave in one system call.
//! 7. The reply is read, [`protocol::resp::ReplyScan`] finds its end, the entry at the front of the queue is its own. The
//!    session hears it by [`backend::ReplySink::reply`], puts it into its slot, and moves what has become first into its
//!    output. It writes once for all that came in one turn of the event loop.
//!
//! A reply longer than 32 KiB comes in pieces ([`backend::Piece`]); a session that holds as much as it may answers
//! [`backend::Flow::Pause`], and the rest waits at the store. A request longer than `stream_threshold_bytes` is passed
//! on while it is received, on a [`backend::redis::Lease`].
//!
//! ## The path of one MSET
//!
//! 1. As above up to the row, whose handling is [`Split`](command::Handling::Split).
//! 2. `dispatch` lets [`command::keys()`] find all keys, counts them against the listener's bound, and asks the owner of
//!    each. If there is one owner, the frame goes to it as it came.
//! 3. Otherwise a `Plan` makes a fragment for each node: the verb, and that node's keys with their values, written
//!    straight into the node's write buffer by [`backend::redis::Node::send_with`]. The sink of all fragments is one
//!    `Merge`.
//! 4. A fragment that cannot be sent, or fails later, fails alone. When the last is settled the merge makes one reply,
//!    by the [`command::SplitRule`]: `OK`, or the first error. The session hears that as one whole reply.
//!
//! ## The path of one SCAN
//!
//! 1. As above up to the row, whose handling is [`Keyspace`](command::Handling::Keyspace). The session waits until all that
//!    came before is answered, and takes nothing further until this is.
//! 2. [`coordinator::Coordinator::dispatch_keyspace`] reads the arguments and starts a task. The cursor says which store it
//!    is at; one transaction asks that store for a page, for its `run_id` and, if it is of a replicated pool, for its fence.
//! 3. Keys that another store reports are left out: with one copy by the ring, with several by their records on the other
//!    replicas. What routes do to names is undone, and the next cursor goes with the page.
//!
//! ## The path of one EVALSHA
//!
//! 1. As above up to the row, whose handling is [`Run`](command::Handling::Run).
//! 2. [`coordinator::Coordinator::dispatch_program`] finds the node of its keys. If that is not known to have the script
//!    since its connections were opened, and the process remembers the text ([`coordinator::Sources`]), `SCRIPT LOAD` goes
//!    right before the request.
//! 3. A `Call` stands between the store and the session. `-NOSCRIPT` makes it look for the text and send both once more,
//!    but only if [`backend::ReplySink::hold`] says that nothing which the client sent later has left.
//! 4. Where the keys have several replicas, [`replication::Engine::serve`] makes the text part of a script of ours
//!    ([`version::ClientScript`]), which one replica runs; a key that it uses and has not named ends the run, and it runs again
//!    with that key (`src/replication/program.rs`).
//!
//! ## The path of one BLPOP
//!
//! 1. As above up to the row, whose handling is [`Blocking`](command::Handling::Blocking). The session waits until all that came
//!    before is answered; then it goes on reading, to notice when its client leaves, and serves nothing until this is answered.
//! 2. [`coordinator::Coordinator::dispatch_blocking`] starts a task. With one copy it takes a connection for the client alone
//!    ([`backend::redis::Node::exclusive`]) and has the store wait; who ends the wait early asks the store to, so that no element
//!    is lost. With several copies the task asks by [`command::blocking::plain`] whenever there is a sign that there is something.
//!
//! ## The path of one replicated SET and GET
//!
//! 1. As above up to [`coordinator::Coordinator::dispatch`], which finds that the key's pool has several replicas: it asks
//!    the [`replication::Group`] for the members that hold the key and hands the request to the worker's
//!    [`replication::Engine::serve`]. The level is the connection's, the route's or the pool's.
//! 2. [`command::replicate::classify`] says what the request is to replicas. A `SET` without conditions is blind: it takes
//!    a new [`version::Ballot`] from the worker's [`version::Hlc`], enters the key's lane, and goes as one script call
//!    ([`version::Script::Blind`]) to every replica, with the fence that each is believed to have. The object that waits is
//!    taken from a pool; there is no task.
//! 3. The script compares the ballot with the [`version::Record`] beside the key and changes both, or answers with the
//!    record that refused it. When a write quorum took it, the session has its `+OK`; later answers are still looked at, and
//!    a replica that missed the write is queued for repair.
//! 4. If not enough took it, or the command depends on the value (`INCR`, `DEL`), it is a proposal, a task: it waits for the
//!    lane, has a majority promise a term, finds the newest state, and sends the command on top of that. Afterwards
//!    the worker owns the term, and its next update of the key takes one round like a `SET`.
//! 5. A `GET` asks one replica for record, fence and value in one `MGET`, and as many others as the level needs for record and
//!    fence. While they agree, the value goes to the session as it came. If they do not, or one takes longer than
//!    `hedge_ms`, the read begins anew as a task: it asks all, writes the newest state back, and then reads.
//! 6. Of a pipeline, what steps 2 and 5 say to one store is put together and leaves when the last request is served
//!    (`src/replication/bundle.rs`): records in one `MGET`, short values in another, plain `SET`s in one script.
//! 7. A store whose fence is not the expected one counts for nothing from that answer on. One worker of each proxy rebuilds
//!    stores that have lost theirs. `docs/decisions/2026-11-23-replication.md` says why all this is so.
//!
//! ## The path of one SUBSCRIBE and PUBLISH
//!
//! 1. As above up to the row, whose handling is [`PubSub`](command::Handling::PubSub). A `SUBSCRIBE` waits like a `SCAN`, and
//!    asks [`coordinator::pubsub::PubSub`]: the listener's hub on this worker, which has a connection to each node, tells the
//!    stores of names that nobody has asked for yet, and confirms when all have.
//! 2. A `PUBLISH` goes like a `GET` to the node of its channel, or to one that stands in for it.
//! 3. The store tells every hub, and the hub each session that listens, by [`coordinator::pubsub::Subscriber::hear`]. It goes
//!    into the session's output between two replies; a long one is shared by all.
//!
//! ## The path of one GET of a client that tracks keys
//!
//! 1. As above, but that the worker looks at each request on its way while a client of it tracks: the session finds the keys,
//!    and when the request has a slot and is sent, [`coordinator::tracking::Tracking::start`] enters them into the worker's
//!    table, before anything else happens on this thread.
//! 2. The reply moves into the session's output. `Session::tell_after` asks [`coordinator::tracking::Tracking::finish`] whether
//!    a change was heard of meanwhile: then the client is told right behind the reply.
//! 3. A node tells of a change on the connection that the worker has for that. The table knows who holds the key, and each hears
//!    by [`coordinator::tracking::Tracker::changed`]; or, in its place, a client of its choice, by an order to that one's worker.
//!
//! ## The path of one SELECT
//!
//! 1. As above up to the row, whose handling is [`Local`](command::Handling::Local). The session waits until all that came before
//!    is answered, takes note of its database, and ends the batch.
//! 2. The next batch, or the rest of this one, takes a view that the worker has for that database
//!    ([`topology::View::of_database`]): its nodes have connections of their own, which select it when they are opened. From
//!    there on all is as in database 0.
//!
//! ## A reload
//!
//! [`config::watch`] sees the edit, [`config::load`] checks the file, [`topology::Topology::replaced_by`] makes the rings,
//! and the workers' `ArcSwap` has the new topology. Each worker builds its `View` from it: a node that is the same keeps its
//! handle and connections, one that left ends when nothing waits on it. A fault at any step leaves everything as it was.
//!
//! # Invariants
//!
//! - A request sees one topology from its first key to its last.
//! - Health never changes placement: a dead node's keys fail or are served by their other replicas, they go nowhere else.
//! - A client's replies leave in the order of its requests, and its requests for one key do not overtake each other.
//! - A connection on which a reply is overdue takes no further request.
//! - A request is applied at most once. Its error says whether it may have been ([`backend::Cause`], `-UNKNOWN`).
//! - Every queue is bounded, every wait for a store has a deadline, every task has an owner that a drain waits for.
//! - Nothing that a client, a store or a file says makes it panic. Keys and values are never logged.
//!
//! # What it deliberately does not do
//!
//! It keeps no data and no state on disk, elects nobody, and does not talk to other proxies: the file is all that proxies
//! of one fleet share.

#![forbid(unsafe_code)]

// The modules in reading order: a module imports only from modules above it (`tests/tidy.rs` holds the list).
pub mod clock;
pub mod metrics;

pub mod command;
pub mod ring;
pub mod version;

pub mod acl;
pub mod protocol;
pub mod quorum;

pub mod config;

pub mod backend;
pub mod listener;

pub mod topology;

pub mod replication;

pub mod coordinator;

pub mod admin;
pub mod frontend;

pub mod cli;
pub mod server;
