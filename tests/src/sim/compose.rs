//! What clients send: transactions, well done and spoiled.

use std::num::NonZeroU32;
use std::time::Duration;

use relay_core::rng::Rng;
use relay_core::time::Instant;
use smtp_proto::client::SendError;
use smtp_proto::{
    ByMode, DeliverBy, ForwardPath, Hold, MailParams, Priority, RcptParams, ReversePath,
};

use super::agenda::Dice;
use super::client::{Outgoing, Spoil, Step, Talk};
use super::names::sender_domain;
use super::setup::Door;
use super::world::World;

/// What a client asks for beyond delivery.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wishes {
    /// REQUIRETLS.
    pub(crate) tls: bool,
    /// HOLDFOR, and until when by that.
    pub(crate) hold: Option<(u32, Instant)>,
    /// MT-PRIORITY.
    pub(crate) priority: Option<i8>,
    /// BY, in seconds.
    pub(crate) by: Option<(u32, ByMode)>,
}

impl Wishes {
    /// How long the message may be tried, where all others expire after `expire`.
    pub(crate) fn life(&self, expire: Duration) -> Duration {
        let held = self.hold.map_or(0, |(secs, _)| secs);
        let expire = expire + Duration::from_secs(held.into());
        match self.by {
            Some((secs, ByMode::Return)) => expire.min(Duration::from_secs(secs.into())),
            Some((_, ByMode::Notify)) | None => expire,
        }
    }
}

impl World {
    pub(crate) fn compose(&mut self, index: usize) -> Outgoing {
        let token = self.next_token;
        self.next_token += 1;
        let client = &mut self.clients[index];
        let rng = &mut client.rng;
        let sender = format!("t{token}@{}", sender_domain(client.index));
        let count = rng.range(1, self.profile.recipients);
        let to: Vec<String> = (0..count)
            .map(|number| {
                let kind = if rng.chance(80) { "no-" } else { "" };
                format!("{kind}r{token}x{number}@{}", self.names.any_domain(rng))
            })
            .collect();
        let spoil = if client.probe || self.calm || !rng.chance(self.profile.client_per_mille) {
            Spoil::Nothing
        } else {
            rng.pick(&[
                Spoil::Leave(0),
                Spoil::Leave(1),
                Spoil::Leave(2),
                Spoil::Reset,
                Spoil::Reset,
                Spoil::HalfBody,
                Spoil::DropAfterDot,
                Spoil::HalfClose,
            ])
        };
        let message = write_message(token, &sender, &to, self.profile.body, rng);
        let wishes = self.wishes(index);
        self.book.began(token, &sender, &to, &message);
        self.book.wished(token, wishes);
        self.tell(format_args!(
            "client {index} begins t{token} for {} ({spoil:?})",
            to.join(" ")
        ));
        let path = |text: &String| text.parse().ok().map(ForwardPath::Mailbox);
        Outgoing {
            token,
            from: sender
                .parse()
                .map_or(ReversePath::Null, ReversePath::Mailbox),
            to: to.iter().filter_map(path).collect(),
            params: MailParams {
                requiretls: wishes.tls,
                hold: wishes
                    .hold
                    .and_then(|(secs, _)| NonZeroU32::new(secs))
                    .map(Hold::For),
                by: wishes
                    .by
                    .and_then(|(secs, mode)| DeliverBy::new(i32::try_from(secs).ok()?, mode)),
                mt_priority: wishes.priority.and_then(Priority::new),
                ..MailParams::default()
            },
            message,
            spoil,
            mail_refused: false,
            taken: Vec::new(),
            data_refused: false,
            dotted: false,
        }
    }

    /// What a message asks for; REQUIRETLS only where it is offered. RFC 8689 §2.
    fn wishes(&mut self, index: usize) -> Wishes {
        let now = self.agenda.now();
        let client = &mut self.clients[index];
        let rng = &mut client.rng;
        let mut wishes = Wishes::default();
        if client.probe || self.calm {
            return wishes;
        }
        if rng.chance(self.profile.deadlines_per_mille) {
            let mode = rng.pick(&[ByMode::Return, ByMode::Notify]);
            wishes.by = Some((rng.pick(&[60, 600, 3600, 14_400]), mode));
            return wishes;
        }
        if !rng.chance(self.profile.wishes_per_mille) {
            return wishes;
        }
        match rng.below(2) {
            _ if client.door != Door::Trusted && rng.chance(600) => wishes.tls = true,
            // A release is a time of the wall clock: one that jumps moves it, by design.
            0 if self.profile.clock_jumps == 0 => {
                let secs = rng.range(1, 3600);
                wishes.hold = u32::try_from(secs)
                    .ok()
                    .map(|secs| (secs, now + Duration::from_secs(secs.into())));
            }
            _ => wishes.priority = Some(rng.pick(&[-9, -4, 0, 4, 9])),
        }
        wishes
    }

    /// Sends what may be sent. False if the client leaves.
    pub(crate) fn client_sends(
        &mut self,
        index: usize,
        talk: &mut Talk,
        wire: &mut Vec<u8>,
    ) -> bool {
        while let Some(&step) = talk.steps.front() {
            let refused = talk.mail.as_ref().is_some_and(|mail| mail.mail_refused);
            if refused && step != Step::Quit {
                talk.steps.clear();
                break;
            }
            let spoil = talk.mail.as_ref().map_or(Spoil::Nothing, |mail| mail.spoil);
            let leaves = match (spoil, step) {
                (Spoil::Leave(0), Step::Mail) | (Spoil::Leave(1), Step::Rcpt(_)) => true,
                (Spoil::Leave(2), Step::Data) => true,
                (_, _) => false,
            };
            if leaves {
                self.tell(format_args!("client {index} leaves at {step:?}"));
                return false;
            }
            let sent = match (step, &talk.mail) {
                (Step::Mail, Some(mail)) => talk.smtp.mail(&mail.from, &mail.params, wire),
                (Step::Rcpt(rcpt), Some(mail)) => {
                    talk.smtp.rcpt(&mail.to[rcpt], &RcptParams::default(), wire)
                }
                (Step::Data, _) => talk.smtp.data(wire),
                (Step::Reset, _) => talk.smtp.reset(wire),
                (Step::Quit, _) => talk.smtp.quit(wire),
                (Step::Mail | Step::Rcpt(_), None) => return false,
            };
            match sent {
                Ok(()) => talk.steps.pop_front(),
                Err(SendError::NotYet | SendError::BurstFull) => return true,
                Err(_) => return false,
            };
        }
        self.client_gives_up(index, talk, wire)
    }

    /// A transaction that led to nothing, once all its replies are here.
    pub(crate) fn client_gives_up(
        &mut self,
        index: usize,
        talk: &mut Talk,
        wire: &mut Vec<u8>,
    ) -> bool {
        let idle = talk.smtp.awaiting().next().is_none();
        // A reset concludes it with its own reply.
        let failed = talk
            .mail
            .as_ref()
            .is_some_and(|m| m.mail_refused || m.data_refused);
        if !(idle && failed) {
            return true;
        }
        if let Some(mail) = talk.mail.take() {
            let nobody = mail.taken.is_empty() && !mail.mail_refused;
            if nobody {
                self.book.abandoned(mail.token);
            } else {
                self.client_refused(index, mail.token);
            }
        }
        self.client_begins(index, talk);
        self.client_sends(index, talk, wire)
    }
}

fn write_message(token: u64, sender: &str, to: &[String], body: u64, rng: &mut Rng) -> Vec<u8> {
    let mut text = format!(
        "From: <{sender}>\r\nTo: {}\r\nDate: Mon, 23 Nov 2026 22:05:31 +0000\r\n\
         Message-ID: <{sender}>\r\nSubject: number {token}\r\n\r\n",
        to.iter()
            .map(|to| format!("<{to}>"))
            .collect::<Vec<_>>()
            .join(",\r\n ")
    );
    let length = rng.below(body) as usize;
    while text.len() < length {
        let line = match rng.below(10) {
            0 => ".".to_owned(),
            1 => format!("..{token}"),
            2 => String::new(),
            3 => "MAIL FROM:<x@example.com>".to_owned(),
            _ => format!("{:060x}", rng.next_u64()),
        };
        text.push_str(&line);
        text.push_str("\r\n");
    }
    text.into_bytes()
}
