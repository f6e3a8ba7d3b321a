use std::fs;

use proptest::prelude::*;

use super::*;

const MINIMAL: &str = r#"
[[listener]]
bind = "127.0.0.1:6380"
pool = "main"

[[pool]]
name = "main"

[[pool.node]]
name = "a"
address = "10.0.0.1:6379"
"#;

/// The example files, by name.
fn examples() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut examples: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    examples.sort();
    assert!(4 < examples.len());
    examples
}

#[test]
fn defaults_of_a_minimal_file() {
    let config = check_text("minimal.toml", MINIMAL).unwrap();
    let listener = &config.listeners[0];
    assert_eq!((listener.name.as_str(), listener.pool), ("127.0.0.1:6380", 0));
    assert_eq!((listener.request_bytes_max, listener.keys_per_command_max), (512 << 20, 100_000));
    assert_eq!(config.admin.bind, Some("127.0.0.1:9380".parse().unwrap()));
    let pool = &config.pools[0];
    assert_eq!(pool.ring.placement, ring::Placement::Ketama);
    assert_eq!(pool.ring.hash, ring::KeyHash::Xxh3);
    assert!(matches!(pool.ring.shard_key, ring::ShardKey::HashTag { open: b'{', close: b'}' }));
    assert_eq!(pool.timeouts.service, Duration::from_secs(5));
    assert_eq!(pool.nodes[0].address, Address::Tcp { host: "10.0.0.1".to_owned(), port: 6379 });
    assert_eq!(config.effective["pool"][0]["queue_timeout_ms"], 1_000);
    assert_eq!(config.content_hash, content_hash(MINIMAL.as_bytes()));
}

/// A pool of five nodes and these settings; the text of its level and quorums, or the titles of the faults.
#[track_caller]
fn check_replication(settings: &str, want: &str) {
    let nodes = (1..=5).map(|n| format!("[[pool.node]]\nname = \"{n}\"\naddress = \"10.0.0.{n}:6379\"\n"));
    let nodes: String = nodes.collect();
    let listener = "[[listener]]\nbind = \"127.0.0.1:6380\"\npool = \"main\"\n";
    let text = format!("{listener}[[pool]]\nname = \"main\"\n{}\n{nodes}", settings.replace("; ", "\n"));
    let got = match check_text("quoit.toml", &text) {
        Ok(config) => {
            let Pool { replicas, level, quorums, .. } = config.pools[0];
            assert_eq!(replicas, u32::from(quorums.replicas));
            format!("{level} N={replicas} W={} R={}", quorums.write, quorums.read)
        }
        Err(faults) => faults.iter().map(|fault| fault.title.as_str()).collect::<Vec<_>>().join("; "),
    };
    assert_eq!(got, want, "{settings}");
}

#[test]
fn levels_and_quorums() {
    let check = check_replication;
    check("", "linearizable N=1 W=1 R=1");
    check("write_quorum = 1; read_quorum = 1", "linearizable N=1 W=1 R=1");
    check("replicas = 2", "linearizable N=2 W=2 R=2");
    check("replicas = 3", "linearizable N=3 W=2 R=2");
    check("replicas = 4", "linearizable N=4 W=3 R=3");
    check("replicas = 5; level = \"quorum\"", "linearizable N=5 W=3 R=3");
    check("replicas = 5; level = \"one\"; write_quorum = 4", "one N=5 W=4 R=3");
    check("replicas = 3; level = \"all\"; write_quorum = 3; read_quorum = 1", "all N=3 W=3 R=1");
    check("replicas = 3; level = \"eventual\"; write_quorum = 1; read_quorum = 1", "eventual N=3 W=1 R=1");

    check("replicas = 6", "6 replicas do not fit on 5 nodes");
    check("replicas = 0", "`pool.replicas` is out of bounds");
    check("replicas = 8; level = \"all\"; write_quorum = 6", "`pool.replicas` is out of bounds");
    check("replica = 3; level = \"all\"", "unknown key `replica` in `pool`");
    check("replicas = 3; level = \"evential\"; read_quorum = 1", "`pool.level` cannot be this");
    check("level = \"linearizable\"", "a level changes nothing with one replica");
    check("replicas = 3; write_quorum = 4; read_quorum = 1", "a quorum of 4 out of 3 replicas");
    check("replicas = 3; write_quorum = 1", "two write quorums of 1 out of 3 replicas need not meet");
    check("replicas = 4; write_quorum = 2", "two write quorums of 2 out of 4 replicas need not meet");
    let misses = "a read quorum of 1 can miss a write quorum of 2 out of 3 replicas";
    check("replicas = 3; read_quorum = 1", misses);
    check("replicas = 3; read_quorum = 1; level = \"all\"", misses);
    check("replicas = 3; read_quorum = 1; level = \"one\"", misses);
}

#[test]
fn bounds_of_replicated_operations() {
    let pool = check_text("minimal.toml", MINIMAL).unwrap().pools.remove(0);
    assert_eq!((pool.operation_timeout, pool.hedge), (Duration::from_secs(2), Some(Duration::from_millis(20))));
    assert_eq!((pool.tombstone_grace, pool.repair_queue_len), (Duration::from_hours(240), 10_000));
    assert_eq!(pool.adopt, Adopt::Majority);
    let text = MINIMAL.replace("[[pool.node]]", "hedge_ms = 0\nadopt = \"first\"\n[[pool.node]]");
    let pool = check_text("minimal.toml", &text).unwrap().pools.remove(0);
    assert_eq!((pool.hedge, pool.adopt), (None, Adopt::First));
}

#[test]
fn a_route_has_a_level_of_its_own() {
    let (_, text) = examples().into_iter().find(|(name, _)| name == "replicated.toml").unwrap();
    let config = check_text("replicated.toml", &text).unwrap();
    let level = |key: &str| config.listeners[0].route(key.as_bytes()).and_then(|route| route.level);
    assert_eq!((level("profile:7"), level("order:7")), (Some(Level::One), None));
    assert_eq!(config.effective["pool"][0]["level"], "linearizable");
}

#[test]
fn every_example_is_right_and_names_its_schema() {
    for (name, text) in examples() {
        assert!(text.starts_with("#:schema ./quoit.schema.json\n"), "{name}");
        check_text(&name, &text).unwrap_or_else(|faults| panic!("{faults}"));
    }
}

#[test]
fn routes_are_sorted_and_rewrite() {
    let (_, text) = examples().into_iter().find(|(name, _)| name == "routes.toml").unwrap();
    let config = check_text("routes.toml", &text).unwrap();
    let listener = &config.listeners[0];
    let check = |key: &str, want: Option<&str>| {
        let got = listener.route(key.as_bytes()).map(|route| route.rewritten(key.as_bytes()).into_owned());
        assert_eq!(got.as_deref(), want.map(str::as_bytes), "{key}");
    };
    assert!(listener.routes.is_sorted_by_key(|route| std::cmp::Reverse(route.prefix.len())));
    check("user:1", None);
    check("session:1", Some("session:1"));
    check("old:session:1", Some("session:1"));
}

#[test]
fn secrets_are_read_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("quoit.toml");
    fs::write(directory.path().join("password"), "hunter2 \r\n").unwrap();
    fs::write(&path, format!("{MINIMAL}password_file = \"password\"\nusername = \"reader\"\n")).unwrap();
    let config = load(&path).unwrap();
    assert_eq!(config.pools[0].nodes[0].password.as_ref().unwrap().expose(), "hunter2 ");
    let shown = format!("{config:?}{}", config.effective);
    assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
    fs::write(directory.path().join("password"), "\n").unwrap();
    let shown = load(&path).unwrap_err().to_string();
    assert!(shown.contains("the password cannot be read") && shown.contains("the secret is empty"), "{shown}");
    fs::remove_file(directory.path().join("password")).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("cannot read"));
    // Pure checks depend on no other file.
    check_text("quoit.toml", &fs::read_to_string(&path).unwrap()).unwrap();
}

/// A configuration whose listener shows what is in the files `cert` and `key`, and trusts `ca`.
fn load_tls(files: [(&str, &str); 3]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let tls = "tls = { cert_file = \"cert\", key_file = \"key\", client_ca_file = \"ca\" }\n[[pool]]";
    let path = directory.path().join("quoit.toml");
    fs::write(&path, MINIMAL.replace("[[pool]]", tls)).unwrap();
    load(&path).map_err(|error| error.to_string().replace(&*directory.path().to_string_lossy(), "DIRECTORY"))
}

#[test]
fn files_for_tls_are_read_and_their_faults_name_them() {
    #[track_caller]
    fn check(files: [(&str, &str); 3], want: &[&str]) {
        let shown = load_tls(files).unwrap_err();
        assert!(want.iter().all(|want| shown.contains(want)), "{shown}");
        assert!(!shown.contains("MIG") && !shown.contains("MII"), "nothing of a key is shown: {shown}");
    }
    let made = || rcgen::generate_simple_self_signed(["quoit.test".to_owned()]).unwrap();
    let (one, other) = (made(), made());
    let (cert, key, ca) = (one.cert.pem(), one.signing_key.serialize_pem(), other.cert.pem());
    let tls = load_tls([("cert", &cert), ("key", &key), ("ca", &ca)]).unwrap().listeners.remove(0).tls.unwrap();
    assert_eq!(tls.expires, Some(67_090_118_400), "rcgen's default: the year 4096");
    assert_eq!(tls.handshake_timeout, Duration::from_secs(10));

    let damaged = cert.replacen("MII", "\u{7f}II", 1);
    let cut = cert.lines().take(3).collect::<Vec<_>>().join("\n");
    let other_key = other.signing_key.serialize_pem();
    let both = format!("{key}{cert}");
    check(
        [("cert", &cert), ("key", &other_key), ("ca", &ca)],
        &["the key does not belong to the certificate", "quoit.toml"],
    );
    check([("cert", &key), ("key", &key), ("ca", &ca)], &["DIRECTORY/cert holds no certificate"]);
    check(
        [("cert", &cert), ("key", &cert), ("ca", &ca)],
        &["DIRECTORY/key holds no private key, or one with a passphrase"],
    );
    check([("cert", &cert), ("key", &key), ("ca", "")], &["DIRECTORY/ca holds no certificate"]);
    check([("cert", &damaged), ("key", &key), ("ca", &ca)], &["DIRECTORY/cert holds PEM that is damaged"]);
    check([("cert", &cut), ("key", &key), ("ca", &ca)], &["DIRECTORY/cert holds PEM that is cut off"]);
    check([("cert", &cert), ("key", &key), ("other", &ca)], &["cannot read DIRECTORY/ca: No such file"]);
    let nonsense = "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n";
    check([("cert", nonsense), ("key", &key), ("ca", &ca)], &["something that calls itself a certificate and is none"]);
    load_tls([("cert", &both), ("key", &both), ("ca", &ca)]).expect("both in one file");
}

#[test]
fn secrets_in_the_wrong_place_are_masked() {
    for wrong in ["password = \"hunter2\"", "Auth_Token = [\"hunter2\"]", "secret = '''\nhunter2\n'''"] {
        let shown = check_text("quoit.toml", &format!("{MINIMAL}{wrong}\n")).unwrap_err().to_string();
        assert!(!shown.contains("hunter2") && shown.contains("unknown key"), "{shown}");
    }
    for wrong in ["password = hunter2", "auth_token: hunter2", "[[pool]]\ntoken = \"hunter2"] {
        let shown = check_text("quoit.toml", wrong).unwrap_err().to_string();
        assert!(!shown.contains("hunter2") && shown.contains("****"), "{shown}");
    }
    let text = MINIMAL.replace("10.0.0.1", "redis://reader:hunter2@10.0.0.1");
    let shown = check_text("quoit.toml", &text).unwrap_err().to_string();
    assert!(!shown.contains("hunter2") && shown.contains("no user or password"), "{shown}");
}

#[test]
fn unreadable_files_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("quoit.toml");
    assert!(matches!(load(&path), Err(LoadError::Read { .. })));
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(load(&path), Err(LoadError::NotText { .. })));
}

#[test]
fn host_names_are_names() {
    let with = |name: &str| check_text("quoit.toml", &format!("[admin]\nhost_names = [\"{name}\"]\n{MINIMAL}"));
    assert_eq!(with("quoit.internal").unwrap().admin.host_names, ["quoit.internal"]);
    for wrong in ["", "http://quoit", "quoit:9380", "10.0.0.1", "two names"] {
        assert!(with(wrong).unwrap_err().to_string().contains("this is no host name"), "{wrong}");
    }
}

/// The scanner and the command table count bytes of a request that is held in 32 bits.
#[test]
fn requests_that_are_held_stay_below_4_gib() {
    let listener = &schema()["properties"]["listener"]["items"]["properties"];
    let most = |name: &str| listener[name]["maximum"].as_u64().unwrap();
    assert!(most("query_buffer_bytes_max") <= 1 << 30);
    assert!(most("request_bytes_max") <= 512 << 20);
}

#[test]
fn settings_that_need_a_restart() {
    let old = check_text("old.toml", MINIMAL).unwrap();
    let proxy = "[proxy]\nworkers = 255\nmemory_bytes_max = 20_000_000\n";
    let text = format!("{proxy}[admin]\nbind = \"off\"\nhost_names = [\"quoit.internal\"]\n{MINIMAL}");
    let mut new = check_text("new.toml", &text.replace(":6380", ":6381")).unwrap();
    assert_eq!(
        reload::restart_needed(&old, &new),
        [
            "proxy.workers",
            "proxy.memory_bytes_max",
            "admin.bind",
            "admin.host_names",
            "listener.bind 127.0.0.1:6380",
            "listener.bind 127.0.0.1:6381"
        ]
    );
    new = check_text("new.toml", &MINIMAL.replace("10.0.0.1", "10.0.0.2")).unwrap();
    assert_eq!(reload::restart_needed(&old, &new), [""; 0]);
    let socket = MINIMAL.replace("127.0.0.1:6380", "unix:/run/quoit.sock");
    let [old, new] = ["0600", "0660"].map(|mode| {
        let bind = format!("socket_mode = \"{mode}\"\nbind");
        check_text("quoit.toml", &socket.replace("bind", &bind)).unwrap()
    });
    assert_eq!(reload::restart_needed(&old, &new), ["listener.socket_mode unix:/run/quoit.sock"]);
}

#[test]
fn users_of_the_file_and_of_a_listener() {
    let file = |tables: &str| check_text("quoit.toml", &format!("{MINIMAL}{tables}")).unwrap();
    assert!(file("").listeners[0].default_user.may_all());
    let config = file("[[user]]\nname = \"default\"\nrules = \"on >secret ~* +@read\"\ntrust_scripts = true\n");
    let default = &config.listeners[0].default_user;
    assert!(default.accepts(b"secret") && !default.needs_no_sign_in() && !default.may_all());
    let shown = config.effective.to_string();
    assert!(shown.contains("on >*** ~* +@read") && !shown.contains("secret"), "{shown}");
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn a_token_opens_the_admin_port_to_the_network() {
    let open = format!("[admin]\nbind = \"0.0.0.0:9380\"\n{MINIMAL}");
    assert!(check_text("quoit.toml", &open).is_err());
    let guarded = open.replace("9380\"", "9380\"\ntoken_env = \"TOKEN\"");
    check_text("quoit.toml", &guarded).unwrap();
}

#[test]
fn depth_and_length_are_bounded() {
    let deep = format!("a = {}", "[".repeat(50_000));
    assert!(check_text("deep.toml", &deep).is_err());
    let deep = format!("{} = 1", vec!["a"; 50_000].join("."));
    assert!(check_text("deep.toml", &deep).is_err());
    let many = "[[pool]]\n".repeat(2_000);
    let shown = check_text("many.toml", &many).unwrap_err().to_string();
    assert!(shown.contains("more"), "{shown}");
}

/// What may be put into a text to make it wrong in interesting places.
fn scraps() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\\[\\]{}\"'=.,#\n0-9_-]{1,6}",
        prop::sample::select(vec![
            "[[pool]]\n",
            "[[listener]]\n",
            "[pool.ring]\n",
            "[[pool.node]]\n",
            "\"\"\"",
            "= -1\n",
            "= 99999999999999999999\n",
            "placement = \"slots\"\n",
            "placement = \"range\"\n",
            "placement = \"maglev\"\n",
            "hash_tag = \"é\"\n",
            "password = \"é\"\n",
            "slots = [\"0-99999\", 3]\n",
            "weight = 1_000_000\n",
            "\r",
            "\u{feff}",
            "\0",
        ])
        .prop_map(str::to_owned),
    ]
}

/// An example with some of its pieces cut out and some scraps put in.
fn mutated() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0_usize..40, prop::option::of(scraps()));
    (0..examples().len(), prop::collection::vec(edit, 1..5)).prop_map(|(example, edits)| {
        let mut text = examples().swap_remove(example).1;
        for (place, length, scrap) in edits {
            let start = text.floor_char_boundary(place.index(text.len() + 1));
            let end = text.ceil_char_boundary((start + length).min(text.len()));
            text.replace_range(start..end, &scrap.unwrap_or_default());
        }
        text
    })
}

/// Checks a text and renders what comes out; the point is that both return.
fn survive(text: &str) {
    if let Err(faults) = check_text("fuzz.toml", text) {
        assert!(!faults.to_string().is_empty());
        assert!(!faults.render_with_colours().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in any::<String>()) {
        survive(&text);
    }

    #[test]
    fn no_mutated_example_panics(text in mutated()) {
        survive(&text);
    }
}
