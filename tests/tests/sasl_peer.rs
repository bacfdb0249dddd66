//! Our SASL machines against those of another project, both ways.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Cursor;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use relay_core::rng::Rng;
use relay_core::sasl::{Client, Decoy, Mechanism, Proof, Server, Step, Verifier};
use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::mechanisms::login::LOGIN;
use rsasl::mechanisms::plain::PLAIN;
use rsasl::mechanisms::scram::properties::ScramStoredPassword;
use rsasl::mechanisms::scram::{SCRAM_SHA256, SCRAM_SHA256_PLUS};
use rsasl::mechname::Mechname;
use rsasl::prelude::{
    ChannelBindingCallback, Mechanism as TheirMechanism, Registry, SASLClient, SASLConfig,
    SASLServer, Session, SessionError, State,
};
use rsasl::property::{AuthId, Password};

use rsasl::validate::{Validate, Validation, ValidationError};

const BINDING: [u8; 32] = [42; 32];

const NAMES: [(&str, &str); 2] = [("app", "open sesame"), ("jörg", "geheim=,ß")];

/// What the other project asks: a name, a password, a channel, and whether they were right.
struct Answers {
    name: String,
    password: String,
    verifier: Verifier,
    plus: bool,
}

impl SessionCallback for Answers {
    fn enable_channel_binding(&self) -> bool {
        self.plus
    }

    fn callback(
        &self,
        _: &SessionData,
        context: &Context<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), SessionError> {
        request.satisfy::<AuthId>(&self.name)?;
        request.satisfy::<Password>(self.password.as_bytes())?;
        if context.get_ref::<AuthId>() == Some(&*self.name) {
            let (salt, stored_key, server_key) = keys(&self.verifier);
            let iterations = self.verifier.iterations();
            let stored = ScramStoredPassword::new(iterations, &salt, &stored_key, &server_key);
            request.satisfy::<ScramStoredPassword<'_>>(&stored)?;
        }
        Ok(())
    }

    fn validate(
        &self,
        session: &SessionData,
        context: &Context<'_>,
        validate: &mut Validate<'_>,
    ) -> Result<(), ValidationError> {
        let scram = session.mechanism().mechanism.starts_with("SCRAM-");
        let name = context.get_ref::<AuthId>() == Some(&*self.name);
        let password = context.get_ref::<Password>() == Some(self.password.as_bytes());
        validate.with::<Right, _>(|| Ok(name && (scram || password)))?;
        Ok(())
    }
}

/// A TLS connection, by what RFC 9266 has both ends know of it.
struct Channel([u8; 32]);

impl ChannelBindingCallback for Channel {
    fn get_cb_data(&self, name: &str) -> Option<&[u8]> {
        (name == "tls-exporter").then_some(&self.0)
    }
}

struct Right;

impl Validation for Right {
    type Value = bool;
}

/// `SCRAM-SHA-256$iterations:salt$stored-key:server-key`. RFC 5803 §1.
fn keys(verifier: &Verifier) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let text = verifier.to_string();
    let parts: Vec<Vec<u8>> = text
        .split(['$', ':'])
        .skip(2)
        .map(|part| BASE64.decode(part).unwrap())
        .collect();
    let [salt, stored_key, server_key] = parts.try_into().unwrap();
    (salt, stored_key, server_key)
}

fn config(mechanism: Mechanism, name: &str, password: &str) -> Arc<SASLConfig> {
    let answers = Answers {
        name: name.to_owned(),
        password: password.to_owned(),
        verifier: Verifier::derive(password, [7; 16], 4096),
        plus: mechanism == Mechanism::ScramSha256Plus,
    };
    static ALL: [TheirMechanism; 4] = [LOGIN, PLAIN, SCRAM_SHA256, SCRAM_SHA256_PLUS];
    let config = SASLConfig::builder().with_registry(Registry::with_mechanisms(&ALL));
    config.with_callback(answers).unwrap()
}

fn theirs(mechanism: Mechanism) -> &'static Mechname {
    Mechname::parse(mechanism.name().as_bytes()).unwrap()
}

/// One step of theirs: what it says, and whether it waits for an answer; none if it gives up.
fn step<V: Validation>(
    session: &mut Session<V, Channel>,
    input: Option<&[u8]>,
) -> Option<(Vec<u8>, bool)> {
    let mut out = Cursor::new(Vec::new());
    let state = session.step(input, &mut out).ok()?;
    Some((out.into_inner(), matches!(state, State::Running)))
}

/// Their client logs in to our server; whether it is let in.
fn to_ours(mechanism: Mechanism, name: &str, password: &str, binding: [u8; 32]) -> bool {
    let client = SASLClient::with_cb(config(mechanism, name, password), Channel(binding));
    let client = client.start_suggested(&[theirs(mechanism)]);
    let mut client = client.unwrap();
    let first = if mechanism == Mechanism::Login {
        None
    } else {
        step(&mut client, None).map(|(first, _)| first)
    };
    let plus = (mechanism == Mechanism::ScramSha256Plus).then_some(BINDING);
    let (mut server, mut next) = Server::start(mechanism, plus, first.as_deref());
    let decoy = Decoy::new([1; 32], 4096);
    loop {
        next = match next {
            Step::Challenge(challenge) => match step(&mut client, Some(&challenge)) {
                Some((response, _)) => server.step(&response),
                None => return false,
            },
            Step::Credential { name } => {
                let known = NAMES.iter().find(|(known, _)| *known == name);
                let verifier = known.map(|(_, password)| Verifier::derive(password, [7; 16], 4096));
                server.credential(verifier.as_ref(), &decoy, &mut Rng::from_number(3))
            }
            Step::Password { name, password } => return NAMES.contains(&(&*name, &*password)),
            Step::Accepted { .. } => return true,
            Step::Token(_) | Step::External { .. } | Step::Failed(_) => return false,
        }
    }
}

/// Our client logs in to their server, which knows this one password; whether both are satisfied.
fn to_theirs(mechanism: Mechanism, name: &str, password: &str, known: &str) -> bool {
    let server = SASLServer::<Right, _>::with_cb(config(mechanism, name, known), Channel(BINDING));
    let mut server = server.start_suggested(theirs(mechanism)).unwrap();
    let plus = (mechanism == Mechanism::ScramSha256Plus).then_some(BINDING);
    let mut rng = Rng::from_number(5);
    let (mut client, first) = Client::start(mechanism, name, password, plus.as_ref(), &mut rng);
    let mut said = first;
    loop {
        let Some((challenge, goes_on)) = step(&mut server, said.as_deref()) else {
            return false;
        };
        if !goes_on && challenge.is_empty() {
            break;
        }
        said = match client.respond(&challenge) {
            Ok(response) => Some(response),
            Err(_) => return false,
        };
        if !goes_on {
            break;
        }
    }
    client.finish().is_ok() && server.validation() == Some(true)
}

fn with_password() -> impl Iterator<Item = Mechanism> {
    let all = Mechanism::ALL.into_iter();
    all.filter(|mechanism| mechanism.proof() == Proof::Password)
}

#[test]
fn their_client_logs_in_to_our_server() {
    for mechanism in with_password() {
        for (name, password) in NAMES {
            assert!(
                to_ours(mechanism, name, password, BINDING),
                "{mechanism} {name}"
            );
            assert!(
                !to_ours(mechanism, name, "wrong", BINDING),
                "{mechanism} {name}"
            );
            assert!(
                !to_ours(mechanism, "nobody", password, BINDING),
                "{mechanism}"
            );
        }
    }
}

#[test]
fn our_client_logs_in_to_their_server() {
    for mechanism in with_password() {
        for (name, password) in NAMES {
            assert!(
                to_theirs(mechanism, name, password, password),
                "{mechanism} {name}"
            );
            assert!(
                !to_theirs(mechanism, name, password, "other"),
                "{mechanism} {name}"
            );
        }
    }
}

/// Somebody sits between and has a TLS connection with each: RFC 5802 §6.
#[test]
fn another_channel_is_noticed() {
    let (name, password) = NAMES[0];
    let plus = Mechanism::ScramSha256Plus;
    assert!(!to_ours(plus, name, password, [43; 32]));
}
