//! The second half of a check: what the settings mean together.
//!
//! Each rule blames the place that a reader would change, and goes on with what is left, so that one pass shows
//! everything. A table that lost a part to [`super::shape`] is looked past where a rule needs that part.
//!
//! # Invariants
//! - Either there are faults, or the configuration is whole.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use toml::de::DeTable;

use super::faults::{Fault, Faults, nearest};
use super::file::{AdminTable, At, CommandTable, File, ListenerTable, PoolTable, ProxyTable, RouteTable};
use super::secret::{Secret, Secrets, Source};
use super::{
    Admin, Announce, Bind, Config, Listener, Proxy, Rewrite, Route, address, content_hash, schema, shape, users,
};
use crate::acl::Users;
use crate::command::{Configured, Verb};

/// Checks a whole file.
pub(super) fn check(name: &str, text: &str, secrets: &Secrets) -> Result<Config, Faults> {
    let mut faults = Faults::new(name, text);
    users::mask(text, &mut faults);
    let (mut document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        faults.push(Fault::new(&error.span().unwrap_or(0..0), error.message().lines().collect::<Vec<_>>().join(", ")));
    }
    if !faults.is_empty() {
        // Past a syntax error the reader guesses; faults of its guesses would only mislead.
        shape::mask_lines(text, &mut faults);
        return faults.or(None);
    }
    let removed = shape::walk(schema::shared(), &mut document, &mut faults);
    let file = match File::deserialize(toml::Deserializer::from(document)) {
        Ok(file) => file,
        Err(error) => {
            faults.push(Fault::new(&error.span().unwrap_or(0..0), error.message()));
            File::default()
        }
    };
    let mut check = Check { faults, secrets, removed };
    let config = check.config(&file, text);
    check.faults.or(config)
}

/// A check under way.
pub(super) struct Check<'s> {
    pub(super) faults: Faults,
    pub(super) secrets: &'s Secrets,
    /// The paths of settings that are not here although the file tries to set them.
    pub(super) removed: BTreeSet<String>,
}

impl Check<'_> {
    fn config(&mut self, file: &File, text: &str) -> Option<Config> {
        let admin = self.admin(&file.admin);
        let names = self.pool_names(&file.pool);
        let users = self.users(file);
        let commands = self.commands(&file.command);
        let listeners = self.listeners(file, &names, admin.as_ref(), &users);
        let pools: Vec<_> = file.pool.iter().map(|table| self.pool(table)).collect();
        self.shared_stores(&file.pool);
        Some(Config {
            proxy: proxy(&file.proxy),
            admin: admin?,
            listeners: listeners.into_iter().collect::<Option<_>>()?,
            pools: pools.into_iter().collect::<Option<_>>()?,
            users: Arc::new(users),
            has_acl_file: file.aclfile.is_some(),
            commands,
            content_hash: content_hash(text.as_bytes()),
            fingerprint: None,
            effective: serde_json::to_value(file).ok()?,
        })
    }

    fn admin(&mut self, table: &AdminTable) -> Option<Admin> {
        let token = self.secret("token", table.token_file.as_ref(), table.token_env.as_ref());
        for name in table.host_names.iter().filter(|name| !is_host_name(&name.value)) {
            self.push(
                Fault::new(&name.span, "this is no host name")
                    .help("a name without scheme and port, such as `quoit.internal`"),
            );
        }
        let host_names = table.host_names.iter().map(|name| name.value.clone()).collect();
        if table.bind.value == "off" {
            return Some(Admin { bind: None, token, host_names });
        }
        let bind = match address::bind(&table.bind.value) {
            Ok(bind) => bind,
            Err(help) => {
                self.push(Fault::new(&table.bind.span, "`admin.bind` is not an address").help(help));
                return None;
            }
        };
        if !bind.ip().is_loopback() && table.token_file.is_none() && table.token_env.is_none() {
            self.push(
                Fault::new(&table.bind.span, "the admin port is open to the network without a token")
                    .label("not a loopback address")
                    .help("add `token_file` or `token_env`, or bind to `127.0.0.1`"),
            );
        }
        Some(Admin { bind: Some(bind), token, host_names })
    }

    /// The verbs that the file adds.
    fn commands(&mut self, tables: &[CommandTable]) -> Configured {
        let mut commands = Configured::default();
        for table in tables {
            let Some(name) = &table.name else { continue };
            if name.value.len() > 64 || name.value.is_empty() || !name.value.bytes().all(|byte| byte.is_ascii_graphic())
            {
                self.push(Fault::new(&name.span, "this is no name of a command").help("such as `JSON.GET`"));
                continue;
            }
            let from_first = match table.last_key {
                None => 0,
                Some(last) if last < 0 => last,
                Some(last) => last - i32::try_from(table.first_key).unwrap_or(i32::MAX),
            };
            if table.last_key.is_some_and(|last| last >= 0) && from_first < 0 {
                let fault = Fault::new(&name.span, format!("the last key of `{}` is before its first", name.value));
                self.push(fault.help("leave `last_key` out for one key; -1 is the last argument"));
                continue;
            }
            let verb = Verb {
                name: name.value.to_ascii_lowercase(),
                first_key: table.first_key,
                last_key: from_first,
                key_step: table.key_step,
                writes: table.writes,
            };
            if !commands.add(&verb) {
                let fault = Fault::new(&name.span, format!("`{}` is there already", name.value));
                self.push(fault.help("quoit knows the commands of Redis and Valkey; add only others, each once"));
            }
        }
        commands
    }

    fn pool_names<'f>(&mut self, pools: &'f [PoolTable]) -> Names<'f> {
        let mut names = Names { tables: pools, indexes: HashMap::new(), complete: true };
        for (index, table) in pools.iter().enumerate() {
            let Some(name) = &table.name else {
                names.complete = false;
                continue;
            };
            self.name("pool", name);
            if let Some((first, _)) = names.indexes.get(name.value.as_str()) {
                self.duplicate("two pools have the same name", &name.span, first);
            } else {
                names.indexes.insert(&name.value, (&name.span, index));
            }
        }
        names
    }

    fn listeners(
        &mut self,
        file: &File,
        pools: &Names<'_>,
        admin: Option<&Admin>,
        users: &Users,
    ) -> Vec<Option<Listener>> {
        let mut checked: Vec<Option<Listener>> = Vec::new();
        let mut seen: Vec<(Bind, Range<usize>)> = Vec::new();
        let mut names: HashMap<String, Range<usize>> = HashMap::new();
        for table in &file.listener {
            let listener = self.listener(table, pools, users);
            if let (Some(listener), Some(bind)) = (&listener, &table.bind) {
                if let Some((_, first)) = seen.iter().find(|(other, _)| other.overlaps(&listener.bind)) {
                    self.duplicate("two listeners have the same address", &bind.span, first);
                }
                if admin.and_then(|admin| admin.bind).is_some_and(|admin| Bind::Tcp(admin).overlaps(&listener.bind)) {
                    self.push(
                        Fault::new(&bind.span, "this is the address of the admin port")
                            .help("give the listener another port, or set `bind` in `[admin]`"),
                    );
                }
                seen.push((listener.bind.clone(), bind.span.clone()));
                let place = table.name.as_ref().map_or(&bind.span, |name| &name.span);
                match names.get(&listener.name) {
                    Some(first) if table.name.is_some() => {
                        let first = first.clone();
                        self.duplicate("two listeners have the same name", place, &first);
                    }
                    _ => {
                        names.insert(listener.name.clone(), place.clone());
                    }
                }
            }
            checked.push(listener);
        }
        checked
    }

    fn listener(&mut self, table: &ListenerTable, pools: &Names<'_>, users: &Users) -> Option<Listener> {
        if let Some(name) = &table.name {
            self.name("listener", name);
        }
        let password = self.secret("password", table.password_file.as_ref(), table.password_env.as_ref());
        let default_user = users::default_user(users, password.as_ref());
        let pool = table.pool.as_ref().and_then(|name| self.pool_index(name, pools));
        let routes = self.routes(&table.route, pools);
        let announce = self.announce(table);
        let bind = table.bind.as_ref()?;
        let socket_mode = self.socket_mode(&table.socket_mode);
        let tls = table.tls.as_ref().and_then(|tls| self.listener_tls(tls, bind));
        let address = match address::listen(&bind.value) {
            Ok(address) => address,
            Err(help) => {
                self.push(Fault::new(&bind.span, "`listener.bind` is not an address").help(help));
                return None;
            }
        };
        Some(Listener {
            name: table.name.as_ref().unwrap_or(bind).value.clone(),
            bind: address,
            socket_mode,
            protocol: table.protocol,
            pool: pool?,
            routes: routes?,
            default_user,
            tls,
            request_bytes_max: table.request_bytes_max,
            query_buffer_bytes_max: table.query_buffer_bytes_max,
            client_output_bytes_max: table.client_output_bytes_max,
            keys_per_command_max: table.keys_per_command_max,
            multi_key_reply_bytes_max: table.multi_key_reply_bytes_max,
            keys_reply_bytes_max: table.keys_reply_bytes_max,
            keyspace_timeout: Duration::from_millis(table.keyspace_timeout_ms),
            idle_timeout: table.idle_timeout_ms.map(Duration::from_millis),
            cluster_emulation: table.cluster_emulation,
            ping_asks_stores: table.ping_asks_stores,
            cluster_announce: announce,
        })
    }

    /// Permissions as chmod(1) takes them; none at all where they are wrong.
    fn socket_mode(&mut self, mode: &At<String>) -> u32 {
        let is_octal =
            (3..=4).contains(&mode.value.len()) && mode.value.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let number = u32::from_str_radix(&mode.value, 8).ok().filter(|number| is_octal && *number <= 0o777);
        if number.is_none() {
            self.push(
                Fault::new(&mode.span, "these are no permissions")
                    .help("three octal digits, such as `0660`: owner, group, others"),
            );
        }
        number.unwrap_or(0)
    }

    /// Where clients made for Redis Cluster are told to go.
    fn announce(&mut self, table: &ListenerTable) -> Option<Announce> {
        let written = table.cluster_announce.as_ref()?;
        if !table.cluster_emulation {
            self.push(
                Fault::new(&written.span, "`cluster_announce` without `cluster_emulation` does nothing")
                    .help("add `cluster_emulation = true`, or take it out"),
            );
        }
        let announce = address::announce(&written.value);
        if announce.is_none() {
            self.push(
                Fault::new(&written.span, "`cluster_announce` is no host and port")
                    .help("such as `redis.internal:6380`, `10.0.0.7:6380` or `[::1]:6380`"),
            );
        }
        announce
    }

    /// The routes, longest prefix first.
    fn routes(&mut self, tables: &[RouteTable], pools: &Names<'_>) -> Option<Vec<Route>> {
        let mut seen: HashMap<&str, &Range<usize>> = HashMap::new();
        let mut routes: Vec<Option<Route>> = Vec::new();
        for table in tables {
            let pool = table.pool.as_ref().and_then(|name| self.pool_index(name, pools));
            if let (Some(level), Some(pool)) = (&table.level, pool.and_then(|index| pools.tables.get(index))) {
                self.route_level(level, pool);
            }
            let Some(prefix) = &table.prefix else { continue };
            if let Some(first) = seen.insert(&prefix.value, &prefix.span) {
                self.duplicate("two routes have the same prefix", &prefix.span, first);
            }
            let rewrite = match table.replace_prefix.as_deref() {
                None => Rewrite::Keep,
                Some("") => Rewrite::Strip,
                Some(replacement) => Rewrite::Replace(replacement.as_bytes().to_vec()),
            };
            let level = table.level.as_ref().map(|level| level.value);
            routes.push(pool.map(|pool| Route { prefix: prefix.value.as_bytes().to_vec(), pool, rewrite, level }));
        }
        let mut routes: Vec<Route> = routes.into_iter().collect::<Option<_>>()?;
        routes.sort_by(|left, right| {
            right.prefix.len().cmp(&left.prefix.len()).then_with(|| left.prefix.cmp(&right.prefix))
        });
        Some(routes)
    }

    fn pool_index(&mut self, name: &At<String>, pools: &Names<'_>) -> Option<usize> {
        if let Some((_, index)) = pools.indexes.get(name.value.as_str()) {
            return Some(*index);
        }
        if pools.complete && !pools.indexes.is_empty() {
            let fault = Fault::new(&name.span, format!("there is no pool `{}`", name.value));
            let mut known: Vec<_> = pools.indexes.keys().copied().collect();
            known.sort_unstable();
            self.push(match nearest(&name.value, known.iter().copied()) {
                Some(meant) => fault.help(format!("did you mean `{meant}`?")),
                None => fault.help(format!("the pools are: {}", known.join(", "))),
            });
        }
        None
    }

    /// Reads the secret of which at most one source may be given.
    pub(super) fn secret(
        &mut self,
        what: &str,
        file: Option<&At<String>>,
        variable: Option<&At<String>>,
    ) -> Option<Secret> {
        let (source, span) = match (file, variable) {
            (None, None) => return None,
            (Some(file), Some(variable)) => {
                self.push(
                    Fault::new(&variable.span, format!("the {what} has two sources"))
                        .related(&file.span, "the other one")
                        .help(format!("keep `{what}_file` or `{what}_env`")),
                );
                return None;
            }
            (Some(file), None) => (Source::File(&file.value), &file.span),
            (None, Some(variable)) => (Source::Variable(&variable.value), &variable.span),
        };
        match self.secrets.get(source) {
            Ok(secret) => Some(secret),
            Err(reason) => {
                self.push(Fault::new(span, format!("the {what} cannot be read")).label(reason));
                None
            }
        }
    }

    /// Names end up in labels, logs and URLs.
    pub(super) fn name(&mut self, what: &str, name: &At<String>) {
        let fault = match name.value.chars().find(|character| !allowed_in_names(*character)) {
            Some(odd) => Fault::new(&name.span, format!("a {what} name cannot hold {odd:?}"))
                .help("letters, digits and the characters . _ - : / @ + [ ] make a name"),
            None if name.value.is_empty() => Fault::new(&name.span, format!("a {what} name cannot be empty")),
            None if NAME_BYTES_MAX < name.value.len() => {
                Fault::new(&name.span, format!("a {what} name has at most {NAME_BYTES_MAX} characters"))
            }
            None => return,
        };
        self.push(fault);
    }

    pub(super) fn duplicate(&mut self, title: &str, span: &Range<usize>, first: &Range<usize>) {
        self.push(Fault::new(span, title).label("again here").related(first, "first here"));
    }

    pub(super) fn push(&mut self, fault: Fault) {
        self.faults.push(fault);
    }
}

/// The pools by name.
struct Names<'f> {
    tables: &'f [PoolTable],
    indexes: HashMap<&'f str, (&'f Range<usize>, usize)>,
    /// Whether every pool has a name, so that a name that is not here is nobody's.
    complete: bool,
}

const NAME_BYTES_MAX: usize = 128;

/// What names may be made of: no quotes, spaces or braces, and all that `host:port` and a socket's path need.
pub(super) fn allowed_in_names(character: char) -> bool {
    character.is_ascii_alphanumeric() || ".-_:/@+[]".contains(character)
}

/// Whether a name is fine as it is.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(allowed_in_names)
}

/// Whether a `Host` header could hold this name. Addresses need not be given, so none is accepted.
fn is_host_name(name: &str) -> bool {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-._".contains(character);
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.chars().all(allowed)
        && name.parse::<std::net::IpAddr>().is_err()
}

fn proxy(table: &ProxyTable) -> Proxy {
    Proxy {
        workers: table.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        clients_max: table.clients_max,
        memory_bytes_max: table.memory_bytes_max,
        drain_timeout: Duration::from_millis(table.drain_timeout_ms),
        connects_per_second_max: table.connects_per_second_max,
        slowlog_us: table.slowlog_us,
        slowlog_len: table.slowlog_len,
        tracking_bytes_max: table.tracking_bytes_max,
        acl_at_run_time: table.acl_at_run_time,
    }
}
