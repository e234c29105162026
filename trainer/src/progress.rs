//! Who is told how training goes.

/// Is told how training goes; for progress bars.
pub trait Progress {
    /// A phase begins or resumes.
    fn begin(&self, phase: &str, steps: u64);
    /// A step is done; `step` counts from 1.
    fn step(&self, phase: &str, step: u64, loss: f64, tokens: u64);
    /// A phase has ended.
    fn end(&self, phase: &str);
    /// Something to look at, seen at a step.
    fn warn(&self, phase: &str, step: u64, message: &str);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn step(&self, _: &str, _: u64, _: f64, _: u64) {}
    fn end(&self, _: &str) {}
    fn warn(&self, _: &str, _: u64, _: &str) {}
}
