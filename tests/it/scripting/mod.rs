//! Scripts and functions: each verb against a real server, on the right node, on every node, and on nodes that have lost
//! what they had.

mod differential;
mod functions;
mod healing;
mod replicated;
mod sharded;
mod transactions;
mod writing;

use crate::support::{Client, Value};

/// What the scripts of these tests do: appends an argument to a key, and says what is there now.
const APPEND: &str = "return redis.call('APPEND', KEYS[1], ARGV[1])";
/// What servers call it.
const APPEND_DIGEST: &str = "68014bf0cbd405594c3f62158602855af28788cb";
/// A library with one function that writes and one that does not.
const LIBRARY: &str = "#!lua name=shelf\n\
    redis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)\n\
    redis.register_function{function_name='look', flags={'no-writes'}, \
    callback=function(keys, args) return redis.call('GET', keys[1]) end}";

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

/// Loads a script everywhere; its digest.
#[track_caller]
fn load(client: &mut Client, script: &str) -> String {
    let digest = client.command(&["SCRIPT", "LOAD", script]);
    assert!(!digest.is_error(), "SCRIPT LOAD: {digest:?}");
    digest.text()
}
