//! ARC: what those who handled a message before say that they saw.
//!
//! ```text
//!   fields ─▶ Chain::read ─▶ sets 1..N, each whole ─▶ the last message signature ─▶ every seal, last first
//!                 └── a set is not whole, a `cv=` is wrong ──▶ fail
//! ```
//!
//! RFC 8617 §5.2 (validating a chain), §4.2.1 (instances, and at most 50 of them), §5.1.1 (what a seal
//! covers).

use super::body::Hashes;
use super::dkim::{self, DkimResult};
use super::header::{Form, Header};
use super::known::{Known, Unknown};
use super::signature::{ChainState, Kind, Seal, Signature, instance};
use crate::time::UnixTime;

/// The most sets of a chain. RFC 8617 §4.2.1.
pub const SETS_MAX: usize = 50;

/// What became of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArcResult {
    /// There is none.
    None,
    /// It is whole, and the message is as the last one who sealed it saw it.
    Pass,
    /// It is not.
    Fail,
    /// A key could not be fetched now.
    TempError,
}

/// A chain and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arc {
    /// What became of it.
    pub result: ArcResult,
    /// Why it is no pass, in words.
    pub why: Option<&'static str>,
    /// How many sets it has.
    pub sets: usize,
    /// Who sealed it last; empty where that cannot be read.
    pub sealer: String,
}

/// The sets of a message.
#[derive(Debug)]
pub(super) struct Chain {
    sets: Vec<Set>,
    /// Why it fails, whatever the keys say.
    broken: Option<&'static str>,
    /// The message signature of the last set.
    last: Option<Signature>,
}

/// The fields of a set.
#[derive(Debug)]
struct Set {
    results: usize,
    message: usize,
    seal_field: usize,
    seal: Option<Seal>,
}

impl Chain {
    /// Reads the sets of a header.
    pub(super) fn read(header: &Header) -> Self {
        let mut chain = Self {
            sets: Vec::new(),
            broken: None,
            last: None,
        };
        match sets(header) {
            Ok(sets) => chain.sets = sets,
            Err(why) => {
                chain.broken = Some(why);
                return chain;
            }
        }
        let Some(last) = chain.sets.last() else {
            return chain;
        };
        match Signature::parse(header.value(last.message), Kind::Arc) {
            Ok(signature) => chain.last = Some(signature),
            Err(why) => chain.broken = Some(why),
        }
        for (at, set) in chain.sets.iter().enumerate() {
            let due = if at == 0 {
                ChainState::None
            } else {
                ChainState::Pass
            };
            match &set.seal {
                Some(seal) if seal.chain == due => {}
                Some(seal) if seal.chain == ChainState::Fail => {
                    chain.broken = Some("the chain was found broken before");
                }
                Some(_) => chain.broken = Some("a cv= is not as it must be"),
                None => chain.broken = Some("an ARC-Seal cannot be read"),
            }
        }
        chain
    }

    /// The form of the body that must be hashed.
    pub(super) fn body_form(&self) -> Option<Form> {
        self.last.as_ref().map(|signature| signature.body_form)
    }

    /// Whether the last one who sealed it said that it is broken: then nobody adds to it.
    pub(super) fn was_given_up(&self) -> bool {
        let last = self.sets.last().and_then(|set| set.seal.as_ref());
        last.is_some_and(|seal| seal.chain == ChainState::Fail)
    }

    /// Validates it, when the keys are known.
    pub(super) fn validate(
        &self,
        header: &Header,
        bodies: &Hashes,
        known: &Known,
        now: UnixTime,
    ) -> Result<Arc, Unknown> {
        let outcome = self.outcome(header, bodies, known, now)?;
        let (result, why) = match outcome {
            Ok(result) => (result, None),
            Err((DkimResult::TempError, why)) => (ArcResult::TempError, Some(why)),
            Err((_, why)) => (ArcResult::Fail, Some(why)),
        };
        let sealer = self.sets.last().and_then(|set| set.seal.as_ref());
        Ok(Arc {
            result,
            why,
            sets: self.sets.len(),
            sealer: sealer.map_or(String::new(), |seal| seal.domain.clone()),
        })
    }

    fn outcome(
        &self,
        header: &Header,
        bodies: &Hashes,
        known: &Known,
        now: UnixTime,
    ) -> Result<Result<ArcResult, dkim::Failure>, Unknown> {
        if let Some(why) = self.broken {
            return Ok(Err((DkimResult::Fail, why)));
        }
        let (Some(set), Some(signature)) = (self.sets.last(), &self.last) else {
            return Ok(Ok(ArcResult::None));
        };
        if let Err(why) = dkim::verify(signature, set.message, header, bodies, known, now)? {
            return Ok(Err(why));
        }
        for (at, set) in self.sets.iter().enumerate().rev() {
            let Some(seal) = &set.seal else {
                return Ok(Err((DkimResult::Fail, "an ARC-Seal cannot be read")));
            };
            let key = match dkim::key(&seal.key_name(), known)? {
                Ok(key) => key,
                Err(why) => return Ok(Err(why)),
            };
            let mut data = self.canonical(header, at);
            header.canonical(set.results, Form::Relaxed, &mut data);
            header.canonical(set.message, Form::Relaxed, &mut data);
            header.unsigned(set.seal_field, Form::Relaxed, &mut data);
            if let Err(why) = dkim::check(seal.algorithm, &key, &data, &seal.signature) {
                return Ok(Err(why));
            }
        }
        Ok(Ok(ArcResult::Pass))
    }

    /// How many sets it has.
    pub(super) fn len(&self) -> usize {
        self.sets.len()
    }

    /// What a seal covers of the sets before it. RFC 8617 §5.1.1: in order, each its results, its
    /// message signature and its seal.
    pub(super) fn canonical(&self, header: &Header, sets: usize) -> Vec<u8> {
        let mut data = Vec::new();
        for set in self.sets.iter().take(sets) {
            for field in [set.results, set.message, set.seal_field] {
                header.canonical(field, Form::Relaxed, &mut data);
            }
        }
        data
    }
}

/// The sets of a header in order, if each is whole.
fn sets(header: &Header) -> Result<Vec<Set>, &'static str> {
    let results = ordered(header, "arc-authentication-results")?;
    let messages = ordered(header, "arc-message-signature")?;
    let seals = ordered(header, "arc-seal")?;
    if results.len() != seals.len() || messages.len() != seals.len() {
        return Err("a set is not whole");
    }
    let fields = results.into_iter().zip(messages).zip(seals);
    let set = |((results, message), seal_field)| Set {
        results,
        message,
        seal_field,
        seal: Seal::parse(header.value(seal_field)).ok(),
    };
    Ok(fields.map(set).collect())
}

/// The fields of a name by their instances, which are 1 to as many as there are.
fn ordered(header: &Header, name: &str) -> Result<Vec<usize>, &'static str> {
    let fields = header.named(name);
    if fields.len() > SETS_MAX {
        return Err("there are too many sets");
    }
    let mut ordered = vec![None; fields.len()];
    for &field in fields {
        let instance = instance(header.value(field)).ok_or("a field has no instance")?;
        let place = instance
            .checked_sub(1)
            .and_then(|at| ordered.get_mut(at))
            .ok_or("an instance is missing")?;
        if place.replace(field).is_some() {
            return Err("an instance is there twice");
        }
    }
    Ok(ordered.into_iter().flatten().collect())
}
