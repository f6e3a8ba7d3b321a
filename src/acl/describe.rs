//! How users are shown: the rules that would make them again, for `ACL LIST` and `ACL GETUSER`.
//!
//! What was said of commands is kept in its order (Redis 7.2 and later). Redis 7.0 computes other rules that come to the
//! same from its own table, in an order that differs between processes.

use super::selector::Use;
use super::{Password, Sanitize, Selector, User};

impl Selector {
    /// The rules about commands: `-@all +@read`.
    pub fn commands_text(&self) -> String {
        let mut text = String::from(if self.began_with_all { "+@all" } else { "-@all" });
        for said in &self.said {
            text.extend([if said.grants { " +" } else { " -" }, &said.what]);
        }
        text
    }

    /// The rules about keys, bytes as they are: `~app:* %R~shared:*`.
    pub fn keys_text(&self) -> Vec<u8> {
        if self.all_keys {
            return b"~*".to_vec();
        }
        let rules = self.keys.iter().map(|known| {
            let sign: &[u8] = match known.may {
                Use { reads: true, writes: false } => b"%R~",
                Use { reads: false, writes: true } => b"%W~",
                _ => b"~",
            };
            [sign, &known.pattern].concat()
        });
        rules.collect::<Vec<_>>().join(b" ".as_slice())
    }

    /// The rules about channels: `&news:*`.
    pub fn channels_text(&self) -> Vec<u8> {
        if self.all_channels {
            return b"&*".to_vec();
        }
        let rules = self.channels.iter().map(|pattern| [b"&".as_slice(), pattern].concat());
        rules.collect::<Vec<_>>().join(b" ".as_slice())
    }

    /// All of it: `~app:* resetchannels -@all +@read`.
    fn text(&self) -> Vec<u8> {
        let mut parts = Vec::new();
        if self.all_keys || !self.keys.is_empty() {
            parts.push(self.keys_text());
        }
        if !self.all_channels {
            parts.push(b"resetchannels".to_vec());
        }
        if self.all_channels || !self.channels.is_empty() {
            parts.push(self.channels_text());
        }
        parts.push(self.commands_text().into_bytes());
        parts.join(b" ".as_slice())
    }
}

impl User {
    /// `on`, `nopass` and their like.
    pub fn flags(&self) -> impl Iterator<Item = &'static str> {
        let sanitize = self.sanitize.map(|sanitize| match sanitize {
            Sanitize::Always => "sanitize-payload",
            Sanitize::Never => "skip-sanitize-payload",
        });
        [Some(if self.is_on { "on" } else { "off" }), self.no_password.then_some("nopass"), sanitize]
            .into_iter()
            .flatten()
    }

    /// The hashes of its passwords.
    pub fn hashes(&self) -> impl Iterator<Item = String> {
        self.passwords.iter().map(Password::to_hex)
    }

    /// The rights it has by itself.
    pub fn root(&self) -> &Selector {
        &self.root
    }

    /// The rights it has besides.
    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    /// A line of `ACL LIST`, which is one of an ACL file, too.
    pub fn line(&self) -> Vec<u8> {
        let mut parts = vec![b"user".to_vec(), self.name.as_bytes().to_vec()];
        parts.extend(self.flags().map(|flag| flag.as_bytes().to_vec()));
        parts.extend(self.hashes().map(|hash| format!("#{hash}").into_bytes()));
        parts.push(self.root.text());
        parts.extend(self.selectors.iter().map(|selector| [b"(".as_slice(), &selector.text(), b")"].concat()));
        parts.join(b" ".as_slice())
    }
}
