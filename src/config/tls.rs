//! Certificates and keys: read from their files and made into what rustls takes. A part of [`super::check`].
//!
//! They are read whenever the configuration is, and [`super::watch`] looks at their files too; so a certificate is renewed by a
//! reload like any other, and one that cannot be used leaves the old one in force.
//!
//! # Invariants
//! - What comes out can be used: the key belongs to the certificate, the issuers are certificates.
//! - No fault shows anything of a file with a key.

use std::fmt::Display;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::address::Address;
use super::check::Check;
use super::expiry;
use super::faults::Fault;
use super::file::{At, ClientAuth, ListenerTlsTable, PoolTable, PoolTlsTable};
use super::secret::Secrets;

/// The most that a file of certificates may have: all issuers that a system trusts take a quarter of a mebibyte.
const BYTES_MAX: u64 = 4 << 20;

/// ring, and not aws-lc, which takes a minute of C to build.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

/// How a listener's connections are enciphered.
#[derive(Clone, Debug)]
pub struct ListenerTls {
    /// What a handshake is made with.
    pub config: Arc<ServerConfig>,
    /// How long one may take.
    pub handshake_timeout: Duration,
    /// When the first of its certificates expires, in seconds since 1970.
    pub expires: Option<u64>,
}

/// How connections to a pool's stores are enciphered.
#[derive(Clone, Debug)]
pub struct StoreTls {
    /// What a handshake is made with.
    pub config: Arc<ClientConfig>,
    /// The name that the stores' certificates are for, unless it is the host of each.
    pub server_name: Option<ServerName<'static>>,
    /// When the first of the certificates that quoit shows expires, in seconds since 1970.
    pub expires: Option<u64>,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Check<'_> {
    pub(super) fn listener_tls(&mut self, table: &At<ListenerTlsTable>, bind: &At<String>) -> Option<ListenerTls> {
        let table = &table.value;
        let (cert_file, key_file) = (table.cert_file.as_ref()?, table.key_file.as_ref()?);
        if bind.value.starts_with("unix:") {
            self.push(
                Fault::new(&bind.span, "there is no TLS on a Unix socket")
                    .related(&cert_file.span, "the certificate")
                    .help("leave `tls` out: `socket_mode` says who may connect"),
            );
        }
        let auth = self.client_auth(table)?;
        let identity = self.identity(cert_file, key_file);
        let issuers = table.client_ca_file.as_ref().map(|file| self.issuers(file));
        let (chain, key) = identity?;
        let expires = first_end(&chain);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER)).with_safe_default_protocol_versions();
        let builder = self.made(builder, &cert_file.span, "TLS cannot be set up")?;
        let builder = match issuers {
            None => builder.with_no_client_auth(),
            Some(issuers) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(issuers?, Arc::clone(&PROVIDER));
                let verifier = if auth == ClientAuth::Optional { verifier.allow_unauthenticated() } else { verifier };
                let span = table.client_ca_file.as_ref().map(|file| file.span.clone()).unwrap_or_default();
                builder.with_client_cert_verifier(self.made(verifier.build(), &span, "the issuers cannot be used")?)
            }
        };
        let config = self.usable(builder.with_single_cert(chain, key), cert_file, key_file)?;
        let handshake_timeout = Duration::from_millis(table.handshake_timeout_ms);
        Some(ListenerTls { config: Arc::new(config), handshake_timeout, expires })
    }

    /// What clients have to show; nothing where that makes no sense.
    fn client_auth(&mut self, table: &ListenerTlsTable) -> Option<ClientAuth> {
        match (&table.client_ca_file, &table.client_auth) {
            (None, None) => Some(ClientAuth::None),
            (Some(_), None) => Some(ClientAuth::Required),
            (None, Some(auth)) if auth.value != ClientAuth::None => {
                self.push(
                    Fault::new(&auth.span, "there is nothing to check the certificates of clients with")
                        .help("add `client_ca_file`, the certificates of who issues them"),
                );
                None
            }
            (Some(file), Some(auth)) if auth.value == ClientAuth::None => {
                self.push(
                    Fault::new(
                        &file.span,
                        "`client_ca_file` does nothing while clients are not asked for certificates",
                    )
                    .related(&auth.span, "not asked")
                    .help("take it out, or `client_auth`"),
                );
                None
            }
            (_, Some(auth)) => Some(auth.value),
        }
    }

    pub(super) fn store_tls(&mut self, table: &At<PoolTlsTable>) -> Option<StoreTls> {
        let (span, table) = (&table.span, &table.value);
        let server_name = table.server_name.as_ref().map(|name| self.server_name(name));
        let identity = match (&table.cert_file, &table.key_file) {
            (None, None) => None,
            (Some(cert_file), Some(key_file)) => Some((self.identity(cert_file, key_file), cert_file, key_file)),
            (Some(file), None) | (None, Some(file)) => {
                self.push(
                    Fault::new(&file.span, "a certificate and its key belong together")
                        .help("`cert_file` and `key_file`: both, or neither"),
                );
                return None;
            }
        };
        let issuers = match &table.ca_file {
            Some(file) => self.issuers(file),
            None => self.system_issuers(span),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER)).with_safe_default_protocol_versions();
        let builder = self.made(builder, span, "TLS cannot be set up")?.with_root_certificates(issuers?);
        let (config, expires) = match identity {
            None => (builder.with_no_client_auth(), None),
            Some((identity, cert_file, key_file)) => {
                let (chain, key) = identity?;
                let expires = first_end(&chain);
                (self.usable(builder.with_client_auth_cert(chain, key), cert_file, key_file)?, expires)
            }
        };
        let server_name = match server_name {
            None => None,
            Some(name) => Some(name?),
        };
        Some(StoreTls { config: Arc::new(config), server_name, expires })
    }

    /// A store of a pool with TLS must be one that TLS can reach.
    pub(super) fn store_tls_reaches(&mut self, pool: &PoolTable, written: &At<String>, address: &Address) {
        let Some(tls) = &pool.tls else { return };
        let fault = match address {
            Address::Unix(_) => Fault::new(&written.span, "there is no TLS on a Unix socket")
                .help("put this store into a pool without `tls`"),
            Address::Tcp { host, .. }
                if tls.value.server_name.is_none() && ServerName::try_from(host.as_str()).is_err() =>
            {
                Fault::new(&written.span, "no certificate can be for this host")
                    .help("say in `server_name` of `[pool.tls]` which name the certificates are for")
            }
            Address::Tcp { .. } => return,
        };
        self.push(fault);
    }

    fn server_name(&mut self, name: &At<String>) -> Option<ServerName<'static>> {
        let parsed = ServerName::try_from(name.value.clone()).ok();
        if parsed.is_none() {
            self.push(
                Fault::new(&name.span, "`server_name` is no name that a certificate can have")
                    .help("a host name or an IP address, without port and brackets"),
            );
        }
        parsed
    }

    /// A certificate with those behind it, and its key.
    fn identity(&mut self, cert_file: &At<String>, key_file: &At<String>) -> Option<Identity> {
        let chain = self.certificates(cert_file);
        let key = self.pem(key_file, |text| {
            PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
                pem::Error::NoItemsFound => "no private key, or one with a passphrase".to_owned(),
                error => said(&error),
            })
        });
        Some((chain?, key?))
    }

    fn certificates(&mut self, file: &At<String>) -> Option<Vec<CertificateDer<'static>>> {
        self.pem(file, |text| {
            let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
            let found = found.map_err(|error| said(&error))?;
            match found.iter().find(|certificate| expiry::not_after(certificate).is_none()) {
                _ if found.is_empty() => Err("no certificate".to_owned()),
                Some(_) => Err("something that calls itself a certificate and is none".to_owned()),
                None => Ok(found),
            }
        })
    }

    /// Those whom to believe who somebody is.
    fn issuers(&mut self, file: &At<String>) -> Option<Arc<RootCertStore>> {
        let mut issuers = RootCertStore::empty();
        for certificate in self.certificates(file)? {
            let added = issuers.add(certificate);
            self.made(added, &file.span, "the issuers cannot be used")?;
        }
        Some(Arc::new(issuers))
    }

    fn system_issuers(&mut self, span: &Range<usize>) -> Option<Arc<RootCertStore>> {
        if matches!(self.secrets, Secrets::Unread) {
            return None;
        }
        let found = rustls_native_certs::load_native_certs();
        let mut issuers = RootCertStore::empty();
        // Systems have some that are too old to be understood.
        let (usable, _) = issuers.add_parsable_certificates(found.certs);
        if usable == 0 {
            self.push(
                Fault::new(span, "this system trusts no issuers of certificates")
                    .help("add `ca_file` to `[pool.tls]`, or install the system's `ca-certificates`"),
            );
            return None;
        }
        Some(Arc::new(issuers))
    }

    /// What `take` makes of a file; its error says what was found instead.
    fn pem<T>(&mut self, file: &At<String>, take: impl FnOnce(&[u8]) -> Result<T, String>) -> Option<T> {
        let Secrets::Read(directory) = self.secrets else { return None };
        let path = directory.join(&file.value);
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes));
        let fault = match read {
            Err(error) => format!("cannot read {}: {error}", path.display()),
            Ok(length) if BYTES_MAX < length as u64 => format!("{} is too long", path.display()),
            Ok(_) => match take(&bytes) {
                Ok(taken) => return Some(taken),
                Err(found) => format!("{} holds {found}", path.display()),
            },
        };
        self.push(
            Fault::new(&file.span, "a file for TLS cannot be used").label(fault).help("PEM is needed: `-----BEGIN …`"),
        );
        None
    }

    fn usable<T>(
        &mut self,
        made: Result<T, rustls::Error>,
        cert_file: &At<String>,
        key_file: &At<String>,
    ) -> Option<T> {
        if let Err(rustls::Error::InconsistentKeys(_)) = made {
            self.push(
                Fault::new(&key_file.span, "the key does not belong to the certificate")
                    .related(&cert_file.span, "the certificate"),
            );
            return None;
        }
        self.made(made, &cert_file.span, "the certificate or its key cannot be used")
    }

    fn made<T, E: Display>(&mut self, made: Result<T, E>, span: &Range<usize>, title: &str) -> Option<T> {
        made.map_err(|error| self.push(Fault::new(span, title).label(error.to_string()))).ok()
    }
}

/// What is wrong with PEM, without showing any of it.
fn said(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "PEM that is cut off".to_owned(),
        pem::Error::Base64Decode(_) => "PEM that is damaged".to_owned(),
        _ => "PEM that cannot be read".to_owned(),
    }
}

/// When the first of these expires.
fn first_end(chain: &[CertificateDer<'_>]) -> Option<u64> {
    chain.iter().filter_map(|certificate| expiry::not_after(certificate)).min()
}
