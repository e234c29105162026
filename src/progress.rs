//! Progress on standard error: one bar per phase with loss, tokens per second and time left.

use std::cell::RefCell;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use trainer::session::Progress;

/// Bars on a terminal, one line per phase elsewhere, nothing when quiet.
pub(crate) struct Bars {
    is_quiet: bool,
    current: RefCell<Option<Current>>,
}

struct Current {
    bar: ProgressBar,
    started: Instant,
    tokens: u64,
}

impl Bars {
    pub(crate) fn new(is_quiet: bool) -> Self {
        Self { is_quiet, current: RefCell::new(None) }
    }

    /// A line about something that has no steps.
    pub(crate) fn say(&self, line: &str) {
        if !self.is_quiet {
            eprintln!("{line}");
        }
    }

    /// Starts a bar over `total` of something.
    pub(crate) fn start(&self, name: &str, total: u64) {
        let bar = ProgressBar::new(total);
        if self.is_quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template("{prefix:>9} {bar:28} {pos}/{len} {msg} {eta} left")
            .expect("the template is well-formed");
        bar.set_style(style);
        bar.set_prefix(name.to_owned());
        *self.current.borrow_mut() = Some(Current { bar, started: Instant::now(), tokens: 0 });
    }

    /// Moves the current bar.
    pub(crate) fn advance(&self, position: u64, message: &str) {
        if let Some(current) = self.current.borrow().as_ref() {
            current.bar.set_position(position);
            current.bar.set_message(message.to_owned());
        }
    }

    /// Ends the current bar with a line that stays.
    pub(crate) fn finish(&self, name: &str, outcome: &str) {
        if let Some(current) = self.current.borrow_mut().take() {
            current.bar.finish_and_clear();
            self.say(&format!("{name:>9} done in {:.0} s{outcome}", current.started.elapsed().as_secs_f64()));
        }
    }
}

impl Progress for Bars {
    fn begin(&self, phase: &str, steps: u64) {
        self.start(phase, steps);
    }

    fn step(&self, _phase: &str, step: u64, loss: f64, tokens: u64) {
        let message = self.current.borrow_mut().as_mut().map(|current| {
            current.tokens += tokens;
            let rate = current.tokens as f64 / current.started.elapsed().as_secs_f64();
            format!("loss {loss:.3} {rate:.0} tok/s")
        });
        if let Some(message) = message {
            self.advance(step, &message);
        }
    }

    fn end(&self, phase: &str) {
        let tokens = self.current.borrow().as_ref().map_or(0, |current| current.tokens);
        self.finish(phase, &format!(", {tokens} tokens"));
    }
}
