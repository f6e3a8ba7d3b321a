//! Client-side caching: who holds a copy of a key is told when it changes, as with one server, whatever becomes of stores,
//! whoever writes, and by whatever proxy.

mod dialogue;
mod faults;
mod libraries;
mod scenes;

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::support::{Client, Value};

/// What a client is told unasked: `invalidate a b`, `invalidate *` for all keys, or the words of another push.
fn told(value: &Value) -> String {
    let Value::Push(items) = value else { panic!("no push: {value:?}") };
    let word = items[0].text();
    match &items[1] {
        Value::Null => format!("{word} *"),
        Value::Array(keys) => {
            let keys: Vec<String> = keys.iter().map(Value::text).collect();
            format!("{word} {}", keys.join(" "))
        }
        other => format!("{word} {other:?}"),
    }
}

/// A client that holds what it has read until it is told to forget it, as libraries do.
struct Cache {
    client: Client,
    held: HashMap<String, String>,
    /// How often it was told anything.
    news: usize,
}

impl Cache {
    #[track_caller]
    fn new(address: SocketAddr, tracking: &str) -> Self {
        let mut client = Client::connect(address);
        assert!(!client.line("HELLO 3").is_error());
        assert_eq!(client.line(&format!("CLIENT TRACKING ON {tracking}")), Value::Simple(b"OK".to_vec()));
        Self { client, held: HashMap::new(), news: 0 }
    }

    /// Takes what the client is told.
    fn hear(&mut self, value: &Value) {
        let told = told(value);
        self.news += 1;
        match told.strip_prefix("invalidate ").unwrap_or_else(|| panic!("{told}")) {
            "*" => self.held.clear(),
            keys => keys.split(' ').for_each(|key| drop(self.held.remove(key))),
        }
    }

    /// The reply to a command; what comes before it is heard. Words that have spaces are told apart by newlines.
    fn ask(&mut self, line: &str) -> Value {
        let words: Vec<&str> = line.split(if line.contains('\n') { '\n' } else { ' ' }).collect();
        self.client.send(&crate::support::encode(&words));
        loop {
            let value = self.client.receive().value;
            match value {
                Value::Push(_) => self.hear(&value),
                reply => return reply,
            }
        }
    }

    /// The value that the client sees: its copy if it has one.
    fn get(&mut self, key: &str) -> String {
        // What it has been told by now.
        self.ask("PING");
        if let Some(held) = self.held.get(key) {
            return held.clone();
        }
        let value = self.ask(&format!("GET {key}"));
        if !value.is_error() {
            self.held.insert(key.to_owned(), value.text());
        }
        value.text()
    }
}
