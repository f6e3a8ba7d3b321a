//! Certificates of a test's own authority, and clients that speak TLS by a library that is not the proxy's.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::PATIENCE;

/// Who issues certificates, and the directory in which they are.
pub(crate) struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", fastrand::u64(..)));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let ca = directory.path().join("ca.pem");
        fs::write(&ca, certificate.pem()).expect("the file can be written");
        Self { directory, issuer: Issuer::new(params, key), ca }
    }

    /// Its own certificate.
    pub(crate) fn ca(&self) -> &Path {
        &self.ca
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A certificate for these names, in files called `name`.
    pub(crate) fn issue(&self, name: &str, names: &[&str]) -> Identity {
        self.issue_with(name, names, |_| {})
    }

    /// For this machine.
    pub(crate) fn issue_here(&self, name: &str) -> Identity {
        self.issue(name, &["localhost", "127.0.0.1"])
    }

    pub(crate) fn issue_with(
        &self,
        name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let place = |end: &str| self.directory.path().join(format!("{name}.{end}"));
        let identity = Identity { cert: place("pem"), key: place("key") };
        fs::write(&identity.cert, certificate.pem()).expect("the file can be written");
        fs::write(&identity.key, key.serialize_pem()).expect("the file can be written");
        identity
    }

    /// What a client knows that trusts this authority, and shows this certificate if it has one.
    pub(crate) fn client(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        self.client_of(rustls::ALL_VERSIONS, identity)
    }

    pub(crate) fn client_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        identity: Option<&Identity>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca).expect("a certificate")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let builder = builder.with_root_certificates(roots);
        Arc::new(match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { cert, key }) => {
                let chain = CertificateDer::pem_file_iter(cert).expect("a file").collect::<Result<_, _>>();
                let key = PrivateKeyDer::from_pem_file(key).expect("a key");
                builder.with_client_auth_cert(chain.expect("certificates"), key).expect("they belong together")
            }
        })
    }
}

/// A blocking client in TLS, for what the handshake itself does.
pub(crate) struct TlsClient(StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    /// Connects, and shakes hands with the first request.
    pub(crate) fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::from(address.ip());
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Self(StreamOwned::new(connection, socket)))
    }

    /// Sends an inline request; the first line of the reply.
    pub(crate) fn ask(&mut self, request: &str) -> io::Result<String> {
        self.0.write_all(format!("{request}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// The certificate that the server has shown.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        let shown = self.0.conn.peer_certificates().and_then(<[_]>::first);
        shown.expect("the handshake is over").to_vec()
    }
}

/// Connects and asks for a sign of life: `+PONG`, or what went wrong.
pub(crate) fn ping(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<String> {
    TlsClient::connect(address, config)?.ask("PING")
}

/// A way for clients that speak plain text into a port that speaks TLS: all other tools of these tests work over it.
pub(crate) struct Tunnel {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Tunnel {
    pub(crate) fn start(target: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        socket.set_nonblocking(true).expect("a socket");
        let address = socket.local_addr().expect("an address");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let connector = tokio_rustls::TlsConnector::from(config);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(socket).expect("a listener");
                let mut stopped = stopped;
                let mut clients = tokio::task::JoinSet::new();
                loop {
                    tokio::select! {
                        biased;
                        _ = &mut stopped => break,
                        accepted = listener.accept() => {
                            let Ok((client, _)) = accepted else { continue };
                            clients.spawn(relay(client, target, connector.clone()));
                        }
                    }
                }
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn relay(mut client: tokio::net::TcpStream, target: SocketAddr, connector: tokio_rustls::TlsConnector) {
    // A connection that breaks on one side is dropped, which the other side sees.
    let Ok(server) = tokio::net::TcpStream::connect(target).await else { return };
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let Ok(mut server) = connector.connect(ServerName::from(target.ip()), server).await else { return };
    drop(tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, 1 << 16, 1 << 16).await);
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
