//! Measures drafts: what is new of them since the last round, for metrics, and a line in the log
//! now and then, as vLLM writes it. Called by `meter`; it decides nothing.

use std::time::{Duration, Instant};

use crate::scheduler::DraftStats;

/// Between two lines.
const PERIOD: Duration = Duration::from_secs(10);

pub(super) struct DraftMeter {
    told: DraftStats,
    logged: DraftStats,
    /// When the last line was due; None: no lines are wanted.
    logged_at: Option<Instant>,
}

impl DraftMeter {
    pub fn new(log: bool) -> DraftMeter {
        DraftMeter {
            told: DraftStats::default(),
            logged: DraftStats::default(),
            logged_at: log.then(Instant::now),
        }
    }

    /// The statistics of the scheduler after a round: what is new, if anything is.
    pub fn news(&mut self, stats: &DraftStats) -> Option<DraftStats> {
        if stats.drafts == self.told.drafts {
            return None;
        }
        let news = stats.since(&self.told);
        self.told = stats.clone();
        Some(news)
    }

    /// The line, when it is time and there were drafts since the last one.
    pub fn line(&mut self, now: Instant) -> Option<String> {
        let since = self.logged_at?;
        let took = now.saturating_duration_since(since);
        if took < PERIOD {
            return None;
        }
        self.logged_at = Some(now);
        let news = self.told.since(&self.logged);
        self.logged = self.told.clone();
        (news.drafts > 0).then(|| line(&news, took))
    }
}

fn line(stats: &DraftStats, took: Duration) -> String {
    let DraftStats { drafts, draft_tokens, accepted_tokens, accepted_by_place } = stats;
    let per_draft = |count: u64| count as f64 / *drafts as f64;
    let per_second = |count: u64| count as f64 / took.as_secs_f64();
    let places: Vec<String> =
        accepted_by_place.iter().map(|&count| format!("{:.3}", per_draft(count))).collect();
    format!(
        "SpecDecoding metrics: Mean acceptance length: {:.2}, Accepted throughput: {:.2} tokens/s, \
         Drafted throughput: {:.2} tokens/s, Accepted: {accepted_tokens} tokens, Drafted: \
         {draft_tokens} tokens, Per-position acceptance rate: {}, Avg Draft acceptance rate: \
         {:.1}%",
        1.0 + per_draft(*accepted_tokens),
        per_second(*accepted_tokens),
        per_second(*draft_tokens),
        places.join(", "),
        100.0 * *accepted_tokens as f64 / *draft_tokens as f64,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(drafts: u64, draft_tokens: u64, accepted_by_place: &[u64]) -> DraftStats {
        DraftStats {
            drafts,
            draft_tokens,
            accepted_tokens: accepted_by_place.iter().sum(),
            accepted_by_place: accepted_by_place.to_vec(),
        }
    }

    #[test]
    fn news_are_told_once_and_lines_say_what_came_since_the_last() {
        let mut meter = DraftMeter::new(true);
        let began = Instant::now();
        assert_eq!(meter.news(&stats(0, 0, &[0, 0])), None);
        assert_eq!(meter.news(&stats(2, 4, &[2, 1])), Some(stats(2, 4, &[2, 1])));
        assert_eq!(meter.news(&stats(2, 4, &[2, 1])), None);
        assert_eq!(meter.news(&stats(4, 8, &[3, 1])), Some(stats(2, 4, &[1, 0])));

        assert_eq!(meter.line(began), None);
        let line = meter.line(began + 2 * PERIOD).unwrap();
        let start = "SpecDecoding metrics: Mean acceptance length: 2.00, Accepted throughput: 0.20";
        assert!(line.starts_with(start), "{line}");
        assert!(line.contains("Accepted: 4 tokens, Drafted: 8 tokens"), "{line}");
        assert!(line.ends_with("rate: 0.750, 0.250, Avg Draft acceptance rate: 50.0%"), "{line}");
        assert_eq!(meter.line(began + 4 * PERIOD), None, "nothing since");
        assert_eq!(DraftMeter::new(false).line(began + 4 * PERIOD), None);
    }
}
