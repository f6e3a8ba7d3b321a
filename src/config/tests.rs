use super::*;

#[test]
fn scratch() {
    let text = r#"
[proxy]
workers = "two"
client_max = 3
memory_bytes_max = 1
[[listener]]
bind = "localhost:6380"
pool = "mian"
[[listener.route]]
prefix = "a"
pool = "main"
[[listener.route]]
prefix = "a"
pool = "main"
weight = 3
[[pool]]
name = "main"
replica = 3
replicas = 3
[pool.ring]
placement = "ketema"
hash_tag = "{"
[[pool.node]]
name = "a"
address = "10.0.0.1:6379"
[[pool.node]]
name = "a"
address = "rediss://10.0.0.2:6379"
[[pool.node]]
address = "10.0.0.1:6379"
"#;
    println!("{}", check_text("quoit.toml", text).unwrap_err());
    println!("{}", check_text("quoit.toml", "a = \nb = [\n[x").unwrap_err());
    println!("{}", check_text("quoit.toml", "").unwrap_err());
}
