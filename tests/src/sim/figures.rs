//! What a run counts.

/// What a run counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Transactions that clients began.
    pub begun: u64,
    /// Those with a 250.
    pub acknowledged: u64,
    /// Those refused.
    pub refused: u64,
    /// Those whose answer never came.
    pub in_doubt: u64,
    /// Messages that receivers took, reports included.
    pub received: u64,
    /// Recipients delivered more than once, with an excuse.
    pub duplicates: u64,
    /// Recipients bounced or expired.
    pub failed: u64,
    /// Reports that receivers took.
    pub reports: u64,
    /// TLS-RPT reports that receivers took.
    pub tls_reports: u64,
    /// Times that the relay died.
    pub crashes: u64,
    /// Recipients held because their delivery was in doubt.
    pub held: u64,
    /// Calls of the disk that failed.
    pub disk_faults: u64,
}

impl Figures {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.in_doubt += other.in_doubt;
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.failed += other.failed;
        self.reports += other.reports;
        self.tls_reports += other.tls_reports;
        self.crashes += other.crashes;
        self.held += other.held;
        self.disk_faults += other.disk_faults;
    }
}
