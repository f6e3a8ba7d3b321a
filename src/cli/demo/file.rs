//! The configuration of the demo: written once with comments for who edits it, read again by the next demo in the same
//! folder.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

/// Ends the line of every address where the demo runs a store, commented out or not.
const MARK: &str = "# demo store";

/// The file for these ports. The last store is not in the ring: its lines are there, commented out. With several replicas,
/// whose ring stays as it is while it is served, all stores are in it.
pub(super) fn text(proxy: u16, admin: u16, stores: &[u16], replicas: u16) -> String {
    let copies = match replicas {
        0 | 1 => "databases = 1                     # the demo's stores have no more\n".to_owned(),
        _ => format!(
            "replicas = {replicas}                      # each key is on {replicas} stores; see docs/replication.md\n"
        ),
    };
    let mut text = format!(
        r#"# The configuration of this demo. Save the file and the running proxy follows: no restart, no reply lost.
# A mistake changes nothing, and the log shows where it is. Every setting: `quoit schema --markdown`.

[admin]
bind = "127.0.0.1:{admin}"        # /metrics, /ring, /readyz; a change needs a restart

[[listener]]
bind = "127.0.0.1:{proxy}"        # where clients connect; a change needs a restart
protocol = "redis"
pool = "main"

[[pool]]
name = "main"
protocol = "redis"
{copies}
[pool.ring]
placement = "ketama"
hash_tag = "{{}}"                  # user:{{42}}:name and user:{{42}}:mail share a node

# The name is the node's identity on the ring: its address may change and nothing moves.
"#
    );
    let in_ring = if replicas > 1 { stores.len() } else { stores.len().saturating_sub(1) };
    for (index, port) in stores.iter().enumerate() {
        let comment = if index < in_ring { "" } else { "#" };
        if index == in_ring {
            text.push_str(
                "# This store runs, too, but is not in the ring yet. Take the # from its three lines and save.\n",
            );
        }
        let number = index + 1;
        let written = write!(
            text,
            "{comment}[[pool.node]]\n\
             {comment}name = \"node-{number}\"\n\
             {comment}address = \"127.0.0.1:{port}\"     {MARK}\n\n"
        );
        written.expect("a string takes everything");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Writes the file, if there is none.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    std::fs::File::create_new(path)?.write_all(text.as_bytes())
}

/// The ports of the demo's stores in a file that people may have edited.
pub(super) fn store_ports(text: &str) -> Vec<u16> {
    let port = |line: &str| {
        let setting = line.trim_end().strip_suffix(MARK)?.trim_start_matches(['#', ' ', '\t']);
        let address = setting.strip_prefix("address")?.trim_start().strip_prefix('=')?.trim();
        address.strip_prefix("\"127.0.0.1:")?.strip_suffix('"')?.parse().ok()
    };
    let mut ports = Vec::new();
    for port in text.lines().filter_map(port) {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check_text;

    /// The names of the nodes in the ring.
    fn ring(text: &str) -> Vec<String> {
        let config = check_text("quoit.toml", text).unwrap();
        config.pools[0].nodes.iter().map(|node| node.name.clone()).collect()
    }

    #[test]
    fn the_last_store_waits_outside_the_ring() {
        let text = text(6380, 9380, &[7001, 7002, 7003], 1);
        assert_eq!(ring(&text), ["node-1", "node-2"]);
        assert_eq!(store_ports(&text), [7001, 7002, 7003]);
        let edited: Vec<&str> = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .collect();
        assert_eq!(ring(&edited.join("\n")), ["node-1", "node-2", "node-3"]);
        assert_eq!(store_ports(&edited.join("\n")), [7001, 7002, 7003]);
    }

    #[test]
    fn replicas_use_all_stores() {
        let text = text(6380, 9380, &[7001, 7002, 7003], 3);
        assert_eq!(ring(&text), ["node-1", "node-2", "node-3"]);
        assert_eq!(check_text("quoit.toml", &text).unwrap().pools[0].replicas, 3);
    }

    #[test]
    fn only_marked_addresses_are_stores_of_the_demo() {
        let text = "address = \"127.0.0.1:1\" # mine\n# address=\"127.0.0.1:2\" # demo store \naddress = \"10.0.0.1:3\" # demo store\n\
                    address = \"127.0.0.1:2\" # demo store\naddress = \"127.0.0.1:70000\" # demo store\n";
        assert_eq!(store_ports(text), [2]);
    }
}
