use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn example() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/twemproxy.yml")).unwrap()
}

#[test]
fn the_example_is_current() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/twemproxy.toml");
    assert_eq!(nutcracker("twemproxy.yml", &example()).unwrap(), fs::read_to_string(committed).unwrap());
}

#[track_caller]
fn check(line: &str, name: &str, hashed: &str, address: &str, weight: u32) {
    let server = server(line).unwrap();
    assert_eq!(server.name, name);
    assert_eq!(server.ring_name.unwrap_or(server.name), hashed);
    assert_eq!((server.address.as_str(), server.weight), (address, weight));
}

#[test]
fn lines_of_servers() {
    check("10.0.0.1:6379:1", "10.0.0.1:6379", "10.0.0.1:6379", "10.0.0.1:6379", 1);
    check("10.0.0.1:11211:2", "10.0.0.1:11211", "10.0.0.1", "10.0.0.1:11211", 2);
    check("10.0.0.1:11211:2 cache", "cache", "cache", "10.0.0.1:11211", 2);
    check("/run/a.sock:3", "/run/a.sock", "/run/a.sock:", "unix:/run/a.sock", 3);
    check("cache:6379:1 größe", "cache:6379", "größe", "cache:6379", 1);
    check("::1:6379:1", "::1:6379", "::1:6379", "[::1]:6379", 1);
    for wrong in ["", "cache", "cache:6379", "cache:6379:0", "cache:6379:-1", "/run/a.sock", "cache:6379:x name"] {
        assert!(server(wrong).is_none(), "{wrong}");
    }
}

#[test]
fn passwords_are_not_copied() {
    let text = example().replace("  timeout: 400\n", "  redis_auth: hunter2\n");
    let translated = nutcracker("twemproxy.yml", &text).unwrap();
    assert!(!translated.contains("hunter2"), "{translated}");
    assert_eq!(translated.matches("password_env = \"QUOIT_ALPHA_PASSWORD\"").count(), 2, "clients and stores");
    let faults = nutcracker("twemproxy.yml", &text.replace("hunter2\n", "hunter2\n  redis_db: 1\n")).unwrap_err();
    assert!(!faults.to_string().contains("hunter2"), "{faults}");
    let faults = nutcracker("broken.yml", "alpha:\n  redis_auth: 'hunter2\n").unwrap_err();
    assert!(!faults.to_string().contains("hunter2"), "{faults}");
}

#[test]
fn depth_is_bounded() {
    for unit in ["[", "- ", "? ", "a: {", "[\n", "{\n", "{a: [\n", "- ? "] {
        for times in [200, 400, 512, 50_000] {
            assert!(nutcracker("deep.yml", &unit.repeat(times)).is_err(), "{unit} {times} times");
        }
    }
    let stairs: Vec<_> = (0..1_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(nutcracker("deep.yml", &stairs.concat()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(place: prop::sample::Index, length in 0_usize..20, scrap in any::<String>()) {
        let mut text = example();
        let start = place.index(text.len());
        let end = (start + length).min(text.len());
        text.replace_range(start..end, &scrap);
        if let Err(faults) = nutcracker("fuzz.yml", &text) {
            prop_assert!(!faults.to_string().is_empty());
        }
        if let Err(faults) = nutcracker("fuzz.yml", &scrap) {
            prop_assert!(!faults.to_string().is_empty());
        }
    }
}
