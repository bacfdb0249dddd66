//! The server's side: what a client sends in, what to send back, and whom it proved to be.
//!
//! ```text
//!                 start(mechanism, binding, initial response)
//!                                  │
//!   PLAIN   ──▶ (challenge "") ────┴──▶ Password
//!   LOGIN   ──▶ challenge "Username:" ──▶ challenge "Password:" ──▶ Password
//!   SCRAM   ──▶ (challenge "") ──▶ Credential ─credential()─▶ challenge r,s,i ──▶ challenge v= ──▶ Accepted
//!   token   ──▶ (challenge "") ──▶ Token ─refuse_token()─▶ challenge {…} ──▶ Failed
//!   EXTERNAL ─▶ (challenge "") ──▶ External
//!                                  any of them ──▶ Failed
//! ```
//!
//! [`Step::Password`] ends the machine: the caller compares the secret, at its own pace, with
//! [`secret_digest`](super::secret_digest) and [`Verifier::verify_password`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq as _;

use super::bearer::{self, Bearer};
use super::scram::{self, BindingFlag, ClientFinal, ClientFirst};
use super::{ChannelBinding, Decoy, MESSAGE_LEN_MAX, Mechanism, SECRET_LEN_MAX, Verifier};
use crate::rng::Rng;

/// What the caller does next.
#[derive(Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this (SMTP: as a 334), then hand the client's answer to [`Server::step`].
    Challenge(Vec<u8>),
    /// Look the name up, then call [`Server::credential`].
    Credential {
        /// As the client sent it.
        name: String,
    },
    /// The client showed its password: check it. The machine is done.
    Password {
        /// As the client sent it.
        name: String,
        /// As the client sent it.
        password: String,
    },
    /// The client shows a token: check it. If it is not taken, go on with [`Server::refuse_token`].
    Token(Bearer),
    /// The client says that its TLS certificate proves who it is. The machine is done.
    External {
        /// Whom it wants to act as; empty for whom the certificate names.
        authzid: String,
    },
    /// The client proved that it is this one. The machine is done.
    Accepted {
        /// The name that [`Step::Credential`] gave.
        name: String,
    },
    /// The client is refused. The machine is done.
    Failed(Failure),
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Challenge(bytes) => f.debug_tuple("Challenge").field(&bytes.len()).finish(),
            Self::Credential { name } => f.debug_tuple("Credential").field(name).finish(),
            Self::Password { name, .. } => f.debug_tuple("Password").field(name).finish(),
            Self::Token(bearer) => f.debug_tuple("Token").field(bearer).finish(),
            Self::External { authzid } => f.debug_tuple("External").field(authzid).finish(),
            Self::Accepted { name } => f.debug_tuple("Accepted").field(name).finish(),
            Self::Failed(failure) => f.debug_tuple("Failed").field(failure).finish(),
        }
    }
}

/// Why a client is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Its message is not of the mechanism's grammar: SMTP 501 5.5.2. No secret was tried.
    Malformed,
    /// The secret is wrong or the name unknown, by the same words: SMTP 535 5.7.8.
    Refused {
        /// The name as the client sent it, for the limits on failures.
        name: String,
    },
}

/// One exchange.
#[derive(Debug)]
pub struct Server {
    state: State,
}

#[derive(Debug)]
enum State {
    Plain,
    LoginName,
    LoginPassword {
        name: String,
    },
    ScramFirst {
        plus: bool,
        binding: Option<ChannelBinding>,
    },
    ScramCredential(First),
    ScramFinal {
        first: First,
        server_first: String,
        nonce: String,
        keys: Box<Verifier>,
        real: bool,
    },
    ScramDone {
        name: String,
    },
    Token(Mechanism),
    /// A token is checked.
    TokenShown {
        mechanism: Mechanism,
        name: String,
    },
    /// The client hears that its token is not taken.
    TokenRefused {
        name: String,
    },
    External,
    Done,
}

/// What is kept of the client's first message.
#[derive(Debug)]
struct First {
    name: String,
    client_nonce: String,
    bare: String,
    /// What `c=` of the final message must hold.
    binding_input: Vec<u8>,
}

impl Server {
    /// Begins. `binding` is given if and only if `SCRAM-SHA-256-PLUS` was offered on this connection.
    /// `initial` is the initial response, if the client sent one: `Some(b"")` is not `None`.
    #[must_use]
    pub fn start(
        mechanism: Mechanism,
        binding: Option<ChannelBinding>,
        initial: Option<&[u8]>,
    ) -> (Self, Step) {
        let state = match mechanism {
            Mechanism::Plain => State::Plain,
            Mechanism::Login => State::LoginName,
            Mechanism::ScramSha256 => State::ScramFirst {
                plus: false,
                binding,
            },
            Mechanism::ScramSha256Plus => State::ScramFirst {
                plus: true,
                binding,
            },
            Mechanism::XOAuth2 | Mechanism::OAuthBearer => State::Token(mechanism),
            Mechanism::External => State::External,
        };
        let mut server = Self { state };
        let step = match (mechanism, initial) {
            (_, Some(response)) => server.step(response),
            (Mechanism::Login, None) => Step::Challenge(b"Username:".to_vec()),
            // RFC 4954 §4: a mechanism where the client speaks first gets an empty challenge.
            (
                Mechanism::Plain
                | Mechanism::ScramSha256
                | Mechanism::ScramSha256Plus
                | Mechanism::XOAuth2
                | Mechanism::OAuthBearer
                | Mechanism::External,
                None,
            ) => Step::Challenge(Vec::new()),
        };
        (server, step)
    }

    /// Takes the client's answer to the last challenge, decoded from base64.
    pub fn step(&mut self, response: &[u8]) -> Step {
        let state = std::mem::replace(&mut self.state, State::Done);
        if response.len() > MESSAGE_LEN_MAX {
            return Step::Failed(Failure::Malformed);
        }
        let Ok(text) = std::str::from_utf8(response) else {
            return Step::Failed(Failure::Malformed);
        };
        match state {
            State::Plain => plain(text).unwrap_or(Step::Failed(Failure::Malformed)),
            State::LoginName if is_secret(text) => {
                self.state = State::LoginPassword {
                    name: text.to_owned(),
                };
                Step::Challenge(b"Password:".to_vec())
            }
            State::LoginPassword { name } if is_secret(text) => Step::Password {
                name,
                password: text.to_owned(),
            },
            State::ScramFirst { plus, binding } => match First::parse(text, plus, binding) {
                Some(first) => {
                    let name = first.name.clone();
                    self.state = State::ScramCredential(first);
                    Step::Credential { name }
                }
                None => Step::Failed(Failure::Malformed),
            },
            State::ScramFinal {
                first,
                server_first,
                nonce,
                keys,
                real,
            } => self.scram_final(text, first, &server_first, &nonce, &keys, real),
            State::Token(mechanism) => match Bearer::parse(mechanism, text) {
                Some(bearer) => {
                    let name = bearer.name.clone().unwrap_or_default();
                    self.state = State::TokenShown { mechanism, name };
                    Step::Token(bearer)
                }
                None => Step::Failed(Failure::Malformed),
            },
            // Whatever the client says to that.
            State::TokenRefused { name } => Step::Failed(Failure::Refused { name }),
            // RFC 4422 Appendix A.3: "extern-initial-resp = [ authz-id-string ]", without NUL.
            State::External if text.is_empty() || is_secret(text) => Step::External {
                authzid: text.to_owned(),
            },
            // The client acknowledges the server's signature with an empty response.
            State::ScramDone { name } if text.is_empty() => Step::Accepted { name },
            State::LoginName
            | State::LoginPassword { .. }
            | State::ScramCredential(_)
            | State::ScramDone { .. }
            | State::TokenShown { .. }
            | State::External
            | State::Done => Step::Failed(Failure::Malformed),
        }
    }

    /// The token is not taken: tells the client why, and hears what it says to that. RFC 7628 §3.2.3.
    pub fn refuse_token(&mut self) -> Step {
        match std::mem::replace(&mut self.state, State::Done) {
            State::TokenShown { mechanism, name } => {
                self.state = State::TokenRefused { name };
                Step::Challenge(bearer::refusal(mechanism))
            }
            State::Plain
            | State::LoginName
            | State::LoginPassword { .. }
            | State::ScramFirst { .. }
            | State::ScramCredential(_)
            | State::ScramFinal { .. }
            | State::ScramDone { .. }
            | State::Token(_)
            | State::TokenRefused { .. }
            | State::External
            | State::Done => Step::Failed(Failure::Malformed),
        }
    }

    /// Answers [`Step::Credential`]: the verifier of the name, or none if there is no such name or it
    /// may not log in; `decoy` then stands in, so that the client sees no difference.
    pub fn credential(
        &mut self,
        verifier: Option<&Verifier>,
        decoy: &Decoy,
        rng: &mut Rng,
    ) -> Step {
        let State::ScramCredential(first) = std::mem::replace(&mut self.state, State::Done) else {
            return Step::Failed(Failure::Malformed);
        };
        // Made in either case: its cost tells nothing.
        let stand_in = decoy.verifier(&first.name);
        let keys = verifier.unwrap_or(&stand_in).clone();
        let mut random = [0; scram::NONCE_OCTETS];
        rng.fill(&mut random);
        self.scram_challenge(first, keys, verifier.is_some(), &BASE64.encode(random))
    }

    /// RFC 5802 §5: `r=` the client's nonce and ours, `s=` the salt, `i=` the iterations.
    fn scram_challenge(&mut self, first: First, keys: Verifier, real: bool, nonce: &str) -> Step {
        let nonce = format!("{}{nonce}", first.client_nonce);
        let salt = BASE64.encode(keys.salt());
        let server_first = format!("r={nonce},s={salt},i={}", keys.iterations());
        let challenge = server_first.clone().into_bytes();
        let keys = Box::new(keys);
        self.state = State::ScramFinal {
            first,
            server_first,
            nonce,
            keys,
            real,
        };
        Step::Challenge(challenge)
    }

    /// [`Server::credential`] with a nonce from a published exchange.
    #[cfg(test)]
    pub(super) fn credential_with_nonce(&mut self, verifier: &Verifier, nonce: &str) -> Step {
        let State::ScramCredential(first) = std::mem::replace(&mut self.state, State::Done) else {
            panic!("no credential was asked for");
        };
        self.scram_challenge(first, verifier.clone(), true, nonce)
    }

    /// RFC 5802 §3: ClientProof XOR ClientSignature is ClientKey, and its hash is StoredKey.
    fn scram_final(
        &mut self,
        text: &str,
        first: First,
        server_first: &str,
        nonce: &str,
        keys: &Verifier,
        real: bool,
    ) -> Step {
        let Some(message) = ClientFinal::parse(text) else {
            return Step::Failed(Failure::Malformed);
        };
        let (Ok(proof), Ok(binding)) =
            (BASE64.decode(message.proof), BASE64.decode(message.binding))
        else {
            return Step::Failed(Failure::Malformed);
        };
        let Ok(proof) = <[u8; 32]>::try_from(proof) else {
            return Step::Failed(Failure::Malformed);
        };
        let auth_message = format!("{},{server_first},{}", first.bare, message.without_proof);
        let client_signature = scram::hmac(keys.stored_key(), &[auth_message.as_bytes()]);
        let client_key = scram::xor(&proof, &client_signature);
        let proven: bool = scram::hash(&client_key).ct_eq(keys.stored_key()).into();
        // "The server MUST verify the nonce", and c= that the client saw our channel: all must hold.
        let ours = message.nonce == nonce && binding == first.binding_input;
        if !(proven && ours && real) {
            return Step::Failed(Failure::Refused { name: first.name });
        }
        let signature = scram::hmac(keys.server_key(), &[auth_message.as_bytes()]);
        self.state = State::ScramDone { name: first.name };
        Step::Challenge(format!("v={}", BASE64.encode(signature)).into_bytes())
    }
}

impl First {
    /// Reads the message and holds its binding flag against what was offered: RFC 5802 §6.
    fn parse(text: &str, plus: bool, binding: Option<ChannelBinding>) -> Option<Self> {
        let message = ClientFirst::parse(text)?;
        let mut binding_input = message.header.as_bytes().to_vec();
        match (message.flag, plus, binding) {
            (BindingFlag::Bound, true, Some(data)) => binding_input.extend_from_slice(&data),
            (BindingFlag::Unsupported, false, _) => {}
            // "If the flag is 'y' and the server supports channel binding, the server MUST fail":
            // someone took the PLUS mechanism off the list that the client saw.
            (BindingFlag::NotOffered, false, None) => {}
            (BindingFlag::Bound | BindingFlag::Unsupported | BindingFlag::NotOffered, _, _) => {
                return None;
            }
        }
        (message.name.len() <= SECRET_LEN_MAX).then(|| Self {
            client_nonce: message.nonce.to_owned(),
            bare: message.bare.to_owned(),
            name: message.name,
            binding_input,
        })
    }
}

/// RFC 4616 §2: `[authzid] NUL authcid NUL passwd`.
fn plain(text: &str) -> Option<Step> {
    let mut parts = text.split('\0');
    let (authzid, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    let acts_as_itself = authzid.is_empty() || authzid == name;
    let whole = parts.next().is_none() && is_secret(name) && is_secret(password);
    (acts_as_itself && whole).then(|| Step::Password {
        name: name.to_owned(),
        password: password.to_owned(),
    })
}

/// A name or a password: not empty, bounded, without NUL.
fn is_secret(text: &str) -> bool {
    (1..=SECRET_LEN_MAX).contains(&text.len()) && !text.contains('\0')
}
