//! Faults that are put in on purpose, at the seams of the world: each must be found by a checker.
//!
//! A planted fault changes what passes between the parts, as a bug in the part behind the seam would.
//! Nothing of it is in the relay's code.

/// A fault of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// The 250 leaves before the sync: syncs say yes and do nothing.
    AckBeforeSync,
    /// What is noted of settled recipients never reaches the store.
    OutcomeNoteLost,
    /// A delivery's report is lost, and its job goes back to the queue.
    OutcomeLost,
    /// A job is delivered twice.
    DoubleSend,
    /// The engine's timer is not set any more, now and then.
    TimerDropped,
    /// The recipients of a transaction that was reset stay in the envelope.
    EnvelopeKept,
    /// A message is dropped when its first recipient is settled.
    DiscardEarly,
    /// A connection that must have TLS goes on without.
    TlsForgotten,
    /// Nothing ever expires.
    ExpiryForgotten,
    /// A failure report is thrown away.
    ReportLost,
    /// A deferral is taken for a delivery.
    FalseDelivery,
    /// A message is stored, and the client hears that it is not.
    RefusedButKept,
    /// A reply is swallowed.
    ReplyLost,
    /// One octet of a body changes on its way out.
    BodyDamaged,
    /// The limit of connections to a receiver does not hold.
    LaneLimitForgotten,
    /// Retries come ten times too early.
    RetryEarly,
    /// A message is forgotten at recovery.
    RecoverySkips,
    /// A recipient of a message with several is forgotten.
    RecipientDropped,
    /// A certificate that must be verified is not.
    CertificateForgotten,
    /// What the zone says of a host's certificate is not asked for.
    DaneForgotten,
    /// REQUIRETLS is forgotten at acceptance.
    RequireTlsForgotten,
    /// A message is not held until its release.
    ReleaseForgotten,
    /// What is in doubt is tried again, where it is to be held.
    DoubtForgotten,
    /// AUTH is offered before TLS.
    LoginInClear,
    /// All lanes share one connection.
    LaneStarved,
    /// A lane forgets the policy of its domain.
    PolicyForgotten,
    /// A policy is read as if it named any host.
    PolicyMisread,
    /// A restart forgets what was kept.
    KeptForgotten,
    /// What was counted is forgotten when the report is sent, but not on the disk.
    CountKept,
    /// Mail leaves under its sender's own address.
    ReturnPathForgotten,
    /// When a message is to be delivered by is forgotten at acceptance.
    DeadlineForgotten,
    /// The relay thinks that it has all the memory there is.
    RoomForgotten,
}

impl Plant {
    /// In so many worlds it must be found.
    #[must_use]
    pub fn seeds_max(self) -> u64 {
        match self {
            Self::LaneStarved
            | Self::PolicyForgotten
            | Self::PolicyMisread
            | Self::KeptForgotten
            | Self::CountKept
            | Self::ReturnPathForgotten
            | Self::DeadlineForgotten
            | Self::RoomForgotten
            | Self::CertificateForgotten
            | Self::DaneForgotten
            | Self::RequireTlsForgotten => 400,
            Self::ReleaseForgotten | Self::DoubtForgotten | Self::LoginInClear => 100,
            Self::ExpiryForgotten | Self::TlsForgotten | Self::RecoverySkips => 60,
            Self::AckBeforeSync
            | Self::OutcomeNoteLost
            | Self::OutcomeLost
            | Self::DoubleSend
            | Self::TimerDropped
            | Self::EnvelopeKept
            | Self::DiscardEarly
            | Self::ReportLost
            | Self::FalseDelivery
            | Self::RefusedButKept
            | Self::ReplyLost
            | Self::BodyDamaged
            | Self::LaneLimitForgotten
            | Self::RetryEarly
            | Self::RecipientDropped => 20,
        }
    }

    /// The one of this name, as `Debug` writes it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let same = |plant: &Self| format!("{plant:?}").eq_ignore_ascii_case(name);
        Self::ALL.into_iter().find(same)
    }

    /// All of them.
    pub const ALL: [Self; 32] = [
        Self::AckBeforeSync,
        Self::OutcomeNoteLost,
        Self::OutcomeLost,
        Self::DoubleSend,
        Self::TimerDropped,
        Self::EnvelopeKept,
        Self::DiscardEarly,
        Self::TlsForgotten,
        Self::ExpiryForgotten,
        Self::ReportLost,
        Self::FalseDelivery,
        Self::RefusedButKept,
        Self::ReplyLost,
        Self::BodyDamaged,
        Self::LaneLimitForgotten,
        Self::RetryEarly,
        Self::RecoverySkips,
        Self::RecipientDropped,
        Self::CertificateForgotten,
        Self::DaneForgotten,
        Self::RequireTlsForgotten,
        Self::ReleaseForgotten,
        Self::DoubtForgotten,
        Self::LoginInClear,
        Self::LaneStarved,
        Self::PolicyForgotten,
        Self::PolicyMisread,
        Self::KeptForgotten,
        Self::CountKept,
        Self::ReturnPathForgotten,
        Self::DeadlineForgotten,
        Self::RoomForgotten,
    ];
}
