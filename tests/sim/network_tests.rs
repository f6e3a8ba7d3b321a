//! The network itself, and real stores at its ends.

use crate::network::{Faults, Happening, Memory, Network, Store, Transport};
use crate::store_node::StoreNode;

/// Nothing goes wrong.
fn calm(transport: Transport) -> Faults {
    Faults {
        transport,
        slow: 0,
        lost: 0,
        doubled: 0,
        store_stalls: 0,
        proxy_stalls: 0,
        proxy_crashes: 0,
        restarts: 0,
        wipes: 0,
        ..Faults::models()
    }
}

fn request(words: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    quoit::protocol::resp::write_request(&mut bytes, words.iter().map(|word| word.as_bytes()));
    bytes
}

fn stores(proxies: usize) -> Vec<StoreNode> {
    (0..3).map(|seed| StoreNode::new(seed, proxies, 0)).collect()
}

#[test]
fn a_connection_keeps_its_order() {
    let mut network = Network::new(stores(2), 2, calm(Transport::Connections), 1);
    for tag in 0..100 {
        network.send(0, 1, tag, request(&["INCR", "n"]));
    }
    let mut expected = 0;
    while let Some(happening) = network.step() {
        let Happening::Reply { proxy: 0, tag, reply } = happening else { panic!("{happening:?}") };
        assert_eq!((tag, reply), (expected, format!(":{}\r\n", expected + 1).into_bytes()));
        expected += 1;
    }
    assert_eq!(expected, 100);
}

#[test]
fn sessions_belong_to_connections() {
    let mut network = Network::new(stores(2), 2, calm(Transport::Connections), 1);
    let pipeline = [request(&["MULTI"]), request(&["SET", "k", "v"]), request(&["EXEC"])].concat();
    network.send(0, 0, 1, request(&["MULTI"]));
    network.send(1, 0, 2, pipeline);
    let mut replies = Vec::new();
    while let Some(Happening::Reply { tag, reply, .. }) = network.step() {
        replies.push((tag, reply));
    }
    replies.sort();
    assert_eq!(replies[0].1, b"+OK\r\n");
    assert_eq!(replies[1].1, b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
}

/// Each request is answered or lost, once, whatever happens; what a store that kept its memory answered stays.
#[test]
fn every_request_over_a_connection_has_an_end() {
    for seed in 0..50 {
        let faults = Faults { restarts: 3, proxy_crashes: 0, ..Faults::connections() };
        let mut network = Network::new(stores(3), 3, faults, seed);
        let mut open: Vec<u64> = Vec::new();
        for tag in 0..63 {
            let (proxy, store) =
                (usize::try_from(tag % 3).expect("small"), usize::try_from(tag / 3 % 3).expect("small"));
            network.timer(proxy, tag * 1_000, tag * 10 + store as u64);
        }
        let (mut counted, mut answered, mut lost) = ([0_i64; 3], 0, 0);
        while let Some(happening) = network.step() {
            match happening {
                Happening::Timer { proxy, tag } => {
                    open.push(tag);
                    network.send(proxy, usize::try_from(tag % 10).expect("small"), tag, request(&["INCR", "n"]));
                }
                Happening::Reply { tag, reply, .. } => {
                    open.retain(|other| *other != tag);
                    answered += 1;
                    let number: i64 =
                        String::from_utf8_lossy(&reply).trim_matches([':', '\r', '\n']).parse().expect("a number");
                    let largest = &mut counted[usize::try_from(tag % 10).expect("small")];
                    *largest = number.max(*largest);
                }
                Happening::Lost { tag, .. } => {
                    open.retain(|other| *other != tag);
                    lost += 1;
                }
                Happening::Restarted { store, memory } => assert_eq!((store < 3, memory), (true, Memory::Kept)),
                Happening::Crashed { .. } | Happening::Started { .. } => panic!("no proxy crashes"),
            }
        }
        assert!(open.is_empty(), "seed {seed}: no end of {open:?}");
        assert_eq!(answered + lost, 63, "seed {seed}");
        let now = network.now_us();
        for (store, largest) in counted.into_iter().enumerate() {
            let kept = network.store(store).command(&[b"GET", b"n"], now);
            let kept: i64 =
                String::from_utf8_lossy(&kept).lines().nth(1).map_or(0, |text| text.parse().expect("a number"));
            assert!(largest <= kept, "seed {seed}: store {store} said {largest} and has {kept}");
            assert!(largest <= 21, "seed {seed}: store {store} counted {largest} of 21");
        }
    }
}

#[test]
fn a_seed_is_a_run() {
    let run = |seed| {
        let mut network = Network::new(stores(3), 3, Faults::connections(), seed);
        network.keep_trace();
        for tag in 0..50 {
            network.send(0, usize::try_from(tag % 3).expect("small"), tag, request(&["APPEND", "k", "x"]));
        }
        while network.step().is_some() {}
        network.trace()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_restart_loses_what_it_is_told_to() {
    let mut node = StoreNode::new(1, 1, -5);
    let get = request(&["GET", "k"]);
    assert_eq!(node.command(&[b"SET", b"k", b"v"], 0), b"+OK\r\n");
    node.connected(0);
    node.restarted(Memory::Kept);
    assert_eq!(node.execute(0, &get, 1_000), b"$1\r\nv\r\n");
    node.restarted(Memory::Lost);
    assert_eq!(node.execute(0, &get, 2_000), b"$-1\r\n");
}
