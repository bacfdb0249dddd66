//! AUTH: from the mechanism's first octet to the credential that the session acts as.
//!
//! ```text
//!   AUTH ─▶ sasl ─▶ Challenged ◀─334─▶ client
//!             │
//!             ├─ name known (SCRAM) ─▶ Ask::Credential ─▶ Challenged … proof ─────────────┐
//!             │                                                                            ▼
//!             ├─ token ──▶ Ask::Credential ─▶ Request::CheckToken (the embedder's) ────────┤
//!             ├─ certificate ──▶ Ask::Credential ──────────────────────────────────────────┤
//!             └─ name and password ──▶ Ask::Credential ─┬─ digest is cached ─▶ Ask::Authenticated
//!                                                       ├─ Ask::Turn ─▶ PBKDF2 ────────────┤
//!                                                       └─ Request::CheckPassword ─────────┤
//!                                                          (the embedder's own check)      ▼
//!                                                                                     235 or 535
//! ```
//!
//! An unknown name takes the same way as a known one with a wrong secret, on a decoy of equal cost, and
//! ends in the same words. PBKDF2 runs only with a turn of the engine, which bounds how many run at
//! once; a secret that was verified before needs none. RFC 4954, RFC 5802.

use std::sync::Arc;

use smtp_proto::Mechanism;
use smtp_proto::server::Rejection;

use super::envelope::{Client, refuse};
use super::session::{Session, State};
use super::{Answer, Request};
use crate::config::Credential;
use crate::engine;
use crate::sasl::{self, Bearer, Decoy, Failure, Step, secret_digest};

/// After so many failed AUTHs a connection ends. Guessing on many connections is the engine's to limit.
const FAILURES_MAX: u8 = 3;

/// Where an exchange stands.
#[derive(Debug)]
pub(super) enum Exchange {
    /// A 334 is out; `candidate` is whom a proof would make the client.
    Challenged {
        sasl: sasl::Server,
        candidate: Option<Arc<Credential>>,
    },
    /// The engine was asked for the credential of a name, for SCRAM.
    Named { sasl: sasl::Server },
    /// The engine was asked for the credential of a name, with the password at hand.
    Shown { secret: Secret },
    /// The engine was asked for a turn at PBKDF2.
    Queued {
        secret: Secret,
        candidate: Option<Arc<Credential>>,
        key: [u8; 32],
    },
    /// The embedder was asked.
    Outside { name: String },
    /// The engine was asked whether this name may be tried, with the token at hand.
    Token { sasl: sasl::Server, bearer: Bearer },
    /// The embedder was asked for the token's credential.
    TokenOutside { sasl: sasl::Server, name: String },
    /// The engine was asked for the credential of the client's certificate.
    Certified { name: String },
    /// The engine was told how it ended; a winner if it ended well.
    Told { winner: Option<Arc<Credential>> },
}

/// A name and a password, as the client sent them.
#[derive(Debug)]
pub(super) struct Secret {
    name: String,
    password: Password,
}

/// Text that is never printed.
pub(super) struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Exchange {
    /// Whether it waits for the client.
    pub(super) fn is_challenged(&self) -> bool {
        matches!(self, Self::Challenged { .. })
    }
}

impl Session {
    /// The client said AUTH.
    pub(super) fn auth_begins(&mut self, mechanism: Mechanism, initial: Option<&[u8]>) {
        self.checked_outside = false;
        // Only what is offered comes here, and we speak all that is offered.
        let Some(mechanism) = sasl::Mechanism::from_name(mechanism.name()) else {
            return self.confused();
        };
        let binding = self.channel.tls_exporter();
        let (sasl, step) = sasl::Server::start(mechanism, binding, initial);
        self.auth_goes_on(sasl, step, None);
    }

    /// The client answered a 334.
    pub(super) fn auth_response(&mut self, exchange: Exchange, response: &[u8]) {
        if let Exchange::Challenged {
            mut sasl,
            candidate,
        } = exchange
        {
            let step = sasl.step(response);
            self.auth_goes_on(sasl, step, candidate);
        }
    }

    /// The client gave up, or sent what is no base64. The reply is written.
    pub(super) fn auth_cancelled(&mut self) {
        self.ready();
        self.count_failure();
    }

    fn auth_goes_on(&mut self, sasl: sasl::Server, step: Step, candidate: Option<Arc<Credential>>) {
        match step {
            Step::Challenge(challenge) => {
                self.challenge(&challenge);
                self.auth_waits(Exchange::Challenged { sasl, candidate }, None);
            }
            Step::Credential { name } => {
                self.auth_waits(
                    Exchange::Named { sasl },
                    Some(engine::Ask::Credential { name }),
                );
            }
            Step::Password { name, password } => {
                let ask = engine::Ask::Credential { name: name.clone() };
                let secret = Secret {
                    name,
                    password: Password(password),
                };
                self.auth_waits(Exchange::Shown { secret }, Some(ask));
            }
            Step::Token(bearer) => {
                let name = bearer.name.clone().unwrap_or_default();
                let ask = engine::Ask::Credential { name };
                self.auth_waits(Exchange::Token { sasl, bearer }, Some(ask));
            }
            Step::External { authzid } => self.auth_external(authzid),
            Step::Accepted { name } => self.auth_ends(name, candidate, None),
            Step::Failed(Failure::Refused { name }) => self.auth_ends(name, None, None),
            Step::Failed(Failure::Malformed) => {
                let text = "The response is not of this mechanism's form";
                self.auth_fails(&refuse(Rejection::permanent(501, 5, 2), text.into()));
            }
        }
    }

    fn auth_waits(&mut self, exchange: Exchange, ask: Option<engine::Ask>) {
        self.state = State::Auth(Box::new(exchange));
        self.request = ask.map(Request::Engine);
    }

    /// An answer for an exchange that waits.
    pub(super) fn auth_answered(&mut self, exchange: Exchange, answer: Answer) {
        match (exchange, answer) {
            (Exchange::Told { winner: None }, Answer::Engine(engine::Answer::Noted)) => {
                let text = "Wrong name or secret; check both with your administrator";
                self.auth_fails(&refuse(Rejection::WRONG_CREDENTIALS, text.into()));
            }
            (
                Exchange::Told {
                    winner: Some(winner),
                },
                Answer::Engine(engine::Answer::Noted),
            ) => {
                self.client = Client::Authenticated(winner);
                self.accept("");
            }
            (_, Answer::Engine(engine::Answer::Refused(refusal))) => self.auth_fails(&refusal),
            (
                Exchange::Named { sasl },
                Answer::Engine(engine::Answer::Credential {
                    credential, key, ..
                }),
            ) => self.auth_named(sasl, credential, &key),
            (
                Exchange::Shown { secret },
                Answer::Engine(engine::Answer::Credential {
                    credential,
                    verified,
                    key,
                }),
            ) => self.auth_shown(secret, credential, verified, key),
            (
                Exchange::Queued {
                    secret,
                    candidate,
                    key,
                },
                Answer::Engine(engine::Answer::Turn),
            ) => self.auth_turn(secret, candidate, &key),
            (
                Exchange::Token { sasl, bearer },
                Answer::Engine(engine::Answer::Credential { .. }),
            ) => {
                let name = bearer.name.clone().unwrap_or_default();
                self.state = State::Auth(Box::new(Exchange::TokenOutside { sasl, name }));
                self.request = Some(Request::CheckToken(bearer));
            }
            (Exchange::TokenOutside { sasl, name }, Answer::Checked(credential)) => {
                self.auth_token_checked(sasl, name, credential);
            }
            (
                Exchange::Certified { name },
                Answer::Engine(engine::Answer::Credential { credential, .. }),
            ) => {
                let proved = credential.filter(|credential| self.is_certified(credential));
                let winner = self.if_allowed_here(proved);
                self.auth_ends(name, winner, None);
            }
            (Exchange::Outside { name }, Answer::Checked(credential)) => {
                let winner = self.if_allowed_here(credential);
                self.checked_outside = winner.is_some();
                self.auth_ends(name, winner, None);
            }
            (
                _,
                Answer::Engine(_)
                | Answer::Spooled(_)
                | Answer::Checked(_)
                | Answer::Resolved(_)
                | Answer::Done,
            ) => self.confused(),
        }
    }

    fn auth_named(
        &mut self,
        mut sasl: sasl::Server,
        credential: Option<Arc<Credential>>,
        key: &[u8; 32],
    ) {
        let candidate = self.if_allowed_here(credential);
        let verifier = candidate
            .as_ref()
            .and_then(|candidate| candidate.verifier.as_ref());
        let step = sasl.credential(verifier, &self.decoy(key), &mut self.rng);
        self.auth_goes_on(sasl, step, candidate);
    }

    fn auth_shown(
        &mut self,
        secret: Secret,
        credential: Option<Arc<Credential>>,
        verified: Option<[u8; 32]>,
        key: [u8; 32],
    ) {
        if self.setup.config.external_credentials {
            let Secret { name, password } = secret;
            self.state = State::Auth(Box::new(Exchange::Outside { name: name.clone() }));
            self.request = Some(Request::CheckPassword {
                name,
                password: password.0,
            });
            return;
        }
        let candidate = self.if_allowed_here(credential);
        let digest = secret_digest(&key, &secret.name, &secret.password.0);
        if candidate.is_some() && verified == Some(digest) {
            self.auth_ends(secret.name, candidate, Some(digest));
        } else {
            let exchange = Exchange::Queued {
                secret,
                candidate,
                key,
            };
            self.auth_waits(exchange, Some(engine::Ask::Turn));
        }
    }

    /// The embedder knows what the token is worth. Who shows a wrong one hears why before the refusal.
    fn auth_token_checked(
        &mut self,
        mut sasl: sasl::Server,
        name: String,
        credential: Option<Arc<Credential>>,
    ) {
        match self.if_allowed_here(credential) {
            Some(winner) => {
                self.checked_outside = true;
                self.auth_ends(name, Some(winner), None);
            }
            None => {
                let step = sasl.refuse_token();
                self.auth_goes_on(sasl, step, None);
            }
        }
    }

    /// EXTERNAL: the certificate of the TLS handshake says who the client is; the client says at most
    /// which of the credentials that it fits. RFC 4422 Appendix A.
    fn auth_external(&mut self, authzid: String) {
        let fitting = self.setup.config.credentials.iter();
        let mut fitting = fitting.filter(|credential| self.is_certified(credential));
        let name = match authzid.as_str() {
            "" => fitting.next().map(|credential| credential.name.clone()),
            _ => Some(authzid),
        };
        // A certificate that fits nobody fails like a wrong name, and counts like one.
        let name = name.unwrap_or_else(|| "(certificate)".to_owned());
        let ask = engine::Ask::Credential { name: name.clone() };
        self.auth_waits(Exchange::Certified { name }, Some(ask));
    }

    /// Whether the client's certificate proves this credential.
    fn is_certified(&self, credential: &Credential) -> bool {
        self.certificate.as_ref().is_some_and(|certificate| {
            let mut wanted = credential.certificates.iter();
            wanted.any(|pattern| pattern.fits(certificate))
        })
    }

    /// The turn is ours: the only place where a session computes for long.
    fn auth_turn(&mut self, secret: Secret, candidate: Option<Arc<Credential>>, key: &[u8; 32]) {
        let stand_in = self.decoy(key).verifier(&secret.name);
        let verifier = candidate
            .as_ref()
            .and_then(|candidate| candidate.verifier.as_ref());
        let right = verifier
            .unwrap_or(&stand_in)
            .verify_password(&secret.password.0);
        let known = verifier.is_some();
        let digest = secret_digest(key, &secret.name, &secret.password.0);
        let winner = candidate.filter(|_| right && known);
        let digest = winner.is_some().then_some(digest);
        self.auth_ends(secret.name, winner, digest);
    }

    /// Tells the engine how it ended; its answer brings the reply.
    fn auth_ends(
        &mut self,
        name: String,
        winner: Option<Arc<Credential>>,
        digest: Option<[u8; 32]>,
    ) {
        let ask = engine::Ask::Authenticated {
            name,
            ok: winner.is_some(),
            digest,
        };
        self.auth_waits(Exchange::Told { winner }, Some(ask));
    }

    fn auth_fails(&mut self, refusal: &engine::Refusal) {
        self.ready();
        self.reject(refusal);
        self.count_failure();
    }

    fn count_failure(&mut self) {
        self.auth_failures = self.auth_failures.saturating_add(1);
        if self.auth_failures >= FAILURES_MAX && !self.is_ending() {
            let text = "Too many failed authentications; closing";
            self.shut_down(Rejection::GO_AWAY, text);
        }
    }

    /// The credential, if it may be used from the client's address.
    fn if_allowed_here(&self, credential: Option<Arc<Credential>>) -> Option<Arc<Credential>> {
        credential.filter(|credential| credential.allows_from(self.client_ip()))
    }

    /// What stands in for a name that is not known: as costly as those that are. Without a key of the
    /// configuration it changes with each start of the relay.
    fn decoy(&self, key: &[u8; 32]) -> Decoy {
        let config = &self.setup.config;
        let verifiers = config
            .credentials
            .iter()
            .filter_map(|credential| credential.verifier.as_ref());
        let iterations = verifiers
            .map(sasl::Verifier::iterations)
            .max()
            .unwrap_or(sasl::ITERATIONS_DEFAULT);
        let key = config
            .decoy_key
            .unwrap_or_else(|| secret_digest(key, "decoy", ""));
        Decoy::new(key, iterations)
    }
}
