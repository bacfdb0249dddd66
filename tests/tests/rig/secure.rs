//! A host under TLS: it offers what it is told to, and notes what it is asked and logged in with.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use relay_core::channel::{Channel, ServerTls};
use relay_core::sasl;
use smtp_proto::server::{Auth, Config, Connection, Event, Progress, Rejection};
use smtp_proto::{Extension, Mechanism};

/// What it says and does.
pub struct Manner {
    pub requiretls: bool,
    /// The token that it takes; none for no AUTH.
    pub token: Option<&'static str>,
    pub mechanisms: &'static [Mechanism],
}

/// It runs until the test ends.
pub struct SecureHost {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    /// Who vouches for it, in PEM.
    pub authority: String,
}

impl SecureHost {
    pub fn start(manner: Manner) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let secret = key.serialize_der().try_into().unwrap();
        let tls = ServerTls::new(vec![leaf.der().clone()], secret).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = Self {
            address: listener.local_addr().unwrap(),
            heard: Arc::default(),
            authority: issuer.pem(),
        };
        let (heard, manner) = (Arc::clone(&host.heard), Arc::new(manner));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (tls, heard) = (Arc::clone(&tls), Arc::clone(&heard));
                let manner = Arc::clone(&manner);
                std::thread::spawn(move || serve(stream, &tls, &manner, &heard));
            }
        });
        host
    }

    /// Writes who vouches for it.
    pub fn authority_in(&self, dir: &Path) -> std::path::PathBuf {
        let path = dir.join("authority.pem");
        std::fs::write(&path, &self.authority).unwrap();
        path
    }

    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, tls: &ServerTls, manner: &Manner, heard: &Mutex<Vec<String>>) {
    let mut config = Config::new("mx.example.net".parse().unwrap()).with(Extension::StartTls);
    if !manner.requiretls {
        config.extensions = config.extensions.without(Extension::RequireTls);
    }
    if manner.token.is_some() {
        config = config.with_auth(manner.mechanisms);
    }
    let mut replies = Vec::new();
    let mut smtp = Connection::new(&Arc::new(config), &mut replies);
    let (mut channel, mut buffer) = (Channel::plain(), vec![0; 64 * 1024]);
    let mut login: Option<sasl::Server> = None;
    loop {
        let mut wire = Vec::new();
        if channel.handshaking() {
            channel.flush(&mut wire);
        } else {
            channel.send(&std::mem::take(&mut replies), &mut wire);
        }
        if stream.write_all(&wire).is_err() || smtp.is_closed() {
            return;
        }
        let len = stream.read(&mut buffer).unwrap_or(0);
        let mut scratch = Vec::new();
        let before = channel.handshaking();
        let Ok(text) = channel.receive(&buffer[..len], &mut scratch) else {
            return;
        };
        if len == 0 {
            return;
        }
        if before && !channel.handshaking() {
            smtp.tls_started();
        }
        let mut input = text;
        while let Ok(Progress::Event { used, event }) = smtp.receive(input, &mut replies) {
            input = &input[used..];
            let note = |line: String| heard.lock().unwrap().push(line);
            match event {
                Event::StartTls => {
                    smtp.accept("", &mut replies).unwrap();
                    let mut wire = Vec::new();
                    channel.send(&std::mem::take(&mut replies), &mut wire);
                    stream.write_all(&wire).unwrap();
                    channel.start_server(tls).unwrap();
                    break;
                }
                Event::Auth(Auth::Cancelled) | Event::Body(_) | Event::Reset => continue,
                Event::BodyRefused(_) | Event::Quit => continue,
                Event::Auth(Auth::Start {
                    mechanism,
                    initial_response,
                }) => {
                    let mechanism = sasl::Mechanism::from_name(mechanism.name()).unwrap();
                    let initial = initial_response.as_deref();
                    let (mut server, step) = sasl::Server::start(mechanism, None, initial);
                    let sasl::Step::Token(bearer) = step else {
                        panic!("{step:?}");
                    };
                    note(format!(
                        "{mechanism} {} {}",
                        bearer.name.unwrap(),
                        bearer.token
                    ));
                    if manner.token == Some(&*bearer.token) {
                        smtp.accept("", &mut replies).unwrap();
                    } else if let sasl::Step::Challenge(why) = server.refuse_token() {
                        smtp.challenge(&why, &mut replies).unwrap();
                        login = Some(server);
                    }
                    continue;
                }
                Event::Auth(Auth::Response(response)) => {
                    let step = login.take().unwrap().step(&response);
                    assert!(matches!(step, sasl::Step::Failed(_)), "{step:?}");
                    smtp.reject(Rejection::WRONG_CREDENTIALS, "expired", &mut replies)
                        .unwrap();
                    continue;
                }
                Event::Mail(mail) => note(format!("MAIL {}{}", mail.from, mail.params)),
                Event::BodyEnd => note("message".into()),
                Event::Hello(_) | Event::XClient(_) | Event::Rcpt(_) | Event::Data { .. } => {}
            }
            smtp.accept("", &mut replies).unwrap();
        }
    }
}
