//! Which part of a delivery takes an input, by the state that it is in.
//!
//! | input | taken in the states |
//! |---|---|
//! | an answer | the one that asked |
//! | bytes, the end, the deadline | Opening, Sending, Quitting |
//! | a write that failed | any: what was asked for with it was not done |
//!
//! Anything else breaks the contract of [`crate::machine`], and ends the delivery.

use super::finding::{Finding, Loss, Stage};
use super::outcome::judge;
use super::{Answer, Delivery, Request, State};
use crate::machine::{Input, Machine, Output};
use crate::time::Now;

impl Delivery {
    fn answered(&mut self, answer: Answer) {
        match (self.take_state(), answer) {
            (State::Resolving(host, old), Answer::Resolved(answer)) => {
                self.resolved(&host, answer, old);
            }
            (State::Searching(mut search, old), Answer::Tlsa(answer)) => {
                let step = search.tlsa(answer);
                self.searched(search, step, old);
            }
            (State::Searching(mut search, old), Answer::Alias(answer)) => {
                let step = search.alias(answer);
                self.searched(search, step, old);
            }
            (State::Connecting(candidate, _), Answer::Connected(answer)) => {
                self.connected(candidate, answer);
            }
            (State::Opening(mut link, mut opening), Answer::Token(answer)) => {
                let progress = opening.token(answer, &mut link, &mut self.setup());
                self.opened(link, opening, progress);
            }
            (State::Loading(link), Answer::Loaded(answer)) => self.loaded(link, answer),
            (State::Naming(place, old), Answer::Loaded(answer)) => {
                self.named(place, old, answer.ok());
            }
            (State::Sending(mut link, mut transaction), answer) => {
                let now = self.now.instant;
                let Some(work) = &mut self.work else {
                    return self.quit(Some(link));
                };
                let progress = match answer {
                    Answer::Body(piece) => transaction.body(piece, &mut link, work, now),
                    Answer::Flushed => transaction.flushed(&mut link, work, now),
                    Answer::Resolved(_)
                    | Answer::Tlsa(_)
                    | Answer::Alias(_)
                    | Answer::Connected(_)
                    | Answer::Loaded(_)
                    | Answer::Token(_)
                    | Answer::Next(_) => transaction.lost(unasked(), &mut link, work),
                };
                self.sent(link, transaction, progress);
            }
            (State::Reporting(link), Answer::Next(next)) => self.told(link, next),
            (state, _) => self.misled(state),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        match self.take_state() {
            State::Opening(mut link, mut opening) => {
                let received = link.receive(bytes);
                let progress = opening.receive(received, &mut link, &mut self.setup());
                self.opened(link, opening, progress);
            }
            State::Sending(mut link, mut transaction) => {
                let received = link.receive(bytes);
                let Some(work) = &mut self.work else {
                    return self.quit(Some(link));
                };
                let progress = transaction.receive(received, &mut link, work, self.now.instant);
                self.sent(link, transaction, progress);
            }
            // Whatever the host says to QUIT, it has heard it.
            State::Quitting(link) => self.close(Some(link)),
            state @ (State::Resolving(..)
            | State::Searching(..)
            | State::Connecting(..)
            | State::Loading(_)
            | State::Naming(..)
            | State::Reporting(_)
            | State::Closed(_)) => self.misled(state),
        }
    }

    /// The connection ended, or the deadline passed.
    fn lost(&mut self, loss: Loss) {
        match self.take_state() {
            State::Opening(link, mut opening) => {
                let progress = opening.lost(loss, &link);
                self.opened(link, opening, progress);
            }
            State::Sending(mut link, mut transaction) => {
                let Some(work) = &mut self.work else {
                    return self.quit(Some(link));
                };
                let progress = transaction.lost(loss, &mut link, work);
                self.sent(link, transaction, progress);
            }
            State::Quitting(link) => self.close(Some(link)),
            state @ (State::Resolving(..)
            | State::Searching(..)
            | State::Connecting(..)
            | State::Loading(_)
            | State::Naming(..)
            | State::Reporting(_)
            | State::Closed(_)) => self.misled(state),
        }
    }

    /// What was on the wire did not get through; what was asked for with it was not done.
    fn write_failed(&mut self, loss: Loss) {
        match self.take_state() {
            // It was the last word to a host that was left behind: ask once more, with nothing to say.
            State::Resolving(host, _) => {
                self.ask(Request::Resolve(host.host.clone()));
                self.state = State::Resolving(host, None);
            }
            State::Searching(search, _) => self.search(search, None),
            State::Connecting(candidate, _) => self.connect(candidate, None),
            State::Sending(mut link, mut transaction) => {
                let progress = transaction.write_failed(loss, &mut link, self.now.instant);
                self.sent(link, transaction, progress);
            }
            State::Loading(link) => {
                let verdict = judge(Stage::Mail, &Finding::Lost(loss), link.seen());
                let evidence = link.evidence();
                self.elsewhere(link, Stage::Mail, verdict, evidence);
            }
            State::Naming(place, _) => self.named(place, None, None),
            State::Opening(link, opening) => {
                self.state = State::Opening(link, opening);
                self.lost(loss);
            }
            State::Quitting(link) | State::Reporting(Some(link)) => self.close(Some(link)),
            State::Reporting(None) | State::Closed(_) => self.close(None),
        }
    }

    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Closed(None))
    }

    /// The runtime broke the contract. Whatever job is in hand goes back when the engine hears of the
    /// end.
    fn misled(&mut self, state: State) {
        debug_assert!(
            matches!(state, State::Closed(_)),
            "an input that nobody waits for: {state:?}"
        );
        self.close(None);
    }
}

fn unasked() -> Loss {
    Loss::Protocol("an answer that was not asked for".to_owned())
}

impl Machine for Delivery {
    type Request = Request;
    type Answer = Answer;

    fn handle_input(&mut self, now: Now, input: Input<'_, Self::Answer>) {
        self.now = now;
        match input {
            Input::Bytes(bytes) => self.bytes(bytes),
            Input::Answer(answer) => self.answered(answer),
            Input::Timeout => self.lost(Loss::Timeout),
            Input::Closed(why) => self.lost(why.into()),
            Input::WriteFailed(kind) => self.write_failed(Loss::Broken(kind)),
        }
    }

    fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<Self::Request> {
        match &mut self.state {
            State::Resolving(_, Some(link))
            | State::Searching(_, Some(link))
            | State::Connecting(_, Some(link))
            | State::Opening(link, _)
            | State::Sending(link, _)
            | State::Quitting(link)
            | State::Closed(Some(link)) => link.flush(wire),
            // Nothing was said since the last flush.
            State::Loading(_) | State::Naming(..) | State::Reporting(_) => {}
            State::Resolving(_, None) | State::Searching(_, None) => {}
            State::Connecting(_, None) | State::Closed(None) => {}
        }
        self.next.take().unwrap_or(Output::Close)
    }
}
