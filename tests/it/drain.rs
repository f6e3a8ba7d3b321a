//! SIGTERM: what was accepted is answered, then the process ends with success.

use std::time::Duration;

use crate::support::{
    Client, Fault, FaultProxy, Fleet, PATIENCE, Quoit, QuoitConfig, RedisServer, Signal, encode, eventually,
};

/// Pipelines under way on many connections, the store slow enough that most replies are still owed when the signal comes.
#[test]
fn everything_accepted_is_answered() {
    if std::env::var_os("QUOIT_TEST_SUBJECT").is_some() {
        return;
    }
    let Some(store) = RedisServer::start() else { return };
    let relay = FaultProxy::start(store.address());
    let mut quoit = Quoit::start(&QuoitConfig::new([("node-amber", relay.address())]));
    let mut clients: Vec<_> = (0..20).map(|_| quoit.client()).collect();
    let requests = |number: usize| -> Vec<u8> {
        (0..50)
            .flat_map(|step| encode(&["ECHO".to_owned(), format!("{number}.{step}")]))
            .chain(encode(&["GET", "k"]))
            .collect()
    };
    let mut idle = quoit.client();
    assert_eq!(idle.line("PING").text(), "PONG");
    assert_eq!(idle.line("SET k v").text(), "OK");
    relay.set(Fault::Delay(Duration::from_millis(300)));
    for (number, client) in clients.iter_mut().enumerate() {
        // One request to the slow store, then local ones that must wait for it: one write, so that it is accepted whole.
        client.send(&[encode(&["GET", "k"]), encode(&["ECHO", "first"])].concat());
        client.send(&requests(number));
    }
    for client in &mut clients {
        // The first answer shows that the batch has been read.
        assert_eq!(client.receive().value.text(), "v");
    }
    quoit.signal(Signal::Terminate);
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.receive().value.text(), "first");
        for step in 0..50 {
            assert_eq!(client.receive().value.text(), format!("{number}.{step}"));
        }
        assert_eq!(client.receive().value.text(), "v");
        assert!(client.try_receive().is_err(), "after its last answer a connection ends");
    }
    assert!(idle.try_receive().is_err(), "an idle connection ends");
    assert!(quoit.wait().success(), "{}", quoit.log());
    assert!(Client::try_connect(quoit.address()).is_err(), "nobody listens any more");
}

/// Clients that go on sending learn of the end between two replies, never in the middle of one, and never get a wrong one.
#[test]
fn a_busy_client_is_cut_between_replies() {
    let Some(mut fleet) = Fleet::start(2) else { return };
    let address = fleet.address();
    let Some(quoit) = fleet.quoit_mut() else { return };
    let clients: Vec<_> = (0..6)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                let mut answered = 0_u64;
                loop {
                    let text = format!("{number}.{answered}");
                    if client.try_send(&[encode(&["SET", &text, &text]), encode(&["GET", &text])].concat()).is_err() {
                        return answered;
                    }
                    let (Ok(set), Ok(get)) = (client.try_receive(), client.try_receive()) else {
                        assert!(client.unread().raw.is_empty(), "cut in the middle of {:?}", client.unread());
                        return answered;
                    };
                    assert_eq!(set.value.text(), "OK");
                    assert_eq!(get.value.text(), text);
                    answered += 1;
                }
            })
        })
        .collect();
    let served = |quoit: &Quoit| quoit.metric_sum("quoit_requests_total");
    eventually("some requests were served", PATIENCE, || served(quoit) > 2_000.0);
    assert!(quoit.terminate().success(), "{}", quoit.log());
    for client in clients {
        assert!(client.join().expect("no wrong reply") > 0);
    }
}
