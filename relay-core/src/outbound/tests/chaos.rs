//! Hosts that do anything at any time: whatever they do, every recipient has one true outcome.

use proptest::prelude::*;

use super::sink::Act;
use super::tls::Authority;
use super::*;

/// What a host may do instead of what it should.
fn acts() -> impl Strategy<Value = Vec<Act>> {
    let reply = prop_oneof![
        6 => "(250|250|220|354|421|450|451|452|503|530|550|552|554) [24]\\.[0-9]\\.[0-9] [a-z]{0,9}\r\n",
        2 => "250-[a-z]{0,4}\r\n250 [A-Z]{0,9}\r\n",
        1 => "[0-9]{2,4}[ -]?[a-z\r\n]{0,5}\r?\n",
    ];
    let wait = (0u64..700).prop_map(|secs| Act::Wait(Duration::from_secs(secs)));
    let end = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Act::Close)),
        1 => Just(Some(Act::Reset)),
        1 => Just(Some(Act::Mute)),
    ];
    // One reply to a command: who says two is misunderstood by everybody.
    let wait = prop::option::weighted(0.2, wait);
    let reply = prop::option::weighted(0.8, reply.prop_map(Act::Say));
    (wait, reply, end)
        .prop_map(|(wait, reply, end)| [wait, reply, end].into_iter().flatten().collect())
}

fn scripts() -> impl Strategy<Value = Script> {
    let commands = [
        "ehlo", "starttls", "tls:ehlo", "mail", "rcpt", "data", "body", ".", "rset",
    ];
    let entry = (
        prop::sample::select(commands.to_vec()),
        prop::option::of(1usize..3),
        acts(),
    );
    let greeting = prop_oneof![6 => Just(None), 1 => acts().prop_map(Some)];
    let offers = prop::sample::subsequence(
        vec![
            "PIPELINING",
            "8BITMIME",
            "STARTTLS",
            "DSN",
            "LIMITS RCPTMAX=2 MAILMAX=2",
        ],
        0..5,
    );
    (greeting, offers, prop::collection::vec(entry, 0..4)).prop_map(|(greeting, offers, on)| {
        let mut script = Script::default().offers(&offers);
        script.greeting = greeting.unwrap_or(script.greeting);
        script.on = on
            .into_iter()
            .map(|(name, left, acts)| (name.into(), left, acts))
            .collect();
        script
    })
}

/// Which messages a host took for whom, as far as its own replies say: 2yz and nothing odd before it.
fn taken_by(world: &World) -> Vec<(String, bool)> {
    let hosts = world.hosts.values().filter_map(|host| match host {
        Host::Sink(sink) => Some(sink.taken()),
        Host::Refuses(_) | Host::Other(_) => None,
    });
    hosts
        .flatten()
        .flat_map(|taken| {
            let tls = taken.tls;
            taken
                .rcpts
                .into_iter()
                .map(move |rcpt| (rcpt, tls))
                .collect::<Vec<_>>()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_recipient_has_one_true_outcome(
        first in scripts(),
        second in scripts(),
        jobs in prop::collection::vec((1usize..6, any::<bool>(), 1usize..60_000), 1..4),
        level in prop::sample::select(vec![TlsLevel::Opportunistic, TlsLevel::Require]),
        chunk in prop::sample::select(vec![1usize, 7, 100_000]),
        seed in any::<u64>(),
    ) {
        thread_local! {
            static AUTHORITY: Authority = Authority::new();
        }
        let (client, tls) = AUTHORITY.with(|authority| (authority.client(), authority.good()));
        let with_tls = |script: Script| Script { tls: Some(Arc::clone(&tls)), ..script };
        let mut world = World::new()
            .level(level)
            .lane(&["mx1.example.net:10", "mx2.example.net:20"])
            .host("mx1.example.net", "93.184.216.1", with_tls(first))
            .host("mx2.example.net", "93.184.216.2", with_tls(second));
        world.tls = client;
        world.chunk = chunk;
        world.seed = seed;
        for (number, (count, spooled, len)) in jobs.iter().enumerate() {
            let recipients = (0..*count).map(|n| format!("u{n}@job{number}.example.net")).collect();
            let body = b"line\r\n".repeat(len / 6);
            world = world.mail(&Mail { recipients, spooled: *spooled, ..Mail::with_body(&body) });
        }
        let run = world.run();
        prop_assert!(run.took < Duration::from_secs(24 * 3600), "{run:?}");
        let taken = taken_by(&world);
        if level == TlsLevel::Require {
            prop_assert!(taken.iter().all(|(_, tls)| *tls), "{taken:?}");
        }
        for (number, report) in run.reports.iter().enumerate() {
            let (Report::Tried(tried) | Report::Unreachable(tried)) = report else { panic!() };
            let indexes: Vec<u32> = tried.outcomes.iter().map(|(index, _)| *index).collect();
            prop_assert_eq!(indexes, (0..jobs[number].0 as u32).collect::<Vec<_>>());
            for (index, outcome) in &tried.outcomes {
                let name = format!("u{index}@job{number}.example.net");
                let times = taken.iter().filter(|(rcpt, _)| rcpt.contains(&name)).count();
                match fate(outcome) {
                    'd' => prop_assert_eq!(times, 1, "{}: {:?}", name, run),
                    '?' => prop_assert!(times <= 1, "{}: {:?}", name, run),
                    _ => prop_assert_eq!(times, 0, "{}: {:?}", name, run),
                }
            }
        }
    }
}
