//! TLSA records against certificates: `relay_core::channel::Associations`.

use std::sync::{Arc, OnceLock};

use relay_core::channel::{Associations, CertificateDer, ClientTls};
use relay_core::dns::Tlsa;
use relay_core::time::UnixTime;

/// Within the life of the certificates of the corpus.
const NOW: UnixTime = UnixTime::from_secs(1_900_000_000);

/// RDATA and certificates, each after its length in two octets; the first octet says how many of them are
/// RDATA. What is judged by the records does not depend on their order, and not on those that cannot be
/// used; and only what a record names is verified.
pub fn tlsa(data: &[u8]) {
    let Some((&count, mut rest)) = data.split_first() else {
        return;
    };
    let mut parts = Vec::new();
    while let Some((&length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(length)).min(tail.len());
        let (part, tail) = tail.split_at(length);
        parts.push(part);
        rest = tail;
    }
    let (rdata, chain) = parts.split_at(usize::from(count % 8).min(parts.len()));
    let mut records: Vec<Tlsa> = rdata.iter().copied().filter_map(Tlsa::from_rdata).collect();
    assert_eq!(
        records.len(),
        rdata.iter().filter(|part| part.len() >= 3).count()
    );
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|&part| part.into()).collect();

    let verified = judge(&records, &chain);
    records.reverse();
    assert_eq!(judge(&records, &chain), verified);
    records.push(Tlsa {
        usage: 1,
        selector: 0,
        matching: 0,
        data: vec![0x30, 0],
    });
    assert_eq!(judge(&records, &chain), verified);
    if verified == Some(true) {
        // A record of usage 3 is about the leaf alone; one of usage 2 needs the host's name too.
        let alone = judge(&records, &chain[..1]);
        let anchored = records.iter().any(|record| record.usage == 2);
        assert!(alone == Some(true) || anchored);
        assert_eq!(judge(&records, &[]), Some(false));
    }
    for record in &records {
        let fields = format!("{} {} {} ", record.usage, record.selector, record.matching);
        let shown = record.to_string();
        let hex = shown.strip_prefix(&fields).expect("its fields");
        assert_eq!(hex.len(), record.data.len() * 2);
    }
}

/// Whether the chain is verified for `mx.example.net`; none if no record can be used.
fn judge(records: &[Tlsa], chain: &[CertificateDer<'_>]) -> Option<bool> {
    static TLS: OnceLock<Arc<ClientTls>> = OnceLock::new();
    let tls = TLS.get_or_init(|| ClientTls::new(Vec::new()).expect("no roots of our own"));
    let usable = Associations::usable(records)?;
    let verdict = usable.judge(tls, chain, &["mx.example.net"], NOW);
    Some(verdict.is_verified())
}
