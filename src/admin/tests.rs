//! Over real sockets: what a client of the port sees.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Fake {
    reloads: Arc<AtomicUsize>,
    unready: bool,
}

impl Hooks for Fake {
    fn ready(&self) -> Result<(), String> {
        if self.unready { Err("draining".to_owned()) } else { Ok(()) }
    }

    fn ring_json(&self) -> Value {
        json!({ "pools": [] })
    }

    fn config_json(&self) -> Value {
        json!({ "pool": "main" })
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = ReloadResult> + Send>> {
        let reload = self.reloads.fetch_add(1, SeqCst);
        Box::pin(async move { if reload == 0 { Ok("reloaded".to_owned()) } else { Err("2 faults".to_owned()) } })
    }
}

struct Port {
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

#[expect(clippy::disallowed_methods, reason = "the test owns the handle")]
async fn start(hooks: Fake, bind: &str, set: impl FnOnce(AdminState) -> AdminState) -> Port {
    let listener = TcpListener::bind((bind, 0)).await.unwrap();
    let address = (std::net::Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port()).into();
    let shutdown = CancellationToken::new();
    let state = Arc::new(set(AdminState::new(Metrics::new(), Box::new(hooks))));
    let served = tokio::spawn(serve(listener, state, shutdown.clone()));
    Port { address, shutdown, served }
}

impl Port {
    /// Sends a request's head (and body), returns the whole answer.
    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = request.replace('\n', "\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn say(&self, first_line: &str) -> String {
        self.ask(&format!("{first_line} HTTP/1.1\nHost: localhost\nConnection: close\n\n")).await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(DEADLINE, self.served).await.unwrap().unwrap();
    }
}

#[track_caller]
fn check(answer: &str, status: u16, holds: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains(holds), "{answer}");
}

#[tokio::test]
async fn every_path_answers() {
    let port = start(Fake::default(), "127.0.0.1", |state| state).await;
    check(&port.say("GET /").await, 200, "POST /reload");
    check(&port.say("GET /metrics").await, 200, "content-type: text/plain; version=0.0.4\r\n");
    check(&port.say("GET /metrics").await, 200, "\nquoit_build_info{version=\"");
    check(&port.say("GET /healthz?verbose").await, 200, "\r\n\r\nok\n");
    check(&port.say("GET /readyz").await, 200, "ready");
    check(&port.say("GET /ring").await, 200, "\"pools\": []");
    check(&port.say("GET /config").await, 200, "content-type: application/json\r\n");
    check(&port.say("GET /nowhere").await, 404, "cache-control: no-store\r\n");
    check(&port.say("POST /nowhere").await, 404, "");
    check(&port.say("DELETE /metrics").await, 405, "allow: GET, HEAD\r\n");
    check(&port.say("OPTIONS /reload").await, 405, "allow: POST\r\n");
    let head = port.say("HEAD /healthz").await;
    check(&head, 200, "content-length: 3\r\n");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    port.stop().await;
}

#[tokio::test]
async fn only_a_post_reloads() {
    let hooks = Fake::default();
    let reloads = Arc::clone(&hooks.reloads);
    let port = start(hooks, "127.0.0.1", |state| state).await;
    for method in ["GET", "HEAD", "PUT"] {
        check(&port.say(&format!("{method} /reload")).await, 405, "allow: POST\r\n");
    }
    let foreign = "POST /reload HTTP/1.1\nHost: localhost\nOrigin: http://evil.example\nConnection: close\n\n";
    check(&port.ask(foreign).await, 403, "another site");
    let rebound = "GET /config HTTP/1.1\nHost: evil.example\nConnection: close\n\n";
    check(&port.ask(rebound).await, 421, "addressed by");
    let long = format!(
        "POST /reload HTTP/1.1\nHost: localhost\nConnection: close\nContent-Length: 5000\n\n{}",
        "x".repeat(5000)
    );
    check(&port.ask(&long).await, 413, "");
    assert_eq!(reloads.load(SeqCst), 0);
    check(&port.say("POST /reload").await, 200, "reloaded\n");
    check(&port.say("POST /reload").await, 422, "2 faults\n");
    port.stop().await;
}

#[tokio::test]
async fn beyond_loopback_a_change_needs_the_token() {
    let hooks = Fake { unready: true, ..Fake::default() };
    let port = start(hooks, "0.0.0.0", |state| state.with_token("s3cret".to_owned())).await;
    check(&port.say("POST /reload").await, 401, "www-authenticate: Bearer\r\n");
    let shown = "POST /reload HTTP/1.1\nHost: quoit.svc\nAuthorization: Bearer s3cret\nConnection: close\n\n";
    check(&port.ask(shown).await, 200, "reloaded\n");
    check(&port.say("GET /readyz").await, 503, "not ready: draining\n");
    port.stop().await;

    let port = start(Fake::default(), "0.0.0.0", |state| state.with_host_names(vec!["quoit.svc".to_owned()])).await;
    check(&port.ask("POST /reload HTTP/1.1\nHost: quoit.svc\nConnection: close\n\n").await, 403, "none is configured");
    port.stop().await;
}

#[tokio::test]
async fn garbage_gets_an_answer_and_an_end() {
    let port = start(Fake::default(), "127.0.0.1", |state| state).await;
    check(&port.ask("nonsense\n\n").await, 400, "");
    let long = format!("GET / HTTP/1.1\nHost: localhost\nX: {}\n\n", "x".repeat(HEAD_BYTES_MAX));
    check(&port.ask(&long).await, 431, "");
    port.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_idle_ones_do_not_hold_up_the_end() {
    let port = start(Fake::default(), "127.0.0.1", |state| state).await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        timeout(DEADLINE, stream.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        idle.push(stream);
    }
    let mut excess = TcpStream::connect(port.address).await.unwrap();
    let mut nothing = Vec::new();
    timeout(DEADLINE, excess.read_to_end(&mut nothing)).await.unwrap().unwrap();
    assert!(nothing.is_empty());
    idle.pop();
    // The place is free as soon as the server has seen the end of that connection: until then it closes the new one too.
    let retry = async {
        loop {
            let mut stream = TcpStream::connect(port.address).await.unwrap();
            let asked = stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await;
            let mut answer = Vec::new();
            if asked.is_ok() && stream.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.0 200") {
                break;
            }
        }
    };
    timeout(DEADLINE, retry).await.unwrap();
    port.stop().await;
}
