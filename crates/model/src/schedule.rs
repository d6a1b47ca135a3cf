//! When a data job runs: cron expressions with the meaning that Kubernetes gives them.
//!
//! The grammar is the standard one of [robfig/cron v3](https://pkg.go.dev/github.com/robfig/cron/v3), which the
//! [CronJob](https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax) controller reads
//! schedules with. Both what is accepted and which instants come out are meant to be equal to it, also where a zone
//! changes its clocks; `tests/cron-vectors.txt` holds its answers. One difference is on purpose: a negative `@every`
//! is refused here, and means every second there.

use std::time::Duration;

use jiff::civil::{DateTime, Time};
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan};

use crate::name::excerpt;
use crate::{Problem, problem::Code};

/// A cron expression in a time zone: a rule for when the next run is due.
///
/// ```
/// use model::schedule::Schedule;
///
/// let schedule = Schedule::parse("30 2 * * MON-FRI", "Europe/Sofia")?;
/// let friday: jiff::Timestamp = "2024-03-08T12:00:00Z".parse().unwrap();
/// assert_eq!(schedule.next_after(friday).unwrap().to_string(), "2024-03-11T00:30:00Z");
/// # Ok::<(), model::Problem>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    expression: String,
    zone_name: String,
    zone: TimeZone,
    rule: Rule,
}

/// The parsed form of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// The instants at which the wall clock of the zone shows what the five fields ask for.
    Wall(Fields),
    /// A fixed number of seconds after the last one, at least 1.
    Every(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    minutes: Values,
    hours: Values,
    days: Values,
    months: Values,
    weekdays: Values,
}

/// The values that a field names: bit `n` stands for `n`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Values {
    bits: u64,
    /// Whether the field has a star (or a question mark) without a step above 1.
    starred: bool,
}

/// Why an expression is refused, and what to write instead.
struct ConfigIssue {
    why: String,
    fix: String,
}

impl Schedule {
    /// The most characters that an expression has: enough to write out every value of every field.
    pub const MAX_CHARS: usize = 512;

    /// Reads an expression. Its times are on the wall clock of `default_zone`, the name of an IANA time zone, unless it
    /// names another one itself.
    ///
    /// An expression is one of:
    /// - five fields: minute (0 to 59), hour (0 to 23), day of the month (1 to 31), month (1 to 12 or `JAN` to `DEC`)
    ///   and day of the week (0 to 6 or `SUN` to `SAT`). A field is `*` or `?` for any value, a value, a range `2-5`, a
    ///   step `*/15`, `10-40/10` or `5/15` (from 5 on), or a list of these with commas. When both day fields are
    ///   restricted, either may match; a field with a star does not restrict.
    /// - `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`, `@midnight` or `@hourly`.
    /// - `@every` and a duration such as `1h30m`, in the syntax of
    ///   [Go](https://pkg.go.dev/time#ParseDuration), cut to whole seconds and at least one.
    ///
    /// It may be preceded by `TZ=` or `CRON_TZ=`, a time zone name and a space.
    ///
    /// [`crate::problem::Kind::Invalid`] says which part is wrong. An expression that is well-formed may still never
    /// come due, such as `0 0 30 2 *`.
    pub fn parse(expression: &str, default_zone: &str) -> Result<Self, Problem> {
        Self::read(expression, default_zone).map_err(|issue| {
            Problem::new(
                Code::ScheduleInvalid,
                format!("The schedule {} is not valid.", excerpt(expression)),
                issue.why,
            )
            .nothing_changed()
            .fix(issue.fix)
        })
    }

    fn read(raw: &str, default_zone: &str) -> Result<Self, ConfigIssue> {
        let length = raw.chars().count();
        if length > Self::MAX_CHARS {
            return Err(ConfigIssue {
                why: format!("A schedule has at most {} characters; this one has {length}.", Self::MAX_CHARS),
                fix: "Write ranges and steps in place of long lists, for example \"*/5\".".into(),
            });
        }
        let (named, text) = split_zone(raw)?;
        let zone_name = match named {
            // Upstream's meaning of an absent name and of its own name for the local zone.
            Some("") => "UTC",
            Some("Local") | None => default_zone,
            Some(name) => name,
        };
        Ok(Self {
            expression: text.trim().to_owned(),
            zone_name: zone_name.to_owned(),
            zone: find_zone(zone_name)?,
            rule: Rule::read(text)?,
        })
    }

    /// The expression as it was given, without a time zone before it and without white space around it.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The name of the time zone whose wall clock counts: the one that the expression names, or else the default.
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// The first tick strictly after an instant, on a whole second. `None` when the next five years have none.
    ///
    /// `@every` counts from the instant itself, without its fraction of a second.
    pub fn next_after(&self, instant: Timestamp) -> Option<Timestamp> {
        let second = whole_seconds(instant);
        let tick = match &self.rule {
            Rule::Wall(fields) => fields.next_after(second, &self.zone)?,
            Rule::Every(seconds) => second.checked_add(*seconds)?,
        };
        Timestamp::from_second(tick).ok()
    }

    /// The last tick after `after` and not after `until`: which one of several missed ticks to catch up on.
    ///
    /// It is where going from tick to tick with [`Self::next_after`] from `after` on ends, found with bounded work
    /// however far the two are apart.
    pub fn latest_between(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let (start, end) = (whole_seconds(after), whole_seconds(until));
        let tick = match &self.rule {
            Rule::Wall(fields) => fields.latest_between(start, end, &self.zone)?,
            Rule::Every(seconds) => {
                let ticks = end.checked_sub(start)?.div_euclid(*seconds);
                (ticks > 0).then_some(start + ticks * seconds)?
            }
        };
        Timestamp::from_second(tick).ok()
    }
}

/// Seconds since the Unix epoch, rounded down.
fn whole_seconds(instant: Timestamp) -> i64 {
    instant.as_second() - i64::from(instant.subsec_nanosecond() < 0)
}

// ---- Reading ----

/// The time zone named before an expression, if any, and the rest.
fn split_zone(raw: &str) -> Result<(Option<&str>, &str), ConfigIssue> {
    let Some(rest) = raw.strip_prefix("TZ=").or_else(|| raw.strip_prefix("CRON_TZ=")) else {
        return Ok((None, raw));
    };
    let Some((name, text)) = rest.split_once(' ') else {
        return Err(ConfigIssue {
            why: "Nothing follows the time zone.".into(),
            fix: "Write the zone, a space and the schedule, for example \"TZ=Europe/Sofia 30 2 * * *\".".into(),
        });
    };
    Ok((Some(name), text.trim()))
}

fn find_zone(name: &str) -> Result<TimeZone, ConfigIssue> {
    let issue = |why: String| ConfigIssue {
        why,
        fix: "Take a name of the IANA time zone database, for example \"Europe/Sofia\" or \"UTC\".".into(),
    };
    let zone = TimeZone::get(name).ok().filter(|zone| !zone.is_unknown());
    let zone = zone.ok_or_else(|| issue(format!("There is no time zone {}.", excerpt(name))))?;
    match zone.iana_name() {
        // The look-up ignores case, unlike upstream.
        Some(proper) if proper != name => {
            Err(issue(format!("There is no time zone {}; it is written {proper:?}.", excerpt(name))))
        }
        _ => Ok(zone),
    }
}

impl Rule {
    fn read(text: &str) -> Result<Self, ConfigIssue> {
        if let Some(duration) = text.strip_prefix("@every ") {
            let why = match read_duration(duration) {
                Some(length) => return Ok(Self::Every(i64::try_from(length.as_secs()).unwrap_or(i64::MAX).max(1))),
                None if duration.starts_with('-') => format!("The interval {} is negative.", excerpt(duration)),
                None => format!("The interval {} is not a duration.", excerpt(duration)),
            };
            let fix = "Write whole hours, minutes and seconds, for example \"@every 1h30m\" or \"@every 45s\".".into();
            return Err(ConfigIssue { why, fix });
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ if text.trim_start().starts_with('@') => {
                return Err(ConfigIssue {
                    why: format!("There is no {}.", excerpt(text)),
                    fix: "Write \"@yearly\", \"@annually\", \"@monthly\", \"@weekly\", \"@daily\", \"@midnight\" or \
                          \"@hourly\" in lower case with no space around it, or for example \"@every 1h30m\"."
                        .into(),
                });
            }
            _ => text,
        };
        Fields::read(fields).map(Self::Wall)
    }
}

/// The accepted values of one of the five fields.
struct Grammar {
    name: &'static str,
    least: u8,
    most: u8,
    /// Other spellings of the values, from the least one on.
    words: &'static [&'static str],
    hint: &'static str,
}

const MINUTE: Grammar = Grammar {
    name: "minute",
    least: 0,
    most: 59,
    words: &[],
    hint: "Write minutes from 0 to 59, for example \"30\", \"0,30\" or \"*/15\".",
};

const HOUR: Grammar = Grammar {
    name: "hour",
    least: 0,
    most: 23,
    words: &[],
    hint: "Write hours from 0 to 23, for example \"2\", \"9-17\" or \"*/6\".",
};

const DAY: Grammar = Grammar {
    name: "day of the month",
    least: 1,
    most: 31,
    words: &[],
    hint: "Write days from 1 to 31, for example \"1\", \"1,15\" or \"*\"; there is no \"L\" (last day) and no \"W\" \
           (weekday).",
};

const MONTH: Grammar = Grammar {
    name: "month",
    least: 1,
    most: 12,
    words: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    hint: "Write months from 1 to 12 or from JAN to DEC, for example \"6\", \"JAN-MAR\" or \"*/3\".",
};

const WEEKDAY: Grammar = Grammar {
    name: "day of the week",
    least: 0,
    most: 6,
    words: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    hint: "Write days of the week from 0 (Sunday, never 7) to 6 (Saturday) or from SUN to SAT, for example \"1-5\" or \
           \"SAT,SUN\"; there is no \"L\" (last) and no \"#\" (the n-th of the month).",
};

impl Fields {
    fn read(text: &str) -> Result<Self, ConfigIssue> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            let count = match parts.len() {
                0 => "no fields".to_owned(),
                1 => "1 field".to_owned(),
                count => format!("{count} fields"),
            };
            return Err(ConfigIssue {
                why: format!(
                    "It has {count}; a schedule has 5: minute, hour, day of the month, month, day of the week."
                ),
                fix: "Write for example \"30 2 * * 1-5\" for 02:30 from Monday to Friday; there are no fields for \
                      seconds and years."
                    .into(),
            });
        };
        Ok(Self {
            minutes: MINUTE.read(minute)?,
            hours: HOUR.read(hour)?,
            days: DAY.read(day)?,
            months: MONTH.read(month)?,
            weekdays: WEEKDAY.read(weekday)?,
        })
    }
}

impl Grammar {
    /// Reads a list. Empty entries don't count, not even when they are all there is: such a field never matches.
    fn read(&self, list: &str) -> Result<Values, ConfigIssue> {
        let mut all = Values::default();
        for entry in list.split(',').filter(|entry| !entry.is_empty()) {
            let values = self.read_entry(entry).map_err(|why| ConfigIssue {
                why: format!("In the field of the {}, {why}.", self.name),
                fix: self.hint.into(),
            })?;
            all.bits |= values.bits;
            all.starred |= values.starred;
        }
        Ok(all)
    }

    fn read_entry(&self, entry: &str) -> Result<Values, String> {
        let (range, step) = match entry.split_once('/') {
            Some((_, step)) if step.contains('/') => return Err(format!("{} has more than one slash", excerpt(entry))),
            Some((range, step)) => (range, Some(step)),
            None => (entry, None),
        };
        let mut ends = range.split('-');
        let first = ends.next().unwrap_or_default();
        let any = matches!(first, "*" | "?");
        let (low, high) = if any {
            // Upstream ignores the end of a range that begins with a star.
            (i64::from(self.least), i64::from(self.most))
        } else {
            let low = self.number(first)?;
            match (ends.next(), ends.next()) {
                (None, _) if step.is_some() => (low, i64::from(self.most)),
                (None, _) => (low, low),
                (Some(last), None) => (low, self.number(last)?),
                (Some(_), Some(_)) => return Err(format!("{} has more than one hyphen", excerpt(entry))),
            }
        };
        let step = step.map_or(Ok(1), |step| number(step).ok_or(step));
        let step = step.map_err(|step| format!("the step {} is not a number", excerpt(step)))?;

        for end in [low, high] {
            if !(i64::from(self.least)..=i64::from(self.most)).contains(&end) {
                return Err(format!("{end} is not from {} to {}", self.least, self.most));
            }
        }
        if low > high {
            return Err(format!("the range {} ends before it starts", excerpt(range)));
        }
        if step == 0 {
            return Err(format!("the step of {} is 0", excerpt(entry)));
        }
        let mut values = Values { bits: 0, starred: any && step == 1 };
        let mut value = low;
        while value <= high {
            values.bits |= 1 << value;
            value = value.saturating_add(step);
        }
        Ok(values)
    }

    /// A value as a number or a word.
    fn number(&self, text: &str) -> Result<i64, String> {
        let word = self.words.iter().zip(i64::from(self.least)..).find(|(word, _)| text.eq_ignore_ascii_case(word));
        let value = word.map(|(_, value)| value).or_else(|| number(text));
        value.ok_or_else(|| match self.words {
            [] => format!("{} is not a number", excerpt(text)),
            _ => format!("{} is neither a number nor a name of three letters", excerpt(text)),
        })
    }
}

/// A number that is not negative; a plus sign before it is fine.
fn number(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number| *number >= 0)
}

/// A duration as Go writes it: `1h30m`, `1.5h`, `90s`, `+2h`, `0`. `None` when it is not one, negative, or above the 292
/// years that 63 bits of nanoseconds hold.
fn read_duration(text: &str) -> Option<Duration> {
    const LIMIT: u64 = 1 << 63;
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = rest.split_at(digits(rest));
        let fraction = after.strip_prefix('.').map_or("", |after| &after[..digits(after)]);
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let after = after.strip_prefix('.').map_or(after, |after| &after[fraction.len()..]);
        let (unit, after) = after.split_at(after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len()));
        let unit: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            _ => return None,
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let part = whole.checked_mul(unit)?.checked_add(part_of(unit, fraction))?;
        total = total.checked_add(part).filter(|total| part <= LIMIT && *total <= LIMIT)?;
        rest = after;
    }
    (total == 0 || !negative && total < LIMIT).then(|| Duration::from_nanos(total))
}

/// How many bytes of digits a text starts with.
fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// The nanoseconds in a decimal fraction of a unit. In floating point and without the digits that 63 bits don't hold, so
/// that it is cut where upstream cuts it.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
fn part_of(unit: u64, fraction: &str) -> u64 {
    let (mut value, mut scale) = (0_u64, 1.0_f64);
    for digit in fraction.bytes() {
        if value > (u64::MAX >> 1) / 10 {
            break;
        }
        let longer = value * 10 + u64::from(digit - b'0');
        if longer > 1 << 63 {
            break;
        }
        value = longer;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

// ---- Ticks ----

impl Values {
    fn have(self, value: i8) -> bool {
        self.bits >> value & 1 == 1
    }
}

/// The units of the wall clock, in the order in which they are brought to match.
#[derive(Clone, Copy)]
enum Unit {
    Month,
    Day,
    Hour,
    Minute,
    Second,
}

impl Unit {
    const ALL: [Self; 5] = [Self::Month, Self::Day, Self::Hour, Self::Minute, Self::Second];
}

impl Fields {
    /// The search ends after the fifth year that follows the one it starts in.
    const YEARS: i16 = 5;

    /// The first tick after a second.
    ///
    /// Unit by unit, from the largest down, the clock moves on until the unit matches. Whenever that takes it into the
    /// next larger unit, everything is looked at again.
    fn next_after(&self, second: i64, zone: &TimeZone) -> Option<i64> {
        if self.is_never() {
            return None;
        }
        let mut clock = WallClock::at(second.checked_add(1)?, zone)?;
        let last_year = clock.shows.year() + Self::YEARS;
        'again: while clock.shows.year() <= last_year {
            for unit in Unit::ALL {
                while !self.match_in(unit, clock.shows) {
                    clock.advance(unit)?;
                    if clock.is_at_first(unit) {
                        continue 'again;
                    }
                }
            }
            return Some(clock.second);
        }
        None
    }

    fn match_in(&self, unit: Unit, shown: DateTime) -> bool {
        match unit {
            Unit::Month => self.months.have(shown.month()),
            Unit::Day => {
                let day = self.days.have(shown.day());
                let weekday = self.weekdays.have(shown.weekday().to_sunday_zero_offset());
                if self.all_days_must_match() { day && weekday } else { day || weekday }
            }
            Unit::Hour => self.hours.have(shown.hour()),
            Unit::Minute => self.minutes.have(shown.minute()),
            Unit::Second => shown.second() == 0,
        }
    }

    fn all_days_must_match(&self) -> bool {
        self.days.starred || self.weekdays.starred
    }

    /// Whether a field without any value makes every search vain.
    fn is_never(&self) -> bool {
        let (no_day, no_weekday) = (self.days.bits == 0, self.weekdays.bits == 0);
        let no_date = if self.all_days_must_match() { no_day || no_weekday } else { no_day && no_weekday };
        no_date || self.minutes.bits == 0 || self.hours.bits == 0 || self.months.bits == 0
    }

    /// The last tick after `after` and not after `until`.
    ///
    /// Where clocks change, which ticks there are depends on where the search starts. So it goes from tick to tick as
    /// far as that is cheap, and only then leaps.
    fn latest_between(&self, after: i64, until: i64, zone: &TimeZone) -> Option<i64> {
        const TICKS_ONE_BY_ONE: usize = 1_000;
        const SPAN_ONE_BY_ONE: i64 = 2 * 24 * 3_600;
        let next = |second| self.next_after(second, zone).filter(|tick| *tick <= until);

        let mut latest = next(after)?;
        for _ in 1..TICKS_ONE_BY_ONE {
            match next(latest) {
                Some(tick) => latest = tick,
                None => return Some(latest),
            }
        }
        // There is a tick after `latest`, or it is the last one; there is none after `end`.
        let mut end = until;
        while end - latest > SPAN_ONE_BY_ONE {
            let middle = latest + (end - latest) / 2;
            match next(middle) {
                Some(tick) => latest = tick,
                None => end = middle,
            }
        }
        while let Some(tick) = next(latest) {
            latest = tick;
        }
        Some(latest)
    }
}

/// A second and what the wall clock of a zone shows then.
///
/// Where clocks change, every move below has the effect that the same move has on a `time.Time` of Go in upstream:
/// the ticks of those days depend on it.
struct WallClock<'a> {
    zone: &'a TimeZone,
    second: i64,
    shows: DateTime,
    /// Whether it still has to be set to the start of the unit in which it moves first.
    untouched: bool,
}

impl<'a> WallClock<'a> {
    const HOUR: i64 = 3_600;

    fn at(second: i64, zone: &'a TimeZone) -> Option<Self> {
        let mut clock = Self { zone, second, shows: DateTime::default(), untouched: true };
        clock.wait_until(second)?;
        Some(clock)
    }

    /// Moves by physical time.
    fn wait_until(&mut self, second: i64) -> Option<()> {
        self.second = second;
        self.shows = self.zone.to_datetime(Timestamp::from_second(second).ok()?);
        Some(())
    }

    /// Moves to a date and a time of the zone. The offset is the one in force when the same date and time come in UTC,
    /// or else the one in force at the second that this leads to. That settles which of two equal times is meant, and
    /// what a time that the zone skips turns into: the time before or after the gap.
    fn turn_to(&mut self, shows: DateTime) -> Option<()> {
        let offset_at = |second| Some(i64::from(self.zone.to_offset(Timestamp::from_second(second).ok()?).seconds()));
        let as_if_utc = Offset::UTC.to_timestamp(shows).ok()?.as_second();
        let second = match offset_at(as_if_utc)? {
            0 => as_if_utc,
            offset => as_if_utc - offset_at(as_if_utc - offset)?,
        };
        self.wait_until(second)
    }

    /// Moves on by one unit: the first time from its start, later from where the clock is.
    fn advance(&mut self, unit: Unit) -> Option<()> {
        if self.untouched {
            self.untouched = false;
            self.rewind(unit)?;
        }
        match unit {
            Unit::Month => {
                let date = self.shows.date();
                let month = date.first_of_month().checked_add(1.month()).ok()?;
                // A day that the month does not have runs over into the one after it.
                let date = month.checked_add((i64::from(date.day()) - 1).days()).ok()?;
                self.turn_to(date.to_datetime(self.shows.time()))
            }
            Unit::Day => self.advance_day(),
            Unit::Hour => self.wait_until(self.second + Self::HOUR),
            Unit::Minute => self.wait_until(self.second + 60),
            Unit::Second => self.wait_until(self.second + 1),
        }
    }

    /// Moves to midnight of the next day. When a change of the clocks gets in between, it is only near it.
    fn advance_day(&mut self) -> Option<()> {
        let before = self.second;
        self.turn_to(self.shows.date().tomorrow().ok()?.to_datetime(self.shows.time()))?;
        match i64::from(self.shows.hour()) {
            0 => {}
            hour @ 13.. => self.wait_until(self.second + (24 - hour) * Self::HOUR)?,
            hour => self.wait_until(self.second - hour * Self::HOUR)?,
        }
        if self.second <= before {
            // The zone skips the whole day, as Samoa did with 30 December 2011. Upstream never gets past it.
            self.wait_until(before + 24 * Self::HOUR)?;
        }
        Some(())
    }

    /// Moves back to the start of the unit.
    fn rewind(&mut self, unit: Unit) -> Option<()> {
        let date = self.shows.date();
        match unit {
            Unit::Month => self.turn_to(date.first_of_month().to_datetime(Time::midnight())),
            Unit::Day => self.turn_to(date.to_datetime(Time::midnight())),
            Unit::Hour => self.turn_to(date.at(self.shows.hour(), 0, 0, 0)),
            Unit::Minute => self.wait_until(self.second - self.second.rem_euclid(60)),
            Unit::Second => Some(()),
        }
    }

    /// Whether the unit started over: the next larger one changed, too.
    fn is_at_first(&self, unit: Unit) -> bool {
        match unit {
            Unit::Month => self.shows.month() == 1,
            Unit::Day => self.shows.day() == 1,
            Unit::Hour => self.shows.hour() == 0,
            Unit::Minute => self.shows.minute() == 0,
            Unit::Second => self.shows.second() == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{Fault, Kind};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(expression: &str, zone: &str) -> Schedule {
        Schedule::parse(expression, zone).unwrap_or_else(|problem| panic!("{expression:?}: {problem}"))
    }

    fn ticks(schedule: &Schedule, start: Timestamp) -> impl Iterator<Item = Timestamp> {
        std::iter::successors(schedule.next_after(start), |tick| schedule.next_after(*tick))
    }

    #[test]
    fn a_bad_expression_is_refused_with_the_part_that_is_wrong() {
        let long = "1,".repeat(300) + "1 * * * *";
        for (bad, part) in [
            ("", "no fields"),
            ("  ", "no fields"),
            ("*", "1 field;"),
            ("* * * *", "4 fields"),
            ("* * * * * *", "6 fields"),
            ("0 0 1 1 * 2025", "6 fields"),
            ("60 * * * *", "minute, 60 is not from 0 to 59"),
            ("-1 * * * *", "minute, \"\" is not a number"),
            ("1.5 * * * *", "minute, \"1.5\" is not a number"),
            ("a * * * *", "minute, \"a\" is not a number"),
            ("H * * * *", "minute, \"H\" is not a number"),
            ("١ * * * *", "minute, \"١\" is not a number"),
            ("99999999999999999999 * * * *", "is not a number"),
            ("0 24 * * *", "hour, 24 is not from 0 to 23"),
            ("*/0 * * * *", "the step of \"*/0\" is 0"),
            ("*/-1 * * * *", "the step \"-1\" is not a number"),
            ("*/ * * * *", "the step \"\" is not a number"),
            ("*/2/2 * * * *", "more than one slash"),
            ("1-2-3 * * * *", "more than one hyphen"),
            ("30-10 * * * *", "the range \"30-10\" ends before it starts"),
            ("0 0 0 * *", "day of the month, 0 is not from 1 to 31"),
            ("0 0 L * *", "day of the month, \"L\""),
            ("0 0 15W * *", "day of the month, \"15W\""),
            ("0 0 * 13 *", "month, 13 is not from 1 to 12"),
            ("0 0 * january *", "month, \"january\" is neither a number nor a name"),
            ("0 0 * * 7", "day of the week, 7 is not from 0 to 6"),
            ("0 0 * * 5-7", "day of the week, 7 is not"),
            ("0 0 * * FRI-MON", "the range \"FRI-MON\" ends"),
            ("0 0 * * 1#2", "day of the week, \"1#2\""),
            ("0 0 * * 5L", "day of the week, \"5L\""),
            ("0 0 * * +MON", "day of the week, \"+MON\""),
            ("@never", "There is no \"@never\""),
            ("@reboot", "There is no \"@reboot\""),
            ("@Daily", "There is no \"@Daily\""),
            ("@daily ", "There is no \"@daily \""),
            (" @daily", "There is no \" @daily\""),
            ("@every", "There is no \"@every\""),
            ("@every ", "\"\" is not a duration"),
            ("@every -1s", "\"-1s\" is negative"),
            ("@every 5", "\"5\" is not a duration"),
            ("@every 1d", "\"1d\" is not a duration"),
            ("@every  5m", "\" 5m\" is not a duration"),
            ("@every 5 minutes", "is not a duration"),
            ("@every .s", "is not a duration"),
            ("@every 2562048h", "is not a duration"),
            ("TZ=UTC", "Nothing follows the time zone"),
            ("TZ=UTC ", "no fields"),
            ("TZ=Mars/Base 0 3 * * *", "no time zone \"Mars/Base\""),
            ("CRON_TZ=Etc/Unknown 0 3 * * *", "no time zone \"Etc/Unknown\""),
            ("TZ=../UTC 0 3 * * *", "no time zone"),
            ("TZ=europe/sofia 0 3 * * *", "it is written \"Europe/Sofia\""),
            ("tz=UTC 0 3 * * *", "6 fields"),
            ("0 0 * * 🦀", "day of the week, \"🦀\""),
            ("0\u{200b}0 * * *", "4 fields"),
            (&long, "at most 512 characters"),
        ] {
            let problem = Schedule::parse(bad, "UTC").unwrap_err();
            assert!(problem.why.contains(part), "{bad:?}: {}", problem.why);
            assert!(problem.what.starts_with(&format!("The schedule {} is", excerpt(bad))), "{}", problem.what);
            assert_eq!((problem.kind, problem.fault), (Kind::Invalid, Fault::User));
            assert!(problem.countermeasures.contains("for example"), "{}", problem.countermeasures);
        }
    }

    #[test]
    fn an_unknown_default_zone_is_refused_unless_the_expression_names_one() {
        for zone in ["", "Local", "Mars/Base", "utc", "/etc/localtime"] {
            let refused = Schedule::parse("0 3 * * *", zone);
            assert!(refused.is_err_and(|problem| problem.why.contains("no time zone")), "{zone}");
            assert!(Schedule::parse("TZ=UTC 0 3 * * *", zone).is_ok(), "{zone}");
        }
    }

    #[test]
    fn a_schedule_remembers_its_expression_and_its_zone() {
        for (raw, expression, zone) in [
            ("0 3 * * *", "0 3 * * *", "Europe/Sofia"),
            (" 0  3 * * * ", "0  3 * * *", "Europe/Sofia"),
            ("TZ=UTC  0 3 * * * ", "0 3 * * *", "UTC"),
            ("CRON_TZ=Asia/Kolkata @daily", "@daily", "Asia/Kolkata"),
            ("TZ= @daily", "@daily", "UTC"),
            ("TZ=Local @daily", "@daily", "Europe/Sofia"),
            ("@every 5m", "@every 5m", "Europe/Sofia"),
        ] {
            let schedule = schedule(raw, "Europe/Sofia");
            assert_eq!((schedule.expression(), schedule.zone()), (expression, zone), "{raw}");
            let again = Schedule::parse(schedule.expression(), schedule.zone()).unwrap();
            assert_eq!(again.next_after(at("2024-01-01T00:00:00Z")), schedule.next_after(at("2024-01-01T00:00:00Z")));
        }
        assert_eq!(schedule("@daily", "UTC"), schedule("TZ=UTC @daily", "Europe/Sofia"));
        assert_ne!(schedule("@daily", "UTC"), schedule("@daily", "Europe/Sofia"));
    }

    #[test]
    fn spellings_of_one_rule_mean_the_same() {
        for (one, other) in [
            ("@yearly", "0 0 1 1 *"),
            ("@annually", "@yearly"),
            ("@monthly", "0 0 1 */1 ?"),
            ("@weekly", "0 0 * * SUN"),
            ("@midnight", "@daily"),
            ("@hourly", "0 * * * *"),
            ("5/15 * * * *", "5,20,35,50 * * * *"),
            ("0-10/4 * * * *", ",,0,4,8, * * * *"),
            ("+5 007 * jan-Mar mOn", "5 7 * 1-3 1"),
            ("*/99999999999 * * * *", "0 * * * *"),
            ("*-3 * * * *", "* * * * *"),
            ("@every 1.5h", "@every 1h30m"),
            ("@every 1m0.999s", "@every 60s"),
            ("@every 1ms", "@every 0"),
            ("@every +1.h.5h", "@every 90m"),
            ("@every 1500000\u{b5}s", "@every 1s"),
        ] {
            assert_eq!(schedule(one, "UTC").rule, schedule(other, "UTC").rule, "{one} and {other}");
        }
    }

    #[test]
    fn days_match_both_ways_with_a_star_and_either_way_without() {
        let start = at("2024-09-01T00:00:00Z");
        for (expression, days) in [
            ("0 0 13 * FRI", [6, 13, 20, 27]),
            ("0 0 */13 * FRI", [6, 13, 14, 20]),
            ("0 0 13,* * FRI", [6, 13, 20, 27]),
            ("0 0 13 * *", [13, 13, 13, 13]),
            ("0 0 13 * */2", [3, 5, 7, 8]),
            ("0 0 , * FRI", [6, 13, 20, 27]),
        ] {
            let found: Vec<i8> = ticks(&schedule(expression, "UTC"), start)
                .take(4)
                .map(|tick| tick.to_zoned(TimeZone::UTC).day())
                .collect();
            assert_eq!(found, days, "{expression}");
        }
    }

    #[test]
    fn the_search_ends_after_five_years() {
        for expression in ["0 0 30 2 *", "0 0 31 4,6,9,11 ?", ", * * * *", "* , * * *", "* * * , *", "* * , * *"] {
            let schedule = schedule(expression, "Europe/Sofia");
            assert_eq!(schedule.next_after(at("2024-03-09T10:00:00Z")), None, "{expression}");
            assert_eq!(schedule.latest_between(Timestamp::MIN, Timestamp::MAX), None, "{expression}");
        }
        let leap_day = schedule("0 0 29 2 *", "UTC");
        assert_eq!(leap_day.next_after(at("2098-12-31T23:59:58Z")), None);
        assert_eq!(leap_day.next_after(at("2098-12-31T23:59:59Z")), Some(at("2104-02-29T00:00:00Z")));
    }

    #[test]
    fn no_tick_is_later_than_the_last_representable_time() {
        for expression in ["* * * * *", "0 0 1 1 *", "@every 1h"] {
            assert_eq!(schedule(expression, "Asia/Kolkata").next_after(Timestamp::MAX), None, "{expression}");
        }
    }

    /// Results of upstream where clocks change at midnight, by half an hour, or by a day.
    #[test]
    fn changes_of_the_clocks_have_the_same_effects_as_upstream() {
        for (zone, start, expression, expected) in [
            // Midnight of 4 November is skipped, and the day with it.
            ("America/Sao_Paulo", "2018-11-02T00:00:00Z", "0 0 * * *", ["11-02T03:00", "11-03T03:00", "11-05T02:00"]),
            // As the day steps back to 30 March, the search misses Sunday, 31 March.
            ("Asia/Beirut", "2024-03-29T00:00:00Z", "0 5 * * 0", ["04-07T02:00", "04-14T02:00", "04-21T02:00"]),
            ("Asia/Beirut", "2024-03-29T00:00:00Z", "0 0 * * *", ["03-29T22:00", "03-31T21:00", "04-01T21:00"]),
            // Midnight comes twice.
            ("America/Havana", "2024-11-02T00:00:00Z", "30 0 3 * *", ["11-03T04:30", "11-03T05:30", "12-03T05:30"]),
            // Half an hour, from 02:00 on, is skipped, and from 01:30 on comes twice.
            (
                "Australia/Lord_Howe",
                "2024-10-05T00:00:00Z",
                "15 2 * * *",
                ["10-06T15:15", "10-07T15:15", "10-08T15:15"],
            ),
            (
                "Australia/Lord_Howe",
                "2024-04-06T00:00:00Z",
                "45 1 * * *",
                ["04-06T14:45", "04-06T15:15", "04-07T15:15"],
            ),
            ("America/New_York", "2024-03-10T00:00:00Z", "30 2 * * *", ["03-11T06:30", "03-12T06:30", "03-13T06:30"]),
        ] {
            let found: Vec<String> = ticks(&schedule(expression, zone), at(start))
                .take(3)
                .map(|tick| tick.to_string()[5..16].into())
                .collect();
            assert_eq!(found, expected, "{zone} {expression}");
        }
        // The first midnight of October 2017 is skipped. The search turns to the day before, and a month later it is at the
        // end of October again; so it passes by the first of November.
        let november = schedule("0 0 1 11 *", "America/Asuncion");
        assert_eq!(november.next_after(at("2017-10-03T00:00:00Z")), Some(at("2018-11-01T03:00:00Z")));
    }

    #[test]
    fn a_day_that_a_zone_skips_does_not_hold_the_search_up() {
        let schedule = schedule("0 5 31 12 *", "Pacific/Apia");
        assert_eq!(schedule.next_after(at("2011-12-28T12:00:00Z")), Some(at("2011-12-30T15:00:00Z")));
    }

    #[test]
    fn every_counts_from_the_instant_without_its_fraction() {
        let schedule = schedule("@every 90s", "Europe/Sofia");
        assert_eq!(schedule.next_after(at("2024-03-09T10:00:00.999Z")), Some(at("2024-03-09T10:01:30Z")));
        assert_eq!(schedule.next_after(at("1969-12-31T23:59:58.5Z")), Some(at("1970-01-01T00:01:28Z")));
        let after = at("2024-03-09T10:00:00.5Z");
        for (until, latest) in [
            ("2024-03-09T09:00:00Z", None),
            ("2024-03-09T10:01:29.9Z", None),
            ("2024-03-09T10:01:30Z", Some("2024-03-09T10:01:30Z")),
            ("2024-03-09T10:02:59.999Z", Some("2024-03-09T10:01:30Z")),
            ("2054-03-09T10:00:10Z", Some("2054-03-09T10:00:00Z")),
        ] {
            assert_eq!(schedule.latest_between(after, at(until)), latest.map(at), "{until}");
        }
    }

    #[test]
    fn the_latest_tick_of_a_long_time_is_found_without_counting_through_it() {
        let (after, until) = (at("1904-01-01T00:00:00Z"), at("2024-06-15T12:00:30Z"));
        for (expression, latest) in [
            ("* * * * *", "2024-06-15T12:00:00Z"),
            ("*/5 * * * *", "2024-06-15T12:00:00Z"),
            ("* * 1 1 *", "2024-01-01T23:59:00Z"),
            ("* * * 1 *", "2024-01-31T23:59:00Z"),
            ("0 0 29 2 *", "2024-02-29T00:00:00Z"),
            ("@every 1s", "2024-06-15T12:00:30Z"),
        ] {
            assert_eq!(schedule(expression, "UTC").latest_between(after, until), Some(at(latest)), "{expression}");
        }
    }

    /// A generator (splitmix64) whose seed makes every run the same.
    struct SeededRng(u64);

    impl SeededRng {
        fn below(&mut self, limit: i64) -> i64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            i64::try_from((mixed ^ (mixed >> 31)) >> 1).unwrap() % limit
        }

        fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
            choices[usize::try_from(self.below(i64::try_from(choices.len()).unwrap())).unwrap()]
        }
    }

    #[test]
    fn ticks_are_strictly_later_and_the_latest_agrees_with_going_from_tick_to_tick() {
        let mut rng = SeededRng(7);
        for _ in 0..600 {
            let expression = match rng.below(8) {
                0 => format!("@every {}m{}s", rng.below(100), rng.below(100)),
                _ => [
                    rng.pick(&["*", "0", "30", "*/7", "59", "5-50/15", "1,2,3"]),
                    rng.pick(&["*", "*", "0", "1", "2", "3", "*/5", "9-17", "23"]),
                    rng.pick(&["*", "*", "*", "1", "31", "15-20", "*/10", "29"]),
                    rng.pick(&["*", "*", "*", "*/3", "10,11", "mar-apr"]),
                    rng.pick(&["*", "*", "*", "0", "1-5", "*/2", "sun,sat"]),
                ]
                .join(" "),
            };
            let zone = rng.pick(&["UTC", "Europe/Sofia", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]);
            let schedule = schedule(&expression, zone);
            let start = Timestamp::new(1_700_000_000 + rng.below(50_000_000), 0).unwrap();
            // From minutes to about two months, so that some have more ticks than are gone through one by one.
            let span = 60 << rng.below(17);
            let until = Timestamp::from_second(start.as_second() + rng.below(span)).unwrap();

            let (mut last, mut chain) = (start, None);
            for tick in ticks(&schedule, start).take_while(|tick| *tick <= until) {
                assert!(tick > last, "{zone} {expression}: {tick} after {last}");
                (last, chain) = (tick, Some(tick));
            }
            assert_eq!(schedule.latest_between(start, until), chain, "{zone} {expression} from {start} to {until}");
        }
    }
}
