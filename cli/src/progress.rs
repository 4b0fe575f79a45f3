//! The observer of long jobs: a bar on a terminal, JSON events with `--json`, else only what goes
//! wrong.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use imgx_engine::base::{Event, Observer, Phase, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::output::{Console, clock, rate, ratio, size, speed};
use crate::session::Stop;

/// How often progress is told in JSON.
const JSON_STEP: Duration = Duration::from_millis(250);
/// How often the bar moves.
const BAR_STEP: Duration = Duration::from_millis(100);
/// The time that rates are taken over.
const WINDOW: Duration = Duration::from_secs(5);

/// Listens to a job.
pub struct Reporter<'a> {
    console: &'a Console,
    stop: Stop,
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

/// What was heard so far.
#[derive(Default)]
struct State {
    phase: Option<Phase>,
    told: Option<Instant>,
    samples: VecDeque<(Instant, Progress)>,
}

impl<'a> Reporter<'a> {
    /// A reporter on `console` that passes the wish to stop on.
    pub fn new(console: &'a Console, stop: Stop) -> Self {
        let has_bar = !console.is_json() && !console.is_quiet() && io::stderr().is_terminal();
        Self { console, stop, bar: has_bar.then(new_bar), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complain(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.console.complain(line)),
            None => self.console.complain(line),
        }
    }

    fn started(&self, phase: Phase, total: u64) {
        let first = (Instant::now(), Progress { total, ..Progress::default() });
        *self.state() = State { phase: Some(phase), told: None, samples: VecDeque::from([first]) };
        self.console.json(&json!({"event": "started", "phase": phase.name(), "total": total}));
        if self.console.is_verbose() && !self.console.is_json() {
            self.complain(&format!("{}: {}", phase.name(), size(total)));
        }
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(0);
            bar.set_prefix(phase.name());
            bar.set_message("");
        }
    }

    fn progress(&self, progress: Progress) {
        if self.bar.is_none() && !self.console.is_json() {
            return;
        }
        let mut state = self.state();
        let Some(phase) = state.phase else { return };
        let step = if self.bar.is_some() { BAR_STEP } else { JSON_STEP };
        let now = Instant::now();
        if state.told.is_some_and(|told| now - told < step) {
            return;
        }
        state.told = Some(now);
        state.add(now, progress);
        let (rate, left) = state.pace(progress);
        if let Some(bar) = &self.bar {
            bar.set_position(progress.done);
            bar.set_message(describe(&progress, rate, left));
            return;
        }
        self.console.json(&json!({
            "event": "progress",
            "phase": phase.name(),
            "done": progress.done,
            "total": progress.total,
            "moved": progress.moved,
            "fresh": progress.fresh,
            "stored": progress.stored,
            "rate": rate.map(f64::round),
            "eta_s": left.map(f64::round),
        }));
    }
}

impl Observer for Reporter<'_> {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Started { phase, total } => self.started(*phase, *total),
            Event::Progress(progress) => self.progress(*progress),
            Event::Unreadable { range, reason } if self.console.is_json() => {
                self.console.json(&json!({
                    "event": "unreadable",
                    "offset": range.start,
                    "length": range.len(),
                    "reason": reason,
                }));
            }
            Event::Unreadable { range, reason } => {
                self.complain(&format!("unreadable: {range}: {reason}"));
            }
            Event::Damage { report } if self.console.is_json() => {
                self.console.json(&json!({"event": "damage", "report": report}));
            }
            Event::Damage { report } => self.complain(&format!("damage: {report}")),
            Event::Doubt { message } | Event::Warning { message } if self.console.is_json() => {
                self.console.json(&json!({"event": "warning", "message": message}));
            }
            Event::Warning { .. } if self.console.is_quiet() => {}
            Event::Doubt { message } | Event::Warning { message } => {
                self.complain(&format!("warning: {message}"));
            }
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.is_wanted()
    }
}

impl Drop for Reporter<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl State {
    fn add(&mut self, now: Instant, progress: Progress) {
        self.samples.push_back((now, progress));
        while self.samples.len() > 2 && self.samples.get(1).is_some_and(|s| now - s.0 > WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Bytes that move a second, and the seconds that are left.
    #[allow(clippy::cast_precision_loss)]
    fn pace(&self, last: Progress) -> (Option<f64>, Option<f64>) {
        let Some((start, first)) = self.samples.front() else { return (None, None) };
        let seconds = start.elapsed().as_secs_f64();
        let done = rate(last.done.saturating_sub(first.done), seconds);
        let left = done.map(|done| last.total.saturating_sub(last.done) as f64 / done);
        (rate(last.moved.saturating_sub(first.moved), seconds), left)
    }
}

/// In 46 columns or so, so that a bar is left beside it on 80.
fn describe(progress: &Progress, rate: Option<f64>, left: Option<f64>) -> String {
    let mut parts = vec![format!("{}/{}", size(progress.done), size(progress.total))];
    parts.extend(rate.map(speed));
    let ratio = ratio(progress.fresh, progress.stored);
    parts.extend(ratio.map(|ratio| format!("x{ratio:.2}")));
    parts.extend(left.map(|left| format!("{} left", clock(left))));
    parts.join(" ")
}

fn new_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {percent:>3}% {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    ProgressBar::new(0).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fits_beside_its_message_on_80_columns() {
        let progress = Progress {
            done: 1_023 << 30,
            total: 16 << 40,
            moved: 1 << 40,
            fresh: 1 << 40,
            stored: 1 << 39,
        };
        let message = describe(&progress, Some(987.6 * 1_048_576.0), Some(35_999.0));
        assert_eq!(message, "1023.0 GiB/16.0 TiB 987.6 MiB/s x2.00 9:59:59 left");
        assert!("read-back [] 100% ".len() + message.len() <= 70);
    }

    #[test]
    fn the_pace_is_of_the_last_seconds() {
        let start = Instant::now() - Duration::from_secs(60);
        let mut state = State::default();
        for second in 0..=60_u32 {
            let done = if second < 50 { 0 } else { u64::from(second - 50) << 20 };
            let progress = Progress { done, moved: done, total: 100 << 20, ..Progress::default() };
            state.add(start + Duration::from_secs(second.into()), progress);
        }
        let last =
            Progress { done: 10 << 20, moved: 10 << 20, total: 100 << 20, fresh: 0, stored: 0 };
        let (rate, left) = state.pace(last);
        let rate = rate.expect("a rate") / 1_048_576.0;
        assert!((0.9..1.1).contains(&rate), "{rate} MiB/s");
        assert!(left.is_some_and(|left| (80.0..100.0).contains(&left)), "{left:?}");
    }
}
