//! Threads that are held up. Each of ours runs one task after the other: one that blocks keeps all the others of its thread waiting, and no
//! limit of time within them comes to its turn.
//!
//! A watched thread runs a task that does nothing but wake, and measures how late it did: that is what every other task waits, too. One that
//! does not wake any more cannot tell; so whoever is late is looked for from a thread apart.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How often a thread is to wake.
const BEAT: Duration = Duration::from_millis(250);

/// How often the late are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// Watches threads. Cheap to clone.
#[derive(Clone)]
pub struct Watchdog {
    inner: Arc<Inner>,
}

struct Inner {
    late: Duration,
    began: Instant,
    watched: Mutex<Vec<Weak<Watched>>>,
}

/// A thread.
struct Watched {
    name: &'static str,
    /// When it woke last, in milliseconds since the watchdog began.
    woke: AtomicU64,
    is_told_of: AtomicBool,
}

impl Watchdog {
    /// A thread that should have woken so long ago is held up.
    #[must_use]
    pub fn new(late: Duration) -> Self {
        Self { inner: Arc::new(Inner { late, began: Instant::now(), watched: Mutex::default() }) }
    }

    /// To be run on the thread that is to be watched, for as long as it is.
    pub fn watch(&self, name: &'static str) -> impl Future<Output = ()> + Send + 'static {
        let (inner, is_told_of) = (Arc::clone(&self.inner), AtomicBool::new(false));
        let watched = Arc::new(Watched { name, woke: AtomicU64::new(inner.now()), is_told_of });
        inner.watched.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&watched));
        async move {
            loop {
                let due = tokio::time::Instant::now() + BEAT;
                tokio::time::sleep_until(due).await;
                watched.wakes(inner.now(), due.elapsed());
            }
        }
    }

    /// Looks again and again, from a thread of its own, and logs whoever is held up, until nobody has the watchdog any more.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn look_out(&self) -> std::io::Result<()> {
        let inner = Arc::downgrade(&self.inner);
        let look = move || {
            loop {
                let began = Instant::now();
                thread::park_timeout(LOOK);
                let Some(inner) = inner.upgrade() else { return };
                // Late itself, it knows nothing of others: the machine stood still.
                if began.elapsed() < 2 * LOOK {
                    Self { inner }.held_up();
                }
            }
        };
        thread::Builder::new().name("watchdog".into()).spawn(look).map(drop)
    }

    /// Who is held up now. Each is logged once.
    pub fn held_up(&self) -> Vec<&'static str> {
        let mut watched = self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|watched| watched.strong_count() > 0);
        let (now, limit) = (self.inner.now(), millis(BEAT + self.inner.late));
        let held_up: Vec<_> = watched
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|watched| now.saturating_sub(watched.woke.load(Ordering::Relaxed)) > limit)
            .collect();
        for watched in &held_up {
            if !watched.is_told_of.swap(true, Ordering::Relaxed) {
                tracing::warn!(thread = watched.name, "a thread is held up");
            }
        }
        let count = u32::try_from(held_up.len()).unwrap_or(u32::MAX);
        metrics::gauge!("tollgate_threads_held_up").set(f64::from(count));
        held_up.iter().map(|watched| watched.name).collect()
    }
}

impl Inner {
    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }
}

impl Watched {
    fn wakes(&self, now: u64, delay: Duration) {
        self.woke.store(now, Ordering::Relaxed);
        metrics::histogram!("tollgate_thread_delay_seconds", "thread" => self.name).record(delay.as_secs_f64());
        if self.is_told_of.swap(false, Ordering::Relaxed) {
            tracing::warn!(thread = self.name, ?delay, "a thread that was held up goes on");
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
