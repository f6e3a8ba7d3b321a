//! redis-rs with its defaults, and its client for Redis Cluster: in this process, otherwise as the other programs.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, Commands as _, Script};

use crate::support::{Fleet, PATIENCE, eventually};

/// The row of the table.
pub(super) fn written() -> String {
    let lock = std::fs::read_to_string(super::root().join("Cargo.lock")).expect("the lock file");
    let (_, rest) = lock.split_once("name = \"redis\"\nversion = \"").expect("redis-rs is there");
    let (version, _) = rest.split_once('"').expect("a version");
    format!("| redis-rs, plain and cluster | {version} |  | yes | yes | yes |\n")
}

async fn work<C: ConnectionLike + Clone + Send + Sync + 'static>(client: C, mark: &str) {
    let mut client = client;
    let tag = format!("{{rs:{mark}}}");
    let mut many = redis::pipe();
    for number in 0..100 {
        many.set(format!("{tag}:{number}"), number).ignore().get(format!("{tag}:{number}"));
    }
    let replies: Vec<u32> = many.query_async(&mut client).await.expect("a pipeline");
    assert_eq!(replies, (0..100).collect::<Vec<_>>());

    let mut both = redis::pipe();
    both.atomic().incr(format!("{tag}count"), 1).rpush(format!("{tag}list"), &["a", "b"]);
    let replies: (u32, u32) = both.query_async(&mut client).await.expect("a transaction");
    assert_eq!(replies, (1, 2));

    let stream = format!("{tag}stream");
    assert_eq!(client.xgroup_create_mkstream::<_, _, _, String>(&stream, "group", "$").await.expect("a group"), "OK");
    for number in 0..20 {
        assert!(
            !client.xadd::<_, _, _, _, String>(&stream, "*", &[("number", number)]).await.expect("an id").is_empty()
        );
    }
    let options = StreamReadOptions::default().group("group", "one").count(50).block(100);
    let found: StreamReadReply = client.xread_options(&[&stream], &[">"], &options).await.expect("entries");
    let ids: Vec<_> = found.keys[0].ids.iter().map(|entry| entry.id.clone()).collect();
    assert_eq!(ids.len(), 20);
    assert_eq!(client.xack::<_, _, _, usize>(&stream, "group", &ids).await.expect("XACK"), 20);

    let queue = format!("{tag}queue");
    let (mut waiting, feeding) = (client.clone(), queue.clone());
    let popped = tokio::spawn(async move { waiting.blpop::<_, (String, String)>(feeding, 0.4).await });
    let _: usize = client.rpush(&queue, "job").await.expect("RPUSH");
    assert_eq!(popped.await.expect("it ends").expect("an element"), (queue, "job".to_owned()));

    let put = Script::new("return redis.call('APPEND', KEYS[1], ARGV[1])");
    for length in 1..4 {
        let answer: usize = put.key(format!("{tag}text")).arg("x").invoke_async(&mut client).await.expect("a script");
        assert_eq!(answer, length);
    }
}

/// What is published is heard.
fn messages(client: &redis::Client) {
    let mut listening = client.get_connection().expect("a connection");
    let mut listener = listening.as_pubsub();
    listener.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    listener.subscribe("rs:news").expect("SUBSCRIBE");
    listener.psubscribe("rs:n*").expect("PSUBSCRIBE");
    let mut talking = client.get_connection().expect("a connection");
    let mut heard = BTreeSet::new();
    eventually("messages come", PATIENCE, || {
        let _: usize = talking.publish("rs:news", "text").expect("PUBLISH");
        while let Ok(message) = listener.get_message() {
            assert_eq!(message.get_payload::<String>().expect("text"), "text");
            heard.insert(message.from_pattern());
        }
        heard.len() == 2
    });
}

fn check(copies: usize, is_cluster: bool) {
    let lines = if is_cluster { "cluster_emulation = true" } else { "" };
    let Some(mut fleet) = Fleet::start_with(3, |config| config.replicas(copies).listener(lines)) else { return };
    let mut asking = fleet.client();
    eventually("the pool begins", PATIENCE, || !asking.line("GET begun").is_error());
    let url = format!("redis://{}", fleet.address());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for half in ["first", "second"] {
        if is_cluster {
            let client = redis::cluster::ClusterClient::new(vec![url.as_str()]).expect("a URL");
            runtime.block_on(async {
                work(client.get_async_connection().await.expect("it connects"), half).await;
            });
        } else {
            let client = redis::Client::open(url.as_str()).expect("a URL");
            runtime.block_on(async {
                work(client.get_multiplexed_async_connection().await.expect("it connects"), half).await;
            });
            messages(&client);
        }
        if copies > 1 && half == "first" {
            fleet.stores[0].kill9();
        }
    }
}

#[test]
fn redis_rs() {
    for copies in [1, 3] {
        for is_cluster in [false, true] {
            check(copies, is_cluster);
        }
    }
}
