//! TLS in front of a server that has none.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use crate::background::Background;

/// An address with a self-signed certificate, behind which another server answers. It has a thread of its own, and ends
/// when it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    background: Background,
    certificate: String,
}

impl TlsFront {
    /// Starts one on the loopback address. `to` is the server without TLS, as `host:port`.
    ///
    /// # Panics
    /// When there can be no certificate, or no port is free.
    pub fn start(to: &str) -> Self {
        let (acceptor, certificate) = acceptor(Ipv4Addr::LOCALHOST.into());
        let to = to.to_owned();
        let background = Background::start(Ipv4Addr::LOCALHOST.into(), async move |listener| {
            accept(&listener, &acceptor, &to).await;
        });
        Self { background, certificate }
    }

    /// Its address, as `host:port`.
    pub fn address(&self) -> String {
        self.background.address().to_string()
    }

    /// Its certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }
}

/// TLS for a server at this address, with its certificate as PEM.
///
/// # Panics
/// When there can be no certificate.
pub(crate) fn acceptor(address: IpAddr) -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed([address.to_string()]).expect("a certificate");
    let certificate = made.cert.pem();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).expect("a private key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions of the protocol")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate with its key");
    (TlsAcceptor::from(Arc::new(config)), certificate)
}

async fn accept(listener: &TcpListener, acceptor: &TlsAcceptor, to: &str) {
    loop {
        let Ok((connection, _)) = listener.accept().await else { continue };
        let (acceptor, to) = (acceptor.clone(), to.to_owned());
        tokio::spawn(async move {
            let Ok(mut connection) = acceptor.accept(connection).await else { return };
            let Ok(mut server) = TcpStream::connect(to).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut connection, &mut server).await;
        });
    }
}
