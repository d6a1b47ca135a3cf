//! The answers of Kubernetes' own cron parser, line by line: `zone|start|expression|next four ticks`.
//!
//! In place of the ticks, `ERR` stands for an expression that is refused and `never` for one that does not come due.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::problem::Kind;
use model::schedule::Schedule;

const VECTORS: &str = include_str!("cron-vectors.txt");

struct Vector {
    zone: &'static str,
    start: Timestamp,
    expression: &'static str,
    expected: &'static str,
}

fn vectors() -> impl Iterator<Item = Vector> {
    VECTORS.lines().map(|line| {
        let [zone, start, expression, expected] = line.split('|').collect::<Vec<_>>()[..] else {
            panic!("{line} does not have 4 columns");
        };
        Vector { zone, start: start.parse().unwrap(), expression, expected }
    })
}

impl Vector {
    fn answer(&self) -> String {
        let schedule = match Schedule::parse(self.expression, self.zone) {
            Ok(schedule) => schedule,
            Err(problem) => {
                assert_eq!(problem.kind, Kind::Invalid);
                return "ERR".into();
            }
        };
        let ticks = std::iter::successors(schedule.next_after(self.start), |tick| schedule.next_after(*tick));
        let ticks: Vec<String> = ticks.take(4).map(|tick| tick.to_string()).collect();
        if ticks.is_empty() { "never".into() } else { ticks.join(",") }
    }
}

#[test]
fn every_vector_holds() {
    let wrong: Vec<String> = vectors()
        .filter_map(|vector| {
            let answer = vector.answer();
            let Vector { zone, start, expression, expected } = vector;
            (answer != expected).then(|| format!("{zone}|{start}|{expression}|{expected}\n  got {answer}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} vectors do not hold:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(vectors().count(), 6636);
}

#[test]
fn the_latest_tick_up_to_the_last_of_a_vector_is_that_one() {
    for vector in vectors().filter(|vector| vector.expected.contains(',')) {
        let schedule = Schedule::parse(vector.expression, vector.zone).unwrap();
        let ticks: Vec<Timestamp> = vector.expected.split(',').map(|tick| tick.parse().unwrap()).collect();
        for tick in &ticks {
            assert_eq!(schedule.latest_between(vector.start, *tick), Some(*tick), "{} {tick}", vector.expression);
        }
        let early = ticks[0].checked_sub(jiff::SignedDuration::from_nanos(1)).unwrap();
        assert_eq!(schedule.latest_between(vector.start, early), None, "{}", vector.expression);
    }
}

#[test]
fn the_vectors_reach_both_changes_of_the_clocks() {
    let mut offsets: Vec<(&str, i32)> = vectors()
        .filter(|vector| vector.expected.contains(','))
        .flat_map(|vector| {
            let zone = TimeZone::get(vector.zone).unwrap();
            vector
                .expected
                .split(',')
                .map(move |tick| (vector.zone, zone.to_offset(tick.parse().unwrap()).seconds()))
                .collect::<Vec<_>>()
        })
        .collect();
    offsets.sort_unstable();
    offsets.dedup();
    for zone in ["Europe/Sofia", "America/New_York"] {
        assert_eq!(offsets.iter().filter(|(name, _)| *name == zone).count(), 2, "{zone}");
    }
}
