//! An eye on what waits for other ranks.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Looks from another thread at how long something takes.
pub(super) struct Watch(Arc<Mutex<Option<Watched>>>);

struct Watched {
    since: Instant,
    is_over: Box<dyn Fn() -> bool + Send>,
}

impl Watch {
    /// Where something takes longer than `patience`, `give_up` is called, on another thread.
    pub(super) fn begin(patience: Duration, give_up: impl Fn() + Send + 'static) -> Self {
        let watched = Arc::new(Mutex::new(None::<Watched>));
        let seen = Arc::downgrade(&watched);
        thread::spawn(move || {
            while let Some(watched) = seen.upgrade() {
                let is_late = watched.lock().is_ok_and(|mut watched| {
                    watched.take_if(|watched| (watched.is_over)());
                    watched.as_ref().is_some_and(|watched| watched.since.elapsed() > patience)
                });
                if is_late {
                    give_up();
                }
                drop(watched);
                thread::sleep(Duration::from_millis(100).min(patience));
            }
        });
        Self(watched)
    }

    /// Watches from now on, in place of anything before, what is over when `is_over` says so.
    pub(super) fn until(&self, is_over: impl Fn() -> bool + Send + 'static) {
        self.set(Some(Watched { since: Instant::now(), is_over: Box::new(is_over) }));
    }

    /// Watches a call.
    pub(super) fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        self.until(|| false);
        let outcome = call();
        self.set(None);
        outcome
    }

    fn set(&self, watched: Option<Watched>) {
        *self.0.lock().expect("the watch only looks") = watched;
    }
}

#[cfg(test)]
mod tests {
    use super::Watch;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn what_takes_too_long_is_given_up_and_nothing_else() {
        let (tell, told) = mpsc::channel();
        let watch = Watch::begin(Duration::from_millis(100), move || {
            let _ = tell.send(());
        });
        assert_eq!(watch.during(|| 7), 7);
        watch.until(|| true);
        assert!(told.recv_timeout(Duration::from_millis(400)).is_err());
        watch.until(|| false);
        assert!(told.recv_timeout(Duration::from_secs(20)).is_ok());
    }
}
