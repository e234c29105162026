//! When requests may be sent: a gate that every thread passes, and what servers say about waiting.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use ureq::http::{HeaderMap, StatusCode};

/// A gate before a server. One request that is told to wait makes all wait.
pub(crate) struct Gate {
    url: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    opens_at: Option<Instant>,
    /// Requests in a row that reached nobody.
    n_lost: usize,
    over: Option<Over>,
}

/// Why no more requests are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) url: String,
    pub(crate) message: String,
}

/// So many requests in a row, each at its last attempt, reach nobody: the server is gone.
pub(crate) const GONE_AFTER: usize = 20;

impl Gate {
    pub(crate) fn new(url: String) -> Self {
        Self { url, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics at the gate")
    }

    /// Waits for `pause`, and until the gate is open.
    pub(crate) fn wait(&self, pause: Duration) -> Result<(), Over> {
        let own = Instant::now() + pause;
        let mut state = self.state();
        loop {
            if let Some(over) = &state.over {
                return Err(over.clone());
            }
            let until = state.opens_at.map_or(own, |at| at.max(own));
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            state = self.changed.wait_timeout(state, left).expect("nothing panics at the gate").0;
        }
    }

    /// Keeps everyone waiting for `pause` from now on, or as long as they wait already.
    pub(crate) fn hold(&self, pause: Duration) {
        let mut state = self.state();
        let until = Instant::now() + pause;
        state.opens_at = Some(state.opens_at.map_or(until, |at| at.max(until)));
    }

    /// Someone answered.
    pub(crate) fn reach(&self) {
        self.state().n_lost = 0;
    }

    /// A request was given up because nobody answered.
    pub(crate) fn lose(&self, message: &str) {
        let mut state = self.state();
        state.n_lost += 1;
        if state.n_lost == GONE_AFTER {
            let message = format!("the server is gone: {GONE_AFTER} requests in a row reached nobody ({message})");
            self.end(&mut state, message);
        }
    }

    /// Ends all asking, also of those who wait.
    pub(crate) fn close(&self, message: String) -> Over {
        let mut state = self.state();
        self.end(&mut state, message)
    }

    fn end(&self, state: &mut State, message: String) -> Over {
        let over = state.over.get_or_insert_with(|| Over { url: self.url.clone(), message }).clone();
        self.changed.notify_all();
        over
    }
}

/// How long a server asks to wait: `Retry-After` (RFC 9110, section 10.2.3) in seconds or as a date, else when a quota that is used up is
/// filled again (`x-ratelimit-reset-*` of those whose `x-ratelimit-remaining-*` is 0).
pub(crate) fn asked_pause(headers: &HeaderMap, status: StatusCode) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let now = text("date").and_then(parse_date).or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(since.as_secs())
    });
    let until = |seconds: f64| Duration::try_from_secs_f64((seconds - now? as f64).max(0.0)).ok();
    let retry_after = text("retry-after").filter(|_| !status.is_success()).and_then(|value| {
        // A date is compared with the server's own clock.
        parse_seconds(value).or_else(|| until(parse_date(value)? as f64))
    });
    let quota = |suffix: &str| {
        let is_used_up = text(&format!("x-ratelimit-remaining{suffix}"))?.parse::<f64>().is_ok_and(|left| left <= 0.0);
        let reset = text(&format!("x-ratelimit-reset{suffix}")).filter(|_| is_used_up)?;
        match reset.parse::<f64>() {
            // Some give a point in time, in seconds or milliseconds since 1970.
            Ok(number) if number > 1e11 => until(number / 1e3),
            Ok(number) if number > 1e8 => until(number),
            _ => parse_seconds(reset).or_else(|| parse_span(reset)),
        }
    };
    retry_after.or_else(|| ["", "-requests", "-tokens"].into_iter().filter_map(quota).max())
}

fn parse_seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

/// A span as Go prints it: `6m0s`, `1.5s`, `20ms`.
fn parse_span(text: &str) -> Option<Duration> {
    let (mut total_s, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len()));
        let unit_s = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total_s += unit_s * number.parse::<f64>().ok()?;
        rest = tail;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(total_s).ok() }
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT` (the only form that may be sent, RFC 9110, section 5.6.7).
fn parse_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next().and_then(|name| MONTHS.iter().position(|&it| it == name))? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(str::parse::<u64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970, with the year beginning in March so that the leap day is its last.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * years + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 1 - 719_468;
    Some(86_400 * days + 3600 * hour + 60 * minute + second)
}

#[cfg(test)]
mod tests {
    use super::{GONE_AFTER, Gate, asked_pause, parse_date, parse_span};
    use std::time::{Duration, Instant};
    use ureq::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

    fn asked(status: u16, headers: &[(&'static str, &str)]) -> Option<Duration> {
        let one = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        asked_pause(&headers.iter().map(one).collect::<HeaderMap>(), StatusCode::from_u16(status).unwrap())
    }

    #[test]
    fn dates_and_spans_are_read_and_nonsense_is_not() {
        assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(parse_date("Fri, 01 Mar 2024 00:00:00 GMT"), Some(1_709_251_200));
        assert_eq!(["", "tomorrow", "Sun, 99 Nov 1994 08:49:37 GMT"].map(parse_date), [None; 3]);
        assert_eq!(parse_span("6m0s"), Some(Duration::from_secs(360)));
        assert_eq!(parse_span("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        assert_eq!(parse_span("20ms"), Some(Duration::from_millis(20)));
        assert_eq!(["", "s", "6", "6x", "é"].map(parse_span), [None; 5]);
    }

    #[test]
    fn a_server_says_in_many_ways_how_long_to_wait() {
        let s = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(asked(429, &[("retry-after", "7")]), s(7));
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(asked(503, &[date, ("retry-after", "Sun, 06 Nov 1994 08:50:00 GMT")]), s(23));
        // A date that is past, by the server's clock.
        assert_eq!(asked(503, &[date, ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), s(0));
        let used_up = ("x-ratelimit-remaining-tokens", "0");
        assert_eq!(asked(429, &[used_up, ("x-ratelimit-reset-tokens", "6m0s")]), s(360));
        assert_eq!(asked(200, &[used_up, ("x-ratelimit-reset-tokens", "2")]), s(2));
        assert_eq!(asked(429, &[("x-ratelimit-reset-requests", "6m0s")]), None);
        let epoch_ms = [date, ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "784111787000")];
        assert_eq!(asked(429, &epoch_ms), s(10));
        assert_eq!(asked(200, &[("retry-after", "7")]), None);
        for nonsense in ["-1", "NaN", "inf", "1e300", "soon", ""] {
            assert_eq!(asked(429, &[("retry-after", nonsense)]), None, "{nonsense}");
        }
    }

    #[test]
    fn one_that_is_told_to_wait_makes_all_wait_and_a_shorter_wait_does_not_end_a_longer_one() {
        let gate = Gate::new("url".to_owned());
        let started = Instant::now();
        gate.hold(Duration::from_millis(30));
        gate.hold(Duration::ZERO);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    gate.wait(Duration::ZERO).unwrap();
                    assert!(started.elapsed() >= Duration::from_millis(30));
                });
            }
        });
    }

    #[test]
    fn a_gate_that_closes_ends_the_waiting_and_so_do_requests_that_reach_nobody() {
        let gate = Gate::new("url".to_owned());
        for _ in 1..GONE_AFTER {
            gate.lose("refused");
        }
        gate.reach();
        gate.lose("refused");
        assert!(gate.wait(Duration::ZERO).is_ok());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.wait(Duration::from_secs(3600)));
            for _ in 1..GONE_AFTER {
                gate.lose("refused");
            }
            let over = waiting.join().unwrap().unwrap_err();
            assert_eq!(over.message, "the server is gone: 20 requests in a row reached nobody (refused)");
            // What ended it first stays the reason.
            assert_eq!(gate.close("status 401".to_owned()), over);
        });
    }
}
