//! TLS towards clients and towards stores, with libraries and servers that are not ours on the other side.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::support::{
    Authority, Client, DURABLE, Expect, Fleet, Identity, Load, PATIENCE, Program, Quoit, QuoitConfig, RedisServer,
    Signal, TlsClient, Tunnel, encode, eventually, free_port, ping, raise_open_files,
};

/// Whether there is a proxy to test.
fn has_proxy() -> bool {
    std::env::var_os("QUOIT_TEST_SUBJECT").is_none()
}

/// The line of `[[listener]]` that shows this certificate.
fn listener(identity: &Identity, more: &str) -> String {
    let Identity { cert, key } = identity;
    format!("tls = {{ cert_file = \"{}\", key_file = \"{}\"{more} }}", cert.display(), key.display())
}

/// The table that trusts this authority.
fn pool(authority: &Authority, more: &str) -> String {
    format!("[pool.tls]\nca_file = \"{}\"\n{more}", authority.ca().display())
}

/// A store with a port in plain text, for the test, and one in TLS, for the proxy.
struct TlsStore {
    plain: RedisServer,
    tls: SocketAddr,
}

impl TlsStore {
    fn start(authority: &Authority, identity: &Identity, extra: &[&str]) -> Option<Self> {
        let path = |path: &Path| path.display().to_string();
        let port = free_port();
        let (ca, cert, key) = (path(authority.ca()), path(&identity.cert), path(&identity.key));
        let port_text = port.to_string();
        let own =
            ["--tls-port", &port_text, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        let auth = if extra.contains(&"--tls-auth-clients") { &[][..] } else { &["--tls-auth-clients", "no"] };
        let plain = RedisServer::start_with(Program::Redis, &[&own[..], auth, extra].concat())?;
        Some(Self { plain, tls: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    fn several(authority: &Authority, count: usize, extra: &[&str]) -> Option<Vec<Self>> {
        let identity = authority.issue_here("store");
        (0..count).map(|_| Self::start(authority, &identity, extra)).collect()
    }
}

fn config_of(stores: &[TlsStore], authority: &Authority) -> QuoitConfig {
    QuoitConfig::new(stores.iter().enumerate().map(|(index, store)| (Fleet::name(index), store.tls)))
        .tables(&pool(authority, ""))
}

/// The handshakes of clients that ended so.
fn handshakes(quoit: &Quoit, result: &str) -> f64 {
    let samples = quoit.metric("quoit_tls_handshakes_total");
    let result = format!("result=\"{result}\"");
    samples.iter().filter(|(labels, _)| labels.contains(&result)).map(|(_, value)| value).sum()
}

#[test]
fn redis_cli_through_tls_on_both_sides() {
    let authority = Authority::new();
    let Some(stores) = TlsStore::several(&authority, 3, &[]).filter(|_| has_proxy()) else { return };
    let quoit = Quoit::start(&config_of(&stores, &authority).listener(&listener(&authority.issue_here("quoit"), "")));
    let port = quoit.address().port().to_string();
    let cli = |arguments: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &port]).args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let ca = authority.ca().display().to_string();
    for protocol in ["-2", "-3"] {
        let Some(reply) = cli(&["--tls", "--cacert", &ca, protocol, "SET", "cli:greeting", "hello"]) else {
            eprintln!("skip: redis-cli is not installed");
            return;
        };
        assert_eq!(reply, "OK\n");
        assert_eq!(cli(&["--tls", "--cacert", &ca, protocol, "GET", "cli:greeting"]).as_deref(), Some("hello\n"));
    }
    let holders: i64 =
        stores.iter().map(|store| i64::from(store.plain.client().line("GET cli:greeting").text() == "hello")).sum();
    assert_eq!(holders, 1);
    let refused = cli(&["PING"]).expect("it ran a moment ago");
    assert!(refused.contains("ERR this port speaks TLS"), "{refused}");
    let suspicious = cli(&["--tls", "PING"]).expect("it ran a moment ago");
    assert!(suspicious.contains("certificate verify failed"), "{suspicious}");
    eventually("all are counted", PATIENCE, || {
        handshakes(&quoit, "ok") >= 4.0 && handshakes(&quoit, "plain") > 0.0 && handshakes(&quoit, "refused") > 0.0
    });
    assert!(quoit.log().contains("TLS: the other side speaks no TLS here"), "{}", quoit.log());
    let expiry = quoit.metric("quoit_tls_certificate_expiry_timestamp_seconds");
    assert!(matches!(&expiry[..], [(labels, at)] if labels.contains("side=\"listener\"") && *at > 2e9), "{expiry:?}");
}

/// What the proxy does with bytes is the same over TLS, in both versions: pipelines, values far beyond a record, messages.
#[test]
fn pipelines_big_values_and_messages() {
    let authority = Authority::new();
    let Some(stores) = TlsStore::several(&authority, 2, &[]).filter(|_| has_proxy()) else { return };
    let quoit = Quoit::start(&config_of(&stores, &authority).listener(&listener(&authority.issue_here("quoit"), "")));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let tunnel = Tunnel::start(quoit.address(), authority.client_of(&[version], None));
        let keys: Vec<String> = (0..200).map(|number| format!("key:{number}")).collect();
        let load = Load::start(tunnel.address(), 4, 50, &[keys], Expect::Latest);
        let mut client = Client::connect(tunnel.address());
        // Longer than what is held, what streams through, and odd lengths around a record.
        for length in [1, 16_383, 16_384, 16_385, 65_537, 1 << 20, 24 << 20] {
            let value: Vec<u8> =
                (0..length).map(|at: usize| (at.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()[0]).collect();
            assert_eq!(client.command(&[b"SET", &b"big"[..], &value]).text(), "OK");
            let reply = client.command_raw(&["GET", "big"]);
            assert_eq!(reply.raw.len(), format!("${length}\r\n").len() + length + 2);
            assert!(reply.raw.windows(length).any(|window| window == value), "{length} bytes came back otherwise");
        }
        let mut listener = Client::connect(tunnel.address());
        listener.send(&encode(&["SUBSCRIBE", "news"]));
        assert_eq!(listener.receive().value.items().len(), 3);
        let message = "m".repeat(100_000);
        for _ in 0..50 {
            assert_eq!(client.command(&["PUBLISH", "news", &message]), crate::support::Value::Integer(1));
        }
        for _ in 0..50 {
            assert_eq!(listener.receive().value.items()[2].text(), message);
        }
        eventually("the load has done something", PATIENCE, || load.answered(0) > 2_000 || !load.is_healthy());
        assert_eq!(load.failed(0), 0, "{:?}", load.errors(0));
        load.finish();
    }
}

/// A client that does not read its replies does not stop others, and gets them all when it does.
#[test]
fn a_slow_reader_gets_everything() {
    let authority = Authority::new();
    let Some(stores) = TlsStore::several(&authority, 1, &[]).filter(|_| has_proxy()) else { return };
    let quoit = Quoit::start(&config_of(&stores, &authority).listener(&listener(&authority.issue_here("quoit"), "")));
    let tunnel = Tunnel::start(quoit.address(), authority.client(None));
    let mut other = Client::connect(tunnel.address());
    let value = "v".repeat(1 << 20);
    assert_eq!(other.command(&["SET", "k", &value]).text(), "OK");
    let mut slow = Client::connect(tunnel.address());
    slow.send(&encode(&["GET", "k"]).repeat(40));
    for _ in 0..200 {
        assert_eq!(other.line("SET other v").text(), "OK");
    }
    for number in 0..40 {
        assert_eq!(slow.receive().value.text(), value, "reply {number}");
    }
}

#[test]
fn certificates_of_clients() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let Some(store) = RedisServer::start().filter(|_| has_proxy()) else { return };
    let own = authority.issue_here("quoit");
    let ca = format!(", client_ca_file = \"{}\"", authority.ca().display());
    let known = authority.client(Some(&authority.issue("client", &["client"])));
    let unknown = authority.client(Some(&stranger.issue("client", &["client"])));
    let expired =
        authority.issue_with("expired", &["client"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let expired = authority.client(Some(&expired));
    let none = authority.client(None);
    let config = |more: &str| QuoitConfig::new([("node-amber", store.address())]).listener(&listener(&own, more));

    let quoit = Quoit::start(&config(&ca)); // As `required`.
    assert_eq!(ping(quoit.address(), &known).ok().as_deref(), Some("+PONG"));
    for client in [&none, &unknown, &expired] {
        // In TLS 1.3 a client learns of it when it has sent its first request.
        assert!(ping(quoit.address(), client).is_err());
    }
    eventually("all are counted", PATIENCE, || handshakes(&quoit, "certificate") > 2.5);
    assert!(quoit.log().contains("a client did not get through the TLS handshake"), "{}", quoit.log());

    let reload = |more: &str| {
        quoit.write_config(&quoit.text_of(&config(more)));
        assert_eq!(quoit.admin("POST", "/reload").status, 200);
    };
    reload(&format!("{ca}, client_auth = \"optional\""));
    assert_eq!(ping(quoit.address(), &known).ok().as_deref(), Some("+PONG"));
    assert_eq!(ping(quoit.address(), &none).ok().as_deref(), Some("+PONG"));
    assert!(ping(quoit.address(), &unknown).is_err());
    reload("");
    assert_eq!(ping(quoit.address(), &unknown).ok().as_deref(), Some("+PONG"), "nobody asks for it");
}

/// Clients that never finish their handshake are let go, hold up neither others nor the end of the proxy.
#[test]
fn clients_that_say_nothing() {
    let authority = Authority::new();
    let Some(store) = RedisServer::start().filter(|_| has_proxy()) else { return };
    let own = authority.issue_here("quoit");
    let config = |more: &str| QuoitConfig::new([("node-amber", store.address())]).listener(&listener(&own, more));
    let mut quoit = Quoit::start(&config(", handshake_timeout_ms = 1000"));
    let mut silent: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(quoit.address()).expect("it listens")).collect();
    // A record that is never complete.
    silent[0].write_all(&[0x16, 3, 1, 2, 0, 1]).expect("it takes bytes");
    eventually("others are served", PATIENCE, || ping(quoit.address(), &authority.client(None)).is_ok());
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout can be set");
        assert_eq!(stream.read(&mut [0; 16]).expect("the end"), 0);
    }
    eventually("all are counted", PATIENCE, || handshakes(&quoit, "timeout") > 19.5);

    quoit.write_config(&quoit.text_of(&config(", handshake_timeout_ms = 600000")));
    assert_eq!(quoit.admin("POST", "/reload").status, 200);
    let kept: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(quoit.address()).expect("it listens")).collect();
    assert_eq!(ping(quoit.address(), &authority.client(None)).ok().as_deref(), Some("+PONG"));
    assert!(quoit.terminate().success());
    assert!(!quoit.log().contains("drain timed out"), "{}", quoit.log());
    drop(kept);
}

/// More handshakes at a time than a worker allows: those that are too many are turned away, and nobody else notices.
#[test]
fn a_crowd_at_the_door() {
    let authority = Authority::new();
    let Some(store) = RedisServer::start().filter(|_| has_proxy()) else { return };
    if raise_open_files() < 4_000 {
        eprintln!("skip: too few open files are allowed");
        return;
    }
    let own = authority.issue_here("quoit");
    let config = QuoitConfig::new([("node-amber", store.address())]).workers(1);
    let quoit = Quoit::start(&config.listener(&listener(&own, ", handshake_timeout_ms = 600000")));
    let client = authority.client(None);
    let mut before = TlsClient::connect(quoit.address(), &client).expect("it connects");
    assert_eq!(before.ask("PING").expect("it answers"), "+PONG");
    let silent: Vec<TcpStream> = (0..1_100).map(|_| TcpStream::connect(quoit.address()).expect("it listens")).collect();
    eventually("some are turned away", PATIENCE, || handshakes(&quoit, "crowded") > 75.5);
    assert_eq!(before.ask("PING").expect("it answers"), "+PONG");
    assert!(ping(quoit.address(), &client).is_err());
    drop(silent);
    eventually("there is room", PATIENCE, || ping(quoit.address(), &client).is_ok());
}

/// A certificate is renewed under load, as people do it: a link is swapped (Kubernetes), a file written over. One that is
/// wrong leaves the old one in force.
#[test]
fn a_certificate_is_renewed() {
    let authority = Authority::new();
    let Some(stores) = TlsStore::several(&authority, 2, &[]).filter(|_| has_proxy()) else { return };
    let volume = authority.directory().join("volume");
    let put = |name: &str| -> Vec<u8> {
        let issued = authority.issue_here(name);
        let place = volume.join(name);
        fs::create_dir_all(&place).expect("a directory");
        fs::rename(&issued.cert, place.join("tls.crt")).expect("the file");
        fs::rename(&issued.key, place.join("tls.key")).expect("the file");
        let aside = volume.join("..data.new");
        std::os::unix::fs::symlink(name, &aside).expect("a link");
        fs::rename(&aside, volume.join("..data")).expect("the link");
        CertificateDer::from_pem_file(place.join("tls.crt")).expect("a certificate").to_vec()
    };
    let first = put("first");
    for file in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(Path::new("..data").join(file), volume.join(file)).expect("a link");
    }
    let own = Identity { cert: volume.join("tls.crt"), key: volume.join("tls.key") };
    let quoit = Quoit::start(&config_of(&stores, &authority).listener(&listener(&own, "")));
    let client = authority.client(None);
    let shown = || {
        let mut client = TlsClient::connect(quoit.address(), &client).expect("it connects");
        assert_eq!(client.ask("PING").expect("it answers"), "+PONG");
        client.certificate()
    };
    let mut old = TlsClient::connect(quoit.address(), &client).expect("it connects");
    assert_eq!(old.ask("SET old v").expect("it answers"), "+OK");
    assert!(shown() == first);
    let tunnel = Tunnel::start(quoit.address(), authority.client(None));
    let keys: Vec<String> = (0..100).map(|number| format!("key:{number}")).collect();
    let load = Load::start(tunnel.address(), 4, 10, &[keys], Expect::Latest);
    let connects = quoit.metric_sum("quoit_node_connects_total");

    let second = put("second");
    eventually("the second certificate is shown", PATIENCE, || shown() == second);
    let third = put("third");
    eventually("the third certificate is shown", PATIENCE, || shown() == third);

    // The key first, as a careless script does: it does not belong to the certificate.
    let failed = |quoit: &Quoit| quoit.metric_sum("quoit_config_last_reload_successful") < 0.5;
    let fourth = authority.issue_here("fourth");
    fs::copy(&fourth.key, &own.key).expect("the file");
    eventually("it is noticed", PATIENCE, || failed(&quoit));
    assert!(quoit.log().contains("the key does not belong to the certificate"), "{}", quoit.log());
    assert!(shown() == third);
    fs::copy(&fourth.cert, &own.cert).expect("the file");
    eventually("the fourth certificate is shown", PATIENCE, || !failed(&quoit) && shown() != third);
    fs::remove_file(&own.cert).expect("the file");
    eventually("it is noticed", PATIENCE, || failed(&quoit));

    let answered = load.answered(0);
    eventually("the load goes on", PATIENCE, || load.answered(0) > answered + 100 || !load.is_healthy());
    assert_eq!(old.ask("GET old").expect("it answers"), "$1");
    assert_eq!(load.failed(0), 0, "{:?}", load.errors(0));
    load.finish();
    let more = quoit.metric_sum("quoit_node_connects_total") - connects;
    assert!(more < 8.0, "stores keep their connections, and {more} were opened");
}

/// The stores' issuer changes: connections live on, new ones know the new issuer.
#[test]
fn the_issuer_of_stores_is_renewed() {
    let (before, after) = (Authority::new(), Authority::new());
    let Some(mut store) = TlsStore::start(&before, &before.issue_here("store"), &[]).filter(|_| has_proxy()) else {
        return;
    };
    let config = config_of(std::slice::from_ref(&store), &before)
        .pool("connect_timeout_ms = 5000")
        .tables("[pool.breaker]\nbackoff_min_ms = 20\nbackoff_max_ms = 100");
    let quoit = Quoit::start(&config);
    let mut client = quoit.client();
    assert_eq!(client.line("SET k v").text(), "OK");
    let epoch = quoit.metric_sum("quoit_topology_epoch");
    fs::copy(after.ca(), before.ca()).expect("the file");
    eventually("it is noticed", PATIENCE, || quoit.metric_sum("quoit_topology_epoch") > epoch);
    assert_eq!(client.line("GET k").text(), "v", "the connection is the old one");
    store.plain.kill9();
    eventually("the store is not believed", PATIENCE, || {
        store.plain.restart();
        client.line("GET k").text().contains("UnknownIssuer")
    });
    assert!(quoit.log().contains("`ca_file` has no certificate of who issued it"), "{}", quoit.log());
}

/// What is wrong with a store's certificate is in the error and in the log, and nothing is sent to it.
#[test]
fn stores_that_are_not_believed() {
    #[track_caller]
    fn check(store: SocketAddr, tls: &str, want: &str) {
        let quoit = Quoit::start(&QuoitConfig::new([("node-amber", store)]).tables(tls));
        let mut client = quoit.client();
        eventually(want, PATIENCE, || {
            let reply = client.line("SET secret value");
            assert!(reply.is_error(), "{reply:?}");
            reply.text().contains("TLS: ") && reply.text().contains(want) && quoit.log().contains(want)
        });
    }
    let (authority, stranger) = (Authority::new(), Authority::new());
    let trust = pool(&authority, "");
    let expired =
        authority.issue_with("expired", &["127.0.0.1"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let elsewhere = authority.issue("elsewhere", &["redis.elsewhere.test"]);
    let foreign = stranger.issue_here("foreign");
    let Some(store) = TlsStore::start(&authority, &expired, &[]).filter(|_| has_proxy()) else { return };
    check(store.tls, &trust, "expired");
    let Some(store) = TlsStore::start(&authority, &elsewhere, &[]) else { return };
    check(store.tls, &trust, "not valid for name");
    check(store.tls, &trust, "`server_name` in `[pool.tls]` says which name to expect");
    let quoit = Quoit::start(
        &QuoitConfig::new([("node-amber", store.tls)])
            .tables(&pool(&authority, "server_name = \"redis.elsewhere.test\"")),
    );
    assert_eq!(quoit.client().line("SET k v").text(), "OK");
    let Some(store) = TlsStore::start(&stranger, &foreign, &[]) else { return };
    check(store.tls, &trust, "UnknownIssuer");
    // Without `ca_file` it is the system's issuers who count, and ours is none of them.
    if Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        check(store.tls, "[pool.tls]", "UnknownIssuer");
    }
    // A store that wants to see a certificate.
    let Some(store) = TlsStore::start(&authority, &authority.issue_here("store"), &["--tls-auth-clients", "yes"])
    else {
        return;
    };
    check(store.tls, &trust, "set `cert_file` and `key_file` in `[pool.tls]`");
    let own = authority.issue("quoit-as-client", &["quoit"]);
    let shown = format!("cert_file = \"{}\"\nkey_file = \"{}\"", own.cert.display(), own.key.display());
    let quoit = Quoit::start(&QuoitConfig::new([("node-amber", store.tls)]).tables(&pool(&authority, &shown)));
    assert_eq!(quoit.client().line("SET k v").text(), "OK");
    let expiry = quoit.metric("quoit_tls_certificate_expiry_timestamp_seconds");
    assert!(matches!(&expiry[..], [(labels, _)] if labels.contains("side=\"pool\"")), "{expiry:?}");
}

/// A store in TLS dies and comes back: its keys fail meanwhile with one copy, and with three nothing is missed.
#[test]
fn a_killed_store_comes_back() {
    let authority = Authority::new();
    let Some(mut stores) = TlsStore::several(&authority, 3, DURABLE).filter(|_| has_proxy()) else { return };
    let breaker = "[pool.breaker]\nbackoff_min_ms = 20\nbackoff_max_ms = 200";
    let quoit = Quoit::start(&config_of(&stores, &authority).tables(breaker));
    let mut client = quoit.client();
    let keys: Vec<String> = (0..60).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        assert_eq!(client.command(&["SET", key, key]).text(), "OK");
    }
    stores[1].plain.kill9();
    let failing = |client: &mut Client| keys.iter().filter(|key| client.command(&["GET", key]).is_error()).count();
    let failed = failing(&mut client);
    assert!((1..keys.len()).contains(&failed), "{failed} keys fail");
    stores[1].plain.restart();
    eventually("all keys are served", PATIENCE, || failing(&mut client) == 0);
    drop(quoit);

    for store in &stores {
        assert_eq!(store.plain.client().line("FLUSHALL").text(), "OK");
    }
    let quoit = Quoit::start(&config_of(&stores, &authority).replicas(3).tables(breaker));
    let mut client = quoit.client();
    eventually("every key is served", PATIENCE, || {
        keys.iter().all(|key| !client.command(&["SET", key, key]).is_error())
    });
    stores[2].plain.kill9();
    for key in &keys {
        assert_eq!(client.command(&["SET", key, "newer"]).text(), "OK");
        assert_eq!(client.command(&["GET", key]).text(), "newer");
    }
    stores[2].plain.restart();
    eventually("the store has what it missed", PATIENCE, || {
        let mut store = stores[2].plain.client();
        keys.iter().all(|key| store.command(&["GET", key]).text() == "newer")
    });
}

/// Connections beside the usual ones go the same way: those of one client alone, and those past all that waits.
#[test]
fn every_connection_to_a_store_is_in_tls() {
    let authority = Authority::new();
    let busy = &["--busy-reply-threshold", "100"];
    let store = TlsStore::start(&authority, &authority.issue_here("store"), busy);
    let Some(store) = store.filter(|_| has_proxy()) else { return };
    let config = config_of(std::slice::from_ref(&store), &authority);
    let quoit = Quoit::start(&config.pool("connect_timeout_ms = 30000\nservice_timeout_ms = 60000"));
    let mut client = quoit.client();
    assert_eq!(client.line("WATCH k").text(), "OK");
    assert_eq!(client.line("MULTI").text(), "OK");
    assert_eq!(client.line("SET k v").text(), "QUEUED");
    assert_eq!(client.line("EXEC").items().len(), 1);
    let mut waiting = quoit.client();
    waiting.send(&encode(&["BLPOP", "list", "0"]));
    assert_eq!(client.line("RPUSH list element"), crate::support::Value::Integer(1));
    assert_eq!(waiting.receive().value.items()[1].text(), "element");
    waiting.send(&encode(&["EVAL", "while true do end", "0"]));
    // Asked again while the script has not begun.
    eventually("the script runs and is killed", PATIENCE, || client.line("SCRIPT KILL").text() == "OK");
    assert!(waiting.receive().value.text().contains("Script killed"));
}

#[test]
fn redis_py_through_tls() {
    let Some(python) = crate::clients::python_with_redis() else { return };
    let authority = Authority::new();
    let Some(stores) = TlsStore::several(&authority, 3, &[]).filter(|_| has_proxy()) else { return };
    let quoit = Quoit::start(&config_of(&stores, &authority).listener(&listener(&authority.issue_here("quoit"), "")));
    let port = quoit.address().port().to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/redis_py.py");
    let output = Command::new(python).arg(script).arg(port).arg(authority.ca()).output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.trim_end().ends_with("ok"), "{out}\n{err}\n{}", quoit.log());
}

/// SIGHUP reads certificates again, too.
#[test]
fn a_signal_reads_certificates_again() {
    let authority = Authority::new();
    let Some(store) = RedisServer::start().filter(|_| has_proxy()) else { return };
    let own = authority.issue_here("quoit");
    let quoit = Quoit::start(&QuoitConfig::new([("node-amber", store.address())]).listener(&listener(&own, "")));
    let epoch = quoit.metric_sum("quoit_topology_epoch");
    quoit.signal(Signal::HangUp);
    eventually("it is reloaded", PATIENCE, || quoit.metric_sum("quoit_topology_epoch") > epoch);
    assert_eq!(ping(quoit.address(), &authority.client(None)).ok().as_deref(), Some("+PONG"));
}
