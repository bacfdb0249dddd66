//! What a session says, and what it owes: verdicts, 421s, and the chores that are done before it closes.
//!
//! ```text
//!   reject, drop_transaction, end ──▶ chores: TellRefusal, Unspool, Abandon, Bye ──(one request each)──▶ Ready, or Close
//! ```
//!
//! A chore is noted when it arises and struck off when it is answered, so that a connection that breaks
//! in between loses none. RFC 5321 §3.8 (421).

use smtp_proto::server::Rejection;

use super::Request;
use super::session::{Session, State};
use crate::engine::{Ask, Refusal};
use crate::id::MessageId;

/// Something that the session owes, whatever becomes of the client.
#[derive(Debug, Clone)]
pub(super) enum Chore {
    /// Tell that a sender was refused.
    TellRefusal {
        credential: Option<String>,
        text: String,
    },
    /// Delete the spool file of a message.
    Unspool(MessageId),
    /// Give the id of a message back.
    Abandon(MessageId),
    /// Say that the session is over.
    Bye,
}

impl Session {
    /// Says yes to the pending command. An empty text stands for the usual one.
    pub(super) fn accept(&mut self, text: &str) {
        let Some(smtp) = &mut self.smtp else { return };
        if smtp.accept(text, &mut self.replies).is_err() {
            self.confused();
        }
    }

    /// Says no to the pending command, or to the message under way.
    pub(super) fn reject(&mut self, refusal: &Refusal) {
        let Some(smtp) = &mut self.smtp else { return };
        if refusal.why == Rejection::SENDER_NOT_ALLOWED {
            self.chores.push(Chore::TellRefusal {
                credential: self.client.credential().map(|client| client.name.clone()),
                text: refusal.text.clone(),
            });
        }
        if smtp
            .reject(refusal.why, &refusal.text, &mut self.replies)
            .is_err()
        {
            return self.confused();
        }
        if refusal.close || smtp.is_closed() {
            self.end();
        }
    }

    /// Sends a 334.
    pub(super) fn challenge(&mut self, challenge: &[u8]) {
        let Some(smtp) = &mut self.smtp else { return };
        if smtp.challenge(challenge, &mut self.replies).is_err() {
            self.confused();
        }
    }

    /// Says 421 and ends.
    pub(super) fn shut_down(&mut self, why: Rejection, text: &str) {
        // In a handshake there is nobody to read it.
        if let (Some(smtp), false) = (&mut self.smtp, matches!(self.state, State::Handshake)) {
            smtp.shut_down(why, text, &mut self.replies);
        }
        self.end();
    }

    /// An answer or an event came that fits nothing that was asked: an error in a runtime or in us.
    pub(super) fn confused(&mut self) {
        debug_assert!(false, "an answer that nobody asked for");
        self.shut_down(Rejection::transient(421, 3, 0), "Internal error; closing");
    }

    /// Waits for a command.
    pub(super) fn ready(&mut self) {
        self.state = State::Ready;
        self.line_ends();
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(self.state, State::Ending)
    }

    /// The envelope comes to nothing: its id goes back, and what the spool holds of it is deleted.
    pub(super) fn drop_transaction(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            if transaction.spooled {
                self.chores.push(Chore::Unspool(transaction.id));
            }
            self.chores.push(Chore::Abandon(transaction.id));
        }
    }

    /// The engine refused to keep the message: its id is gone, the spool is not.
    pub(super) fn submission_refused(&mut self) {
        if let Some(transaction) = self.transaction.take_if(|transaction| transaction.spooled) {
            self.chores.push(Chore::Unspool(transaction.id));
        }
        self.transaction = None;
    }

    /// The session is over. What it owes to others is paid before the connection closes.
    pub(super) fn end(&mut self) {
        if self.is_ending() {
            return;
        }
        self.drop_transaction();
        if std::mem::take(&mut self.welcome) {
            self.chores.push(Chore::Bye);
        }
        self.request = None;
        self.pending = Vec::new();
        self.state = State::Ending;
    }

    /// After each input: pays what is owed, and ends if nothing more can come or is wanted.
    pub(super) fn settle(&mut self) {
        if self.reads() && self.channel.peer_closed() {
            // RFC 8446 §6.1: nothing comes after a close_notify.
            self.end();
        }
        if self.interrupted && self.transaction.is_none() && self.waits_for_client() {
            self.shut_down(
                Rejection::SHUTTING_DOWN,
                "Shutting down; connect again later",
            );
        }
        let owes = matches!(
            self.state,
            State::Ready | State::Discarding(_) | State::Ending
        );
        if let (Some(chore), None, true) = (self.chores.first(), &self.request, owes) {
            self.request = Some(chore.request());
        }
    }

    /// Whether the next poll is a read.
    fn waits_for_client(&self) -> bool {
        self.reads() || matches!(self.state, State::Proxy | State::Handshake)
    }
}

impl Chore {
    fn request(&self) -> Request {
        match self.clone() {
            Self::TellRefusal { credential, text } => {
                Request::Engine(Ask::SenderRefused { credential, text })
            }
            Self::Unspool(id) => Request::Unspool(id),
            Self::Abandon(id) => Request::Engine(Ask::Abandon(id)),
            Self::Bye => Request::Engine(Ask::Bye),
        }
    }
}
