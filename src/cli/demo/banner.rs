//! What the demo shows first: lines that can be pasted, and what they will show.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::loopback;
use super::stores::{Kind, Stores};
use crate::config::{Bind, Config};

/// The facts that the banner is made of.
pub(super) struct Banner {
    kind: Kind,
    stores: Vec<u16>,
    /// How many of them are in the ring.
    in_ring: usize,
    /// On how many of them each key is.
    replicas: u32,
    /// Where clients connect.
    clients: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    path: PathBuf,
    /// How to call quoit.
    program: String,
}

impl Banner {
    pub(super) fn new(config: &Config, path: &Path, stores: &Stores, program: &str) -> Self {
        let addresses: Vec<String> =
            config.pools.iter().flat_map(|pool| &pool.nodes).map(|node| node.address.to_string()).collect();
        let in_ring = stores.ports().iter().filter(|port| addresses.contains(&loopback(**port).to_string())).count();
        Self {
            kind: stores.kind(),
            stores: stores.ports().to_vec(),
            in_ring,
            replicas: config.pools.first().map_or(1, |pool| pool.replicas),
            clients: config.listeners.first().and_then(|listener| match listener.bind {
                Bind::Tcp(address) => Some(address),
                Bind::Unix(_) => None,
            }),
            admin: config.admin.bind,
            path: path.to_owned(),
            program: quoted(program),
        }
    }

    /// What is left when the demo has ended.
    pub(super) fn farewell(&self) -> String {
        let folder = self.path.parent().unwrap_or(&self.path);
        format!("The stores are gone; the file stays. Again: {} demo --dir {}", self.program, shown(folder))
    }

    fn clients(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(address) = self.clients else { return Ok(()) };
        let (host, port) = (address.ip(), address.port());
        writeln!(
            out,
            r#"
Use it, with any Redis client
  redis-cli -p {port} SET greeting hello
  redis-cli -p {port} GET greeting
or without one
  printf 'SET greeting hello\r\nGET greeting\r\nQUIT\r\n' | nc {host} {port}
  bash -c 'exec 3<>/dev/tcp/{host}/{port}; printf "GET greeting\r\nQUIT\r\n" >&3; cat <&3'"#
        )
    }

    fn ring(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (program, file) = (&self.program, shown(&self.path));
        writeln!(
            out,
            "\nAsk where a key lives, and what one store alone holds\n  {program} route --config {file} greeting"
        )?;
        if let Some(port) = self.stores.first() {
            writeln!(out, "  redis-cli -p {port} KEYS '*'")?;
        }
        if self.in_ring < self.stores.len() {
            let next = shown(&self.path.with_file_name("next.toml"));
            writeln!(
                out,
                r"
Add a store: take the # from the last three lines of {file} and save, or
  sed 's/^#\([^ ]\)/\1/' {file} > {next}
  {program} plan {file} {next}
  cp {next} {file}
The ring follows at once. The data does not yet: keys that change their store are back when you undo the edit."
            )?;
        }
        Ok(())
    }

    fn admin(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(address) = self.admin else { return Ok(()) };
        writeln!(
            out,
            "
Look inside
  curl http://{address}/ring
  curl http://{address}/metrics
  curl http://{address}/"
        )
    }
}

impl fmt::Display for Banner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stores, in_ring) = (self.stores.len(), self.in_ring);
        writeln!(
            out,
            "quoit demo: {stores} stores, {in_ring} of them in the ring, behind one port that speaks Redis."
        )?;
        if self.replicas > 1 {
            writeln!(out, "Each key is on {} of them.", self.replicas)?;
        }
        writeln!(
            out,
            "{}",
            match self.kind {
                Kind::Embedded => {
                    "The stores are built in and only for trying: no disk, one database, not every command. They forget \
                     everything\nwhen the demo ends. `--real` runs redis-server instead."
                }
                Kind::Real =>
                    "The stores are real servers without persistence: they forget everything when the demo ends.",
            }
        )?;
        self.clients(out)?;
        self.ring(out)?;
        self.admin(out)?;
        writeln!(out, "\nCtrl-C ends all of it.\n")
    }
}

fn shown(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+=:,@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_what_is_shown() {
        assert_eq!(quoted("/tmp/quoit-demo-1/quoit.toml"), "/tmp/quoit-demo-1/quoit.toml");
        assert_eq!(quoted("my folder"), "'my folder'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
