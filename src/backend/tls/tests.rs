use std::future::poll_fn;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpListener;

use super::*;
use crate::backend::Stream;

/// Two ends of one connection: whoever accepted, and whoever connected. Neither socket takes much at a time.
async fn pair() -> (Stream, Stream) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let server = server.unwrap().with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = Arc::new(client.unwrap().with_root_certificates(roots).with_no_client_auth());
    let client = ClientTls::new(&StoreTls { config: client, server_name: None, expires: None });

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connects = async {
        let socket = TcpStream::connect(address).await.unwrap();
        narrow(&socket);
        let address = Address::Tcp { host: "127.0.0.1".to_owned(), port: address.port() };
        Tls::connect(socket, &client, &address).await.unwrap()
    };
    let turn = Semaphore::new(1);
    let accepts = async {
        let socket = listener.accept().await.unwrap().0;
        narrow(&socket);
        Tls::accept(socket, Arc::new(server), &turn, b"").await.unwrap()
    };
    let (accepted, connected) = tokio::join!(accepts, connects);
    (Stream::Tls(Box::new(accepted)), Stream::Tls(Box::new(connected)))
}

fn narrow(socket: &TcpStream) {
    socket2::SockRef::from(socket).set_send_buffer_size(4 * 1024).unwrap();
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at.wrapping_mul(2_654_435_761) >> 9).to_le_bytes()[0]).collect()
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn bytes_arrive_whatever_the_sizes_of_buffers() {
    async fn check(count: usize, write: usize, read: usize) {
        let (mut from, mut to) = pair().await;
        let want = bytes(count);
        let writes = async {
            for piece in want.chunks(write) {
                from.write_all(piece).await.unwrap();
            }
            drop(from);
        };
        let reads = async {
            let (mut got, mut buf) = (Vec::new(), vec![0; read]);
            loop {
                match to.read(&mut buf).await.unwrap() {
                    0 => break got,
                    count => got.extend_from_slice(&buf[..count]),
                }
            }
        };
        let ((), got) = tokio::join!(writes, reads);
        assert!(got == want, "{count} bytes in pieces of {write}, read by {read}: {} came", got.len());
    }
    run(async {
        for (count, write, read) in [
            (0, 1, 1),
            (1, 1, 1),
            (3_000, 1, 1),
            (40_000, 40_000, 1),
            (300_000, 7, 100_000),
            (300_000, 16_384, 16_383),
            (300_000, 16_385, 128 * 1024),
            (3_000_000, 3_000_000, 128 * 1024),
            (3_000_000, 1_000_000, 5_000),
        ] {
            check(count, write, read).await;
        }
    });
}

/// What a socket does not take as a whole record has not been read by anybody, also when the connection then ends.
#[test]
fn what_is_not_written_is_not_read() {
    run(async {
        for write in [100, 10_000, 1_000_000] {
            let (mut from, mut to) = pair().await;
            let all = bytes(20_000_000);
            let mut written = 0;
            // Nobody reads: at some point the socket takes no more, in the middle of a record.
            let stuck = poll_fn(|context| {
                let end = all.len().min(written + write);
                match from.try_write(&all[written..end]) {
                    Ok(wrote) => written += wrote,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if from.poll_write_ready(context).is_pending() {
                            return Poll::Ready(());
                        }
                    }
                    Err(error) => panic!("{error}"),
                }
                context.waker().wake_by_ref();
                Poll::Pending
            });
            stuck.await;
            assert!(0 < written && written < all.len(), "{written}");
            drop(from);
            let (mut read, mut buf) = (0, vec![0; 64 * 1024]);
            // The end comes in the middle of a record, or as a reset: the socket had no room for a farewell.
            while let Ok(count @ 1..) = to.read(&mut buf).await {
                assert!(buf[..count] == all[read..read + count]);
                read += count;
            }
            assert_eq!(read, written, "in pieces of {write}");
        }
    });
}

#[test]
fn one_who_speaks_plain_text_is_told() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut plain = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions();
        let chain = vec![made.cert.der().clone()];
        let server = Arc::new(server.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap());
        tokio::io::AsyncWriteExt::write_all(&mut plain, b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        let socket = listener.accept().await.unwrap().0;
        let refused = Tls::accept(socket, server, &Semaphore::new(1), b"-no\r\n").await.unwrap_err();
        assert!(matches!(refused, HandshakeError::Plain), "{refused}");
        let mut said = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut said).await.unwrap();
        assert_eq!(said, b"-no\r\n");
    });
}
