//! Progress on standard error: how far, loss, speed and time left.

use std::cell::RefCell;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use reports::duration;
use trainer::session::Progress;

use crate::output::tell;

/// Takes the bar off its line.
const CLEAR: &str = "\r\x1b[2K";

/// A bar on a terminal, a line now and then elsewhere, nothing when quiet.
pub(crate) struct Bars {
    display: Display,
    current: RefCell<Option<Current>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Display {
    Bar,
    Lines,
    Quiet,
}

impl Display {
    /// Time between two updates.
    fn period(self) -> Duration {
        if self == Self::Bar { Duration::from_millis(100) } else { Duration::from_secs(10) }
    }
}

/// What is being counted.
struct Current {
    name: String,
    total: u64,
    /// Where the count began; `None` where the first update is to tell.
    start: Option<u64>,
    units: u64,
    started: Instant,
    shown: Instant,
}

impl Bars {
    pub(crate) fn new(is_quiet: bool) -> Self {
        let display = match (is_quiet, stderr().is_terminal()) {
            (true, _) => Display::Quiet,
            (false, true) => Display::Bar,
            (false, false) => Display::Lines,
        };
        Self { display, current: RefCell::new(None) }
    }

    /// A line about something that has no steps.
    pub(crate) fn say(&self, line: &str) {
        if self.display != Display::Quiet {
            tell(&format!("{line}\n"));
        }
    }

    /// Begins to count from 0 up to `total`.
    pub(crate) fn start(&self, name: &str, total: u64) {
        self.start_from(name, Some(0), total);
    }

    fn start_from(&self, name: &str, start: Option<u64>, total: u64) {
        let now = Instant::now();
        let name = name.to_owned();
        *self.current.borrow_mut() = Some(Current { name, total, start, units: 0, started: now, shown: now });
    }

    /// `position` of the total is reached, after `units` more of what the speed is measured in.
    pub(crate) fn advance(&self, position: u64, units: u64, unit: &str, note: &str) {
        let mut current = self.current.borrow_mut();
        let Some(current) = current.as_mut() else { return };
        let start = *current.start.get_or_insert_with(|| position.saturating_sub(1));
        current.units += units;
        if current.shown.elapsed() < self.display.period() || self.display == Display::Quiet {
            return;
        }
        current.shown = Instant::now();
        let Current { name, total, .. } = current;
        let wall_s = current.started.elapsed().as_secs_f64();
        let rate = current.units as f64 / wall_s;
        let left_s = wall_s * total.saturating_sub(position) as f64 / (position - start).max(1) as f64;
        let decimals = usize::from(rate < 10.0);
        let figures = format!("{position}/{total}  {note}{rate:.decimals$} {unit}/s  {} left", duration(left_s));
        if self.display == Display::Bar {
            let filled = (24 * position / (*total).max(1)).min(24) as usize;
            let (done, open) = ("█".repeat(filled), "░".repeat(24 - filled));
            tell(&format!("{CLEAR}{name:>10} {done}{open}  {figures}"));
        } else {
            tell(&format!("{name:>10}  {figures}\n"));
        }
    }

    /// Ends the count with a line that stays.
    pub(crate) fn finish(&self, outcome: &str) {
        let Some(Current { name, started, .. }) = self.current.borrow_mut().take() else { return };
        if self.display == Display::Bar {
            tell(CLEAR);
        }
        self.say(&format!("{name:>10}  {outcome} in {}", duration(started.elapsed().as_secs_f64())));
    }
}

impl Progress for Bars {
    fn begin(&self, phase: &str, steps: u64) {
        // A resumed phase does not begin at 0.
        self.start_from(phase, None, steps);
    }

    fn step(&self, _phase: &str, step: u64, loss: f64, tokens: u64) {
        self.advance(step, tokens, "tokens", &format!("loss {loss:.3}  "));
    }

    fn end(&self, _phase: &str) {
        let steps = self.current.borrow().as_ref().map_or(0, |current| current.total);
        self.finish(&format!("{steps} steps"));
    }

    fn warn(&self, phase: &str, step: u64, message: &str) {
        if self.display == Display::Bar {
            tell(CLEAR);
        }
        self.say(&format!("{phase:>10}  warning at step {step}: {message}"));
    }
}
