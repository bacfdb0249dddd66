//! The simulated world: a thousand small worlds, replays, and the faults that prove the checkers.

use std::time::Duration;

use relay_core::config::TlsLevel;
use relay_tests::sim::{Failure, Manner, Plant, Profile, World, run_seed, run_seeds};

/// How many worlds this test runs, without optimisation. `sim --seeds N` runs more, and CI a thousand.
const WORLDS: u64 = 60;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[test]
fn no_promise_is_broken_in_many_worlds() {
    let mut wrong = Vec::new();
    run_seeds(1, WORLDS, threads(), None, |outcome| {
        if let Some(why) = outcome.wrong {
            wrong.push(format!(
                "seed {}: {why}\n{}",
                outcome.seed,
                outcome.story.join("\n")
            ));
        }
        wrong.is_empty()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Worlds that found something once: a store that was full refused for ever when the queue was empty
/// (462), also when something else happened at the very time of the look (4442); status with jobs of
/// removed messages (2019); an id that was given twice after the clock went back (3206); a read that failed
/// during recovery left octets that passed for the file's at the next try (11109); a job that stayed with
/// hosts that fail though its domain had moved (24530); a damaged body that was tried until its time was
/// over (26043); a job that went without the policy that was learnt while it was ready (41290).
#[test]
fn what_was_found_once_is_not_there_again() {
    for seed in [462, 2019, 3206, 4442, 11109, 24530, 26043, 41290] {
        let outcome = run_seed(seed, None);
        assert_eq!(outcome.wrong, None, "seed {seed}: {:#?}", outcome.story);
    }
}

#[test]
fn a_seed_replays_octet_for_octet() {
    for seed in [3, 71, 1234] {
        let (first, second) = (run_seed(seed, None), run_seed(seed, None));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
        assert_ne!(first.hash, run_seed(seed + 1, None).hash);
    }
}

#[test]
fn planted_faults_are_found_in_few_worlds() {
    // Those that need many worlds are for the optimised binary: `sim --plants`, in CI with one round.
    let quick = |plant: &Plant| plant.seeds_max() <= 20;
    for plant in Plant::ALL.into_iter().filter(quick) {
        let mut found = None;
        let mut tried = 0;
        run_seeds(1, plant.seeds_max(), threads(), Some(plant), |outcome| {
            tried += 1;
            found = outcome.wrong.or(found.take());
            found.is_none()
        });
        assert!(found.is_some(), "{plant:?} was not found in {tried} worlds");
    }
}

#[test]
fn a_failure_reads_back_and_runs_again() {
    let plant = Some(Plant::DoubleSend);
    let outcome = (1..100)
        .map(|seed| run_seed(seed, plant))
        .find(|outcome| outcome.wrong.is_some())
        .unwrap();
    let failure = Failure::new(&outcome, plant, "0123abcd".to_owned());
    let text = failure.write(&outcome);
    assert_eq!(Failure::parse(&text), Some(failure.clone()));
    assert!(text.contains(outcome.wrong.as_deref().unwrap()), "{text}");
    assert!(text.contains(outcome.story.last().unwrap()), "{text}");
    assert_eq!(run_seed(failure.seed, failure.plant).hash, failure.hash);
}

/// Worlds under TLS: every certificate there is, broken handshakes, logins on both sides, DANE.
#[test]
fn tls_is_never_less_than_what_is_asked_for() {
    for level in [TlsLevel::Opportunistic, TlsLevel::Require, TlsLevel::Verify] {
        let profile = Profile {
            hosts: vec![Manner::Healthy; 4],
            messages: 8,
            delivery_tls: level,
            host_tls_per_mille: 800,
            bad_tls_per_mille: 500,
            dane: true,
            smart_host: Some(Manner::Healthy),
            smart_tls: level,
            client_tls_per_mille: 700,
            wishes_per_mille: 300,
            dns_truncated_per_mille: 200,
            ..Profile::calm()
        };
        for seed in 0..6 {
            let outcome = World::with(seed, profile.clone()).run();
            assert_eq!(
                outcome.wrong, None,
                "{level:?} seed {seed}: {:#?}",
                outcome.story
            );
            assert!(outcome.figures.acknowledged > 0);
        }
    }
}

/// Policies and who serves them come and go over three days, with restarts: nothing is sent where a policy
/// forbids it, and each day is told of once.
#[test]
fn policies_hold_over_days_and_restarts() {
    let mut told = 0;
    for seed in 0..4 {
        let profile = Profile {
            duration: Duration::from_secs(72 * 3600),
            hosts: vec![Manner::Healthy; 4],
            messages: 20,
            restarts: 3,
            host_tls_per_mille: 800,
            bad_tls_per_mille: 300,
            sts: true,
            sts_changes: 30 * (seed % 2),
            ..Profile::calm()
        };
        let outcome = World::with(seed, profile).run();
        assert_eq!(outcome.wrong, None, "seed {seed}: {:#?}", outcome.story);
        assert!(outcome.figures.acknowledged > 0);
        told += outcome.figures.tls_reports;
    }
    assert!(told > 0, "reports by mail");
}

/// Return paths, deadlines, and a machine with little memory.
#[test]
fn every_sender_is_a_return_path_and_every_deadline_is_kept() {
    let profile = Profile {
        hosts: vec![Manner::Moody, Manner::Greylisting, Manner::Down],
        messages: 10,
        kills: 1,
        return_path: true,
        deadlines_per_mille: 600,
        small: true,
        ..Profile::calm()
    };
    for seed in 0..8 {
        let outcome = World::with(seed, profile.clone()).run();
        assert_eq!(outcome.wrong, None, "seed {seed}: {:#?}", outcome.story);
        assert!(outcome.figures.reports > 0);
    }
}

/// The worked example of `tests/README.md`: a world in 30 lines.
#[test]
fn a_dead_host_costs_its_own_mail_only() {
    let profile = Profile {
        hosts: vec![Manner::Healthy, Manner::Down],
        clients: 3,
        messages: 10,
        kills: 1,
        ..Profile::calm()
    };
    for seed in 0..10 {
        let outcome = World::with(seed, profile.clone()).run();
        assert_eq!(outcome.wrong, None, "seed {seed}: {:#?}", outcome.story);
        assert!(outcome.figures.acknowledged > 0);
        assert_eq!(outcome.figures.disk_faults, 0);
    }
}
