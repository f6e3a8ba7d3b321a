//! Client-side caches of client libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Cluster, Fleet, Quoit, Reach};

/// Where redis-py is installed, if it is.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("QUOIT_PYTHON").map(PathBuf::from);
    let python = python.unwrap_or_else(|| root.join("target/clients/python/bin/python"));
    let has_cache = ["-c", "import redis.cache"];
    let found = Command::new(&python).args(has_cache).output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skip: redis-py with a cache is not installed");
    }
    found.then_some(python)
}

#[test]
fn redis_py_cache() {
    let Some(python) = python() else { return };
    let (Some(stores), Some(cluster)) = (Fleet::stores(3), Cluster::start(3, 2, Reach::Direct)) else { return };
    let proxies = [0, 1].map(|_| Quoit::start(&Fleet::config_of(&stores).workers(2)));
    for places in [proxies.each_ref().map(Quoit::address).to_vec(), cluster.addresses()] {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/redis_py_cache.py");
        let ports = places.iter().map(|place| place.port().to_string());
        let output = Command::new(&python).arg(script).args(ports).output().expect("it ran a moment ago");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.trim_end().ends_with("ok"), "{}\n{out}\n{err}", output.status);
    }
}
