//! Logprobs on their way: which logits rows of a step report what, as the requests that
//! kernels/logprobs.cu reads, and its answers as [`TokenLogprobs`]. `sampler` makes them, `steps`
//! reads them when a step is collected; it touches no GPU.

use super::abi::{
    LogprobAnswer, LogprobRequest, TokenLogprob, NOT_ASKED, NOT_FINITE, REPORT_MAX_TOP,
};
use crate::device::batch::BatchLogits;
use crate::device::samples::{RowSample, Samples};
use crate::error::Result;
use crate::ids::TokenId;
use crate::internal;
use crate::plan::{Purpose, StepResult};
use crate::sampling::{LogprobSpec, NonFinite, Seen, TokenLogprobs};

/// Others that a kernel lists at most: the largest, or given tokens. Whoever wants more gets the
/// whole logits row sorted on the host.
const MOST_TOP: usize = REPORT_MAX_TOP as usize;
const MOST_TOKENS: usize = 128;
/// Words of the longest answer.
pub const MOST_ANSWER_WORDS: usize = answer_words(MOST_TOKENS);
const OWN_WORDS: usize = size_of::<LogprobAnswer>() / 4;

/// Words of an answer that lists so many others.
const fn answer_words(others: usize) -> usize {
    OWN_WORDS + others * size_of::<TokenLogprob>() / 4
}

/// Where a row's answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Word of the answers.
    Brief(usize),
    /// Which of the whole rows.
    Whole(usize),
}

/// One logits row that reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The logits row.
    pub row: usize,
    /// Its logits are kept before the sampler changes them: it is sampled from.
    pub kept: bool,
    pub spec: LogprobSpec,
    pub place: Place,
}

/// What a step reports.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reports {
    /// In the order of rows.
    pub list: Vec<Report>,
    pub answer_words: usize,
    pub whole_rows: usize,
    /// Logits of a row.
    pub vocab: usize,
}

impl Reports {
    pub fn new(logits_rows: &[BatchLogits], vocab: usize) -> Reports {
        let mut reports = Reports { vocab, ..Reports::default() };
        for (row, logits_row) in logits_rows.iter().enumerate() {
            let Some(spec) = logits_row.logprobs.clone() else { continue };
            let others = match &spec {
                LogprobSpec::Top(k) => Some(*k as usize).filter(|k| *k <= MOST_TOP.min(vocab)),
                LogprobSpec::Tokens(t) => Some(t.len()).filter(|n| *n <= MOST_TOKENS),
            };
            let place = match others {
                Some(others) => {
                    let at = reports.answer_words;
                    reports.answer_words += answer_words(others);
                    Place::Brief(at)
                }
                None => {
                    reports.whole_rows += 1;
                    Place::Whole(reports.whole_rows - 1)
                }
            };
            let kept = !matches!(logits_row.purpose, Purpose::Report { .. });
            reports.list.push(Report { row, kept, spec, place });
        }
        reports
    }

    /// The requests of all reports, in waves of `wave` of which each has the kept rows for itself,
    /// then the tokens that they list.
    pub fn requests(&self, wave: usize) -> Vec<u32> {
        const REQUEST_WORDS: usize = size_of::<LogprobRequest>() / 4;
        let mut words = Vec::with_capacity(REQUEST_WORDS * self.list.len());
        let mut tokens = Vec::new();
        for (n, report) in self.list.iter().enumerate() {
            let mut request = LogprobRequest {
                row: report.row as u32,
                kept: if report.kept { (n % wave) as u32 } else { NOT_ASKED },
                count: 0,
                tokens: NOT_ASKED,
                answer: match report.place {
                    Place::Brief(at) => at as u32,
                    Place::Whole(_) => NOT_ASKED,
                },
            };
            match &report.spec {
                LogprobSpec::Top(k) => request.count = *k,
                LogprobSpec::Tokens(list) => {
                    // Counted from the wave's first request.
                    let requests = self.list.len() - (n - n % wave);
                    request.count = list.len() as u32;
                    request.tokens = (REQUEST_WORDS * requests + tokens.len()) as u32;
                    tokens.extend(list.iter().map(|t| t.0));
                }
            }
            words.extend_from_slice(bytemuck::cast_slice(&[request]));
        }
        words.extend(tokens);
        words
    }

    /// The step's result from the start of its ids, its answers and its whole rows.
    pub fn result(
        &self,
        step: u64,
        logits_rows: &[BatchLogits],
        ids: &[u32],
        answers: &[u32],
        whole: &[u32],
    ) -> Result<StepResult> {
        let vocab = self.vocab;
        let mut result = StepResult { step, ..StepResult::default() };
        let mut samples = Samples::default();
        let mut reports = self.list.iter().peekable();
        for (row, (logits_row, &id)) in logits_rows.iter().zip(ids).enumerate() {
            let slot = logits_row.slot;
            let report = reports.next_if(|report| report.row == row);
            let read = |report: &Report, token| match report.place {
                Place::Brief(at) => report.brief(token, answers.get(at..)),
                Place::Whole(n) => {
                    let logits = whole.get(n * vocab..(n + 1) * vocab).unwrap_or_default();
                    Ok(report.whole(token, logits))
                }
            };
            if let Purpose::Report { next } = logits_row.purpose {
                let report = report.ok_or_else(|| internal!("slot {slot} reports nothing"))?;
                result.push_report(slot, read(report, next)?);
                continue;
            }
            let chosen = if id == NOT_FINITE { Err(NonFinite) } else { Ok(TokenId(id)) };
            // Its own row was judged: what is read here is what masks left of it.
            let logprobs = match (chosen, report) {
                (Ok(token), Some(report)) => read(report, token)?.ok(),
                _ => None,
            };
            samples.push(RowSample { slot, purpose: logits_row.purpose, chosen, logprobs });
        }
        result.samples = samples.into_list();
        Ok(result)
    }
}

/// Logprobs of one position, as far as its row is finite.
type Read = std::result::Result<TokenLogprobs, NonFinite>;

impl Report {
    fn whole(&self, token: TokenId, logits: &[u32]) -> Read {
        let logits: Vec<f32> = logits.iter().map(|&word| f32::from_bits(word)).collect();
        // What a sampled row has left may be nothing at all: it was judged with its token.
        if !self.kept {
            Seen::default().all(&logits).verdict()?;
        }
        Ok(TokenLogprobs::read(&logits, token, &self.spec))
    }

    fn brief(&self, token: TokenId, answer: Option<&[u32]>) -> Result<Read> {
        let others = match &self.spec {
            LogprobSpec::Top(k) => *k as usize,
            LogprobSpec::Tokens(tokens) => tokens.len(),
        };
        let (own, pairs) = answer
            .and_then(|words| words.get(..answer_words(others))?.split_at_checked(OWN_WORDS))
            .ok_or_else(|| internal!("an answer of {others} logprobs is cut off"))?;
        let own: LogprobAnswer = bytemuck::pod_read_unaligned(bytemuck::cast_slice(own));
        if own.rank == 0 {
            return Ok(Err(NonFinite));
        }
        let pairs: &[TokenLogprob] = bytemuck::cast_slice(pairs);
        Ok(Ok(TokenLogprobs {
            token,
            logprob: own.logprob,
            rank: own.rank,
            top: pairs.iter().map(|pair| (TokenId(pair.token), pair.logprob)).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::device::batch::RowDrafts;
    use crate::ids::SlotId;
    use crate::plan::Reported;

    fn logits_row(slot: u32, next: Option<u32>, logprobs: Option<LogprobSpec>) -> BatchLogits {
        let purpose = match next {
            Some(next) => Purpose::Report { next: TokenId(next) },
            None => Purpose::Sample,
        };
        let drafts = RowDrafts::default();
        BatchLogits { slot: SlotId(slot), chunk: 0, row: 0, purpose, drafts, logprobs }
    }

    #[test]
    fn tokens_end_with_the_first_that_is_no_draft() {
        let verify = |draft| BatchLogits {
            purpose: Purpose::Verify { draft: TokenId(draft) },
            ..logits_row(7, None, Some(LogprobSpec::Top(0)))
        };
        let rows = [
            verify(4),
            verify(5),
            logits_row(7, None, Some(LogprobSpec::Top(0))),
            logits_row(8, None, None),
        ];

        let reports = Reports::new(&rows, 9);
        assert!(reports.list.iter().all(|report| report.kept));
        let logprobs = [-1f32, -2.0, -3.0].map(|logprob| [logprob.to_bits(), 1]).concat();
        for (ids, tokens) in [
            ([4, 5, 6, 1], vec![4, 5, 6]),
            ([4, 3, 6, 1], vec![4, 3]),
            ([3, 5, 6, 1], vec![3]),
            ([4, NOT_FINITE, 6, 1], vec![4]),
        ] {
            let result = reports.result(1, &rows, &ids, &logprobs, &[]).unwrap();
            let [first, second] = &result.samples[..] else { panic!("{result:?}") };
            let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId).collect();
            assert_eq!(first.logprobs.len(), tokens.len());
            assert!(first.logprobs.iter().zip(&tokens).all(|(read, token)| read.token == *token));
            assert_eq!(first.tokens, Ok(tokens));
            assert_eq!((second.slot, &second.tokens), (SlotId(8), &Ok(vec![TokenId(1)])));
        }

        let ids = [NOT_FINITE, 5, 6, 1];
        let result = reports.result(1, &rows, &ids, &logprobs, &[]).unwrap();
        assert_eq!(result.samples[0].tokens, Err(NonFinite));
        assert_eq!(result.samples[1].tokens, Ok(vec![TokenId(1)]));
    }

    /// Rows 0 and 1 are scored, 2 reports nothing, 3 lists tokens, 4 wants the whole row.
    fn logits_rows() -> Vec<BatchLogits> {
        let given = LogprobSpec::Tokens(Arc::from([TokenId(5), TokenId(1)]));
        vec![
            logits_row(7, Some(2), Some(LogprobSpec::Top(1))),
            logits_row(7, Some(0), Some(LogprobSpec::Top(1))),
            logits_row(7, None, None),
            logits_row(3, None, Some(given)),
            logits_row(4, None, Some(LogprobSpec::Top(u32::MAX))),
        ]
    }

    #[test]
    fn requests_find_their_tokens_within_their_wave() {
        let reports = Reports::new(&logits_rows(), 3);
        assert_eq!((reports.answer_words, reports.whole_rows), (4 + 4 + 6, 1));
        let words = reports.requests(2);
        let words_of = size_of::<LogprobRequest>() / 4;
        let requests: &[LogprobRequest] = bytemuck::cast_slice(&words[..4 * words_of]);
        let request =
            |row, kept, count, tokens, answer| LogprobRequest { row, kept, count, tokens, answer };
        assert_eq!(requests[0], request(0, NOT_ASKED, 1, NOT_ASKED, 0));
        assert_eq!(requests[1], request(1, NOT_ASKED, 1, NOT_ASKED, 4));
        assert_eq!(requests[2], request(3, 0, 2, 2 * words_of as u32, 8));
        assert_eq!(requests[3], request(4, 1, u32::MAX, NOT_ASKED, NOT_ASKED));
        let second_wave = &words[2 * words_of..];
        assert_eq!(second_wave[requests[2].tokens as usize..], [5, 1]);
    }

    #[test]
    fn answers_become_results() {
        let reports = Reports::new(&logits_rows(), 3);
        let f = |x: f32| x.to_bits();
        let answers = [
            vec![f(-1.0), 2, 9, f(-0.5)],
            vec![f(-2.0), 3, 8, f(-0.25)],
            vec![f(-3.0), 4, 5, f(-4.0), 1, f(-5.0)],
        ]
        .concat();
        let logits = [0.0f32, 2.0, 1.0];
        let mut whole: Vec<u32> = logits.iter().map(|x| x.to_bits()).collect();
        // A buffer is longer than what is in it.
        whole.resize(8, 0x7f80_0000);
        let result =
            reports.result(1, &logits_rows(), &[0, 0, 11, 12, 1], &answers, &whole).unwrap();
        let read = |token, logprob, rank, top: &[(u32, f32)]| TokenLogprobs {
            token: TokenId(token),
            logprob,
            rank,
            top: top.iter().map(|&(t, x)| (TokenId(t), x)).collect(),
        };
        let scored = vec![read(2, -1.0, 2, &[(9, -0.5)]), read(0, -2.0, 3, &[(8, -0.25)])];
        let slot = SlotId(7);
        assert_eq!(result.reports, [Reported { slot, logprobs: Ok(scored) }]);
        let tokens = result.samples.iter().map(|s| s.tokens.clone());
        assert_eq!(tokens.collect::<Vec<_>>(), [11, 12, 1].map(|t| Ok(vec![TokenId(t)])));
        assert!(result.samples[0].logprobs.is_empty());
        assert_eq!(result.samples[1].logprobs, [read(12, -3.0, 4, &[(5, -4.0), (1, -5.0)])]);
        let all = TokenLogprobs::read(&logits, TokenId(1), &LogprobSpec::Top(3));
        assert_eq!(result.samples[2].logprobs, [all]);
        assert!(reports.result(1, &logits_rows(), &[0; 5], &answers[..9], &whole).is_err());
    }

    #[test]
    fn rows_that_are_not_finite_give_no_token_and_no_logprobs() {
        let reports = Reports::new(&logits_rows(), 3);
        // The second scored row, and the ids of two samples.
        let mut answers = [0; 14];
        answers[1] = 2;
        let ids = [0, 0, NOT_FINITE, 12, NOT_FINITE];
        let whole = [f32::NAN.to_bits(); 3];
        let result = reports.result(1, &logits_rows(), &ids, &answers, &whole).unwrap();
        assert_eq!(result.reports, [Reported { slot: SlotId(7), logprobs: Err(NonFinite) }]);
        let [first, second, third] = &result.samples[..] else { panic!("{result:?}") };
        assert_eq!((&first.tokens, &third.tokens), (&Err(NonFinite), &Err(NonFinite)));
        assert!(third.logprobs.is_empty());
        assert_eq!(second.tokens, Ok(vec![TokenId(12)]));

        let scored = [logits_row(7, Some(2), Some(LogprobSpec::Top(u32::MAX)))];
        let result = Reports::new(&scored, 3).result(1, &scored, &[0], &[], &whole).unwrap();
        assert_eq!(result.reports, [Reported { slot: SlotId(7), logprobs: Err(NonFinite) }]);
    }
}
