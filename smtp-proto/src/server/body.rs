//! DATA and BDAT: the body, to its end or to its refusal.
//!
//! A refused body is read by the decoder that it came through, so that its end is where the end of
//! an accepted one would be; then there is one reply.
//!
//! Implements RFC 5321 §4.1.1.4 and §4.5.2, RFC 3030 §2 and §3, RFC 1870 §6.3.

use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;

use super::{
    Connection, Envelope, Event, Fatal, Pending, Refusal, Rejection, State, Step, respond,
};
use crate::command::{Command, CommandError};
use crate::dot::{BodyFault, ChunkDecoder, DotDecoder, Piece};
use crate::extension::Extension;

/// A body under way.
#[derive(Debug)]
pub(super) struct Body {
    framing: Framing,
    /// Octets so far, un-stuffed.
    octets: u64,
    /// Octets that were read since the command, as they came.
    read: u64,
}

#[derive(Debug)]
enum Framing {
    Dots(DotDecoder),
    Chunk(Chunk),
}

/// A BDAT chunk under way.
#[derive(Debug)]
struct Chunk {
    decoder: ChunkDecoder,
    size: u64,
    left: u64,
    last: bool,
}

/// A body between two of its chunks.
#[derive(Debug)]
pub(super) struct Chunked {
    decoder: ChunkDecoder,
    octets: u64,
}

/// A refused body, on the way to its end.
#[derive(Debug)]
pub(super) struct Discard {
    framing: Framing,
    refusal: Refusal,
    /// Octets that were read since the command.
    read: u64,
}

impl Body {
    pub(super) const fn is_chunked(&self) -> bool {
        matches!(self.framing, Framing::Chunk(_))
    }

    pub(super) fn refuse(self, refusal: Refusal) -> Discard {
        let mut framing = self.framing;
        match &mut framing {
            Framing::Dots(decoder) => decoder.discard(),
            Framing::Chunk(chunk) => chunk.decoder.discard(),
        }
        Discard {
            framing,
            refusal,
            read: self.read,
        }
    }
}

impl Chunk {
    /// As the decoders do; [`Piece::End`] is the end of the chunk.
    fn decode<'i>(&mut self, input: &'i [u8]) -> (usize, Piece<'i>) {
        if self.left == 0 {
            let owed = if self.last {
                self.decoder.finish()
            } else {
                None
            };
            return (0, owed.unwrap_or(Piece::End));
        }
        let here = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
        let (used, piece) = self.decoder.decode(&input[..here]);
        self.left -= used as u64;
        (used, piece)
    }

    /// Goes on without looking.
    fn skip(&mut self, input: &[u8]) -> usize {
        let here = first(input, self.left).len();
        self.left -= here as u64;
        here
    }
}

/// The first octets, at most so many.
fn first(octets: &[u8], most: u64) -> &[u8] {
    usize::try_from(most).map_or(octets, |most| &octets[..most.min(octets.len())])
}

impl Connection {
    pub(super) fn data(
        &mut self,
        command: Result<Command<'_>, CommandError>,
        wire: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        match &self.state {
            State::Envelope(envelope) => match command {
                Err(error) => self.command_error(error, wire),
                Ok(_) if envelope.recipients == 0 => {
                    self.out_of_order("No valid recipients; send MAIL and RCPT first", wire);
                }
                // RFC 3030 §3: DATA after BODY=BINARYMIME gets a 503.
                Ok(_) if envelope.binary => {
                    self.out_of_order("BINARYMIME needs BDAT; start again with MAIL", wire);
                }
                Ok(_) => {
                    let decoder = DotDecoder::new(self.config.line_endings);
                    self.state = State::Pending(Pending::Data(Body {
                        framing: Framing::Dots(decoder),
                        octets: 0,
                        read: 0,
                    }));
                    return Some(Event::Data { chunked: false });
                }
            },
            // RFC 3030 §2: "The DATA and BDAT commands cannot be used in the same transaction".
            State::Chunked(_) => self.out_of_order("Not after BDAT; start again with MAIL", wire),
            State::Idle | State::Body(_) | State::Discard(_) | State::Response => {
                self.out_of_order("Send MAIL and RCPT first", wire);
            }
            State::Pending(_) | State::Handshake | State::Closed => {}
        }
        self.drop_transaction()
    }

    /// A chunk follows its command whatever the answer, so one that is refused is skipped, and
    /// one whose length is not known ends the connection.
    pub(super) fn bdat(
        &mut self,
        command: Result<Command<'_>, CommandError>,
        wire: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Fatal> {
        let (size, last) = match command {
            Ok(Command::Bdat { size, last }) => (size, last),
            Ok(_) => return Ok(None),
            Err(error) => {
                let text = format!("{error}");
                return Err(self.fatal(Fatal::ChunkSize, error.rejection(), &text, wire));
            }
        };
        let limits = &self.config.limits;
        if size > limits.discard {
            let text = "Chunk too large to be skipped; closing";
            return Err(self.fatal(Fatal::ChunkSize, Rejection::TOO_LARGE, text, wire));
        }
        // Chunks that bring nothing cost us a reply each. RFC 3030 §2 allows them.
        self.junk += u32::from(size == 0 && !last);
        let offered = self.offered().has(Extension::Chunking);
        let (decoder, octets, first) = match core::mem::replace(&mut self.state, State::Idle) {
            State::Envelope(envelope) if offered && envelope.recipients > 0 => {
                (self.chunk_decoder(&envelope), 0, true)
            }
            State::Envelope(_) => {
                let text = if offered {
                    "No valid recipients; send MAIL and RCPT first"
                } else {
                    "BDAT was not offered; send EHLO first"
                };
                self.stray_chunk(size, last, text);
                return Ok(Some(Event::Reset));
            }
            State::Chunked(Chunked { decoder, octets }) => (decoder, octets, false),
            State::Idle
            | State::Body(_)
            | State::Discard(_)
            | State::Response
            | State::Pending(_)
            | State::Handshake
            | State::Closed => {
                self.stray_chunk(size, last, "Send MAIL and RCPT first");
                return Ok(None);
            }
        };
        let body = Body {
            framing: Framing::Chunk(Chunk {
                decoder,
                size,
                left: size,
                last,
            }),
            octets,
            read: 0,
        };
        if size > self.config.limits.message_size.saturating_sub(octets) {
            self.state = State::Discard(body.refuse(self.too_large()));
            return Ok(Some(Event::BodyRefused(Rejection::TOO_LARGE)));
        }
        if first {
            self.state = State::Pending(Pending::Data(body));
            return Ok(Some(Event::Data { chunked: true }));
        }
        self.state = State::Body(body);
        Ok(None)
    }

    fn chunk_decoder(&self, envelope: &Envelope) -> ChunkDecoder {
        if envelope.binary {
            ChunkDecoder::binary()
        } else {
            ChunkDecoder::new(self.config.line_endings)
        }
    }

    /// A chunk outside of any message. If the message it belonged to was refused, so is it.
    fn stray_chunk(&mut self, size: u64, last: bool, text: &'static str) {
        let refusal = match self.refused.take() {
            Some(refusal) => {
                self.junk += 1;
                refusal
            }
            None => {
                self.errors += 1;
                Refusal {
                    why: Rejection::permanent(503, 5, 1),
                    text: Cow::Borrowed(text),
                }
            }
        };
        let mut decoder = ChunkDecoder::binary();
        decoder.discard();
        self.state = State::Discard(Discard {
            framing: Framing::Chunk(Chunk {
                decoder,
                size,
                left: size,
                last,
            }),
            refusal,
            read: 0,
        });
    }

    fn too_large(&self) -> Refusal {
        let size_max = self.config.limits.message_size;
        Refusal {
            why: Rejection::TOO_LARGE,
            text: format!("Message too large; the limit is {size_max} octets").into(),
        }
    }

    /// One piece of the body under way.
    pub(super) fn body<'i>(&mut self, input: &'i [u8], wire: &mut Vec<u8>) -> Step<'i> {
        let size_max = self.config.limits.message_size;
        let State::Body(body) = &mut self.state else {
            return Step::NeedMore(0);
        };
        if body.octets > size_max {
            return Step::Event(0, self.refuse_body(self.too_large()));
        }
        // The decoder sees one octet over the limit at most: so where a body is refused does not
        // depend on how the input was cut.
        let room = size_max - body.octets;
        let input = first(input, room + 1);
        let (used, piece) = match &mut body.framing {
            Framing::Dots(decoder) => decoder.decode(input),
            Framing::Chunk(chunk) => chunk.decode(input),
        };
        body.read += used as u64;
        match piece {
            Piece::NeedMore if used > 0 => Step::Go(used),
            Piece::NeedMore => Step::NeedMore(0),
            Piece::Body(octets) => {
                body.octets += octets.len() as u64;
                match first(octets, room) {
                    [] => Step::Go(used),
                    fitting => Step::Event(used, Event::Body(fitting)),
                }
            }
            Piece::Fault(fault) => Step::Event(used, self.refuse_body(malformed(fault))),
            Piece::End => self.body_end(used, wire),
        }
    }

    /// The end of the data, or of a chunk.
    fn body_end<'i>(&mut self, used: usize, wire: &mut Vec<u8>) -> Step<'i> {
        let pending = State::Pending(Pending::BodyEnd);
        let State::Body(Body {
            framing, octets, ..
        }) = core::mem::replace(&mut self.state, pending)
        else {
            return Step::Go(used);
        };
        match framing {
            Framing::Chunk(chunk) if !chunk.last => {
                let text = format!("{} octets received", chunk.size);
                respond::success(250, 0, 0, &text, wire);
                let decoder = chunk.decoder;
                self.state = State::Chunked(Chunked { decoder, octets });
                Step::Go(used)
            }
            Framing::Dots(_) | Framing::Chunk(_) => Step::Event(used, Event::BodyEnd),
        }
    }

    /// Refuses the body under way from here.
    fn refuse_body(&mut self, refusal: Refusal) -> Event<'static> {
        let why = refusal.why;
        if let State::Body(body) = core::mem::replace(&mut self.state, State::Idle) {
            self.state = State::Discard(body.refuse(refusal));
        }
        Event::BodyRefused(why)
    }

    /// Goes on through a refused body; at its end comes the reply.
    pub(super) fn discard<'i>(
        &mut self,
        input: &'i [u8],
        wire: &mut Vec<u8>,
    ) -> Result<Step<'i>, Fatal> {
        let discard_max = self.config.limits.discard;
        let State::Discard(discard) = &mut self.state else {
            return Ok(Step::NeedMore(0));
        };
        let input = first(input, discard_max.saturating_sub(discard.read));
        let (used, ended) = match &mut discard.framing {
            Framing::Dots(decoder) => {
                let (used, piece) = decoder.decode(input);
                (used, piece == Piece::End)
            }
            Framing::Chunk(chunk) => (chunk.skip(input), chunk.left == 0),
        };
        discard.read += used as u64;
        if !ended && discard.read >= discard_max {
            let text = "Refused message does not end; closing";
            return Err(self.fatal(Fatal::EndlessBody, Rejection::GO_AWAY, text, wire));
        }
        if !ended {
            return Ok(Step::NeedMore(used));
        }
        if let State::Discard(Discard {
            framing, refusal, ..
        }) = core::mem::replace(&mut self.state, State::Idle)
        {
            self.refuse(refusal.why, &refusal.text, wire);
            let more_chunks = matches!(framing, Framing::Chunk(chunk) if !chunk.last);
            self.refused = more_chunks.then_some(refusal);
        }
        Ok(Step::Go(used))
    }
}

/// The rule of [`crate::dot`] as the client gets it.
fn malformed(fault: BodyFault) -> Refusal {
    let text = match fault {
        BodyFault::BareCr | BodyFault::BareLf => {
            format!("Message has {fault}; end every line with CRLF")
        }
        BodyFault::Nul => format!("Message has {fault}; encode binary parts"),
    };
    Refusal {
        why: Rejection::BAD_MESSAGE,
        text: text.into(),
    }
}
