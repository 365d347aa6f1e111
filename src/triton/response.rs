//! From an answer to a Triton response: names, types, shapes, bytes. The hot path of streaming:
//! nothing is allocated or formatted here, but for logprobs. Called by `client`.

use std::ffi::CStr;

use super::handles::{Request, Response};
use super::logprobs;
use super::sys::{self, TRITONSERVER_DataType};
use crate::engine::{Answer, Output};
use crate::error::Result;

/// Which outputs a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestedOutputs {
    /// The text, or the vector of a request to embed.
    pub text: bool,
    pub finish_reason: bool,
    pub cumulative_logprob: bool,
    pub logprobs: bool,
    pub num_input_tokens: bool,
    pub num_output_tokens: bool,
}

impl Default for RequestedOutputs {
    fn default() -> Self {
        RequestedOutputs {
            text: true,
            finish_reason: false,
            cumulative_logprob: false,
            logprobs: false,
            num_input_tokens: false,
            num_output_tokens: false,
        }
    }
}

impl RequestedOutputs {
    /// Drop what the client did not list among the outputs it asks for.
    pub(super) fn only_listed(&mut self, request: &Request, text_name: &CStr) -> Result<()> {
        let mut listed = RequestedOutputs { text: false, ..RequestedOutputs::default() };
        request.outputs(|name| match name {
            b"finish_reason" => listed.finish_reason = true,
            b"cumulative_logprob" => listed.cumulative_logprob = true,
            b"logprobs" => listed.logprobs = true,
            b"num_input_tokens" => listed.num_input_tokens = true,
            b"num_output_tokens" => listed.num_output_tokens = true,
            name => listed.text |= name == text_name.to_bytes(),
        })?;
        self.text &= listed.text;
        self.finish_reason &= listed.finish_reason;
        self.cumulative_logprob &= listed.cumulative_logprob;
        self.logprobs &= listed.logprobs;
        self.num_input_tokens &= listed.num_input_tokens;
        self.num_output_tokens &= listed.num_output_tokens;
        Ok(())
    }
}

/// How the answers of one request become tensors.
pub(super) struct Layout {
    pub text_name: &'static CStr,
    pub outputs: RequestedOutputs,
    /// Tensors carry a leading batch dimension.
    pub batched: bool,
    /// The texts are vectors: counts are scalars then, also the one of outputs.
    pub embedding: bool,
}

/// An answer and what stands before each of its texts (the prompt, or prompt and text so far).
#[derive(Clone, Copy)]
pub(super) struct AnswerRow<'a> {
    pub answer: &'a Answer,
    pub before: Before<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Before<'a> {
    Nothing,
    /// The same before every output.
    Prompt(&'a str),
    /// One per output; longer than the outputs is not possible.
    Each(&'a [String]),
}

impl Before<'_> {
    fn of(&self, output: usize) -> &str {
        match self {
            Before::Nothing => "",
            Before::Prompt(prompt) => prompt,
            Before::Each(texts) => texts.get(output).map_or("", String::as_str),
        }
    }
}

impl Layout {
    /// Fill one response with one or more rows that have the same number of outputs.
    ///
    /// # Errors
    /// What the server says of a buffer: above all, that it does not fit the shared memory which
    /// the client gave for it. The response is still good for an error.
    pub(super) fn fill(&self, response: &mut Response, rows: &[AnswerRow]) -> Result<()> {
        let outputs = rows.first().map_or(0, |row| row.answer.outputs.len());
        let grid = Grid { rows: rows.len(), outputs };
        let shape = [rows.len() as i64, outputs as i64];
        let shape = if self.batched { &shape[..] } else { &shape[1..] };
        let output = |r: usize, i: usize| rows[r].answer.outputs.get(i);

        if self.outputs.text {
            let pieces = |r: usize, i: usize, out: &mut dyn FnMut(&str)| {
                out(rows[r].before.of(i));
                out(output(r, i).map_or("", |o| o.text.as_str()));
            };
            strings(response, self.text_name, shape, grid, &pieces)?;
        }

        if self.outputs.finish_reason {
            let pieces = |r: usize, i: usize, out: &mut dyn FnMut(&str)| {
                let reason = output(r, i).and_then(|o| o.finish_reason);
                out(reason.map_or("None", |reason| reason.as_str()));
            };
            strings(response, c"finish_reason", shape, grid, &pieces)?;
        }

        if self.outputs.cumulative_logprob {
            let f32s = sys::TRITONSERVER_TYPE_FP32;
            let sum = |output: &Output| output.cumulative_logprob.to_le_bytes();
            numbers(response, c"cumulative_logprob", f32s, shape, rows, sum)?;
        }

        if self.outputs.logprobs {
            let text = |o: &Output| logprobs::json(o.logprobs.as_deref());
            let all = rows.iter().map(|row| row.answer.outputs.iter().map(text).collect());
            let all: Vec<Vec<String>> = all.collect();
            let pieces = |r: usize, i: usize, out: &mut dyn FnMut(&str)| {
                out(all[r].get(i).map_or("null", String::as_str));
            };
            strings(response, c"logprobs", shape, grid, &pieces)?;
        }

        if self.outputs.num_input_tokens {
            let shape = [rows.len() as i64, 1];
            // Without a batch dimension a scalar: the Python backend's shape is [] though declared
            // [1].
            let shape = if self.batched { &shape[..] } else { &shape[..0] };
            let name = c"num_input_tokens";
            let buffer =
                response.output(name, sys::TRITONSERVER_TYPE_UINT32, shape, 4 * rows.len())?;
            for (cell, row) in buffer.chunks_exact_mut(4).zip(rows) {
                cell.copy_from_slice(&row.answer.prompt_tokens.to_le_bytes());
            }
        }

        if self.outputs.num_output_tokens {
            let shape = if self.embedding && !self.batched { &shape[..0] } else { shape };
            let u32s = sys::TRITONSERVER_TYPE_UINT32;
            let count = |output: &Output| output.tokens.to_le_bytes();
            numbers(response, c"num_output_tokens", u32s, shape, rows, count)?;
        }
        Ok(())
    }
}

/// How many strings a tensor has.
#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    /// Of each row.
    outputs: usize,
}

/// Calls back with the parts of one string: that of a row and an output.
type Pieces<'a> = dyn Fn(usize, usize, &mut dyn FnMut(&str)) + 'a;

/// A BYTES tensor with a string for each place of `grid`: each element is its length (4 bytes,
/// little endian) and its bytes.
fn strings(
    response: &mut Response,
    name: &CStr,
    shape: &[i64],
    grid: Grid,
    pieces: &Pieces,
) -> Result<()> {
    let Grid { rows, outputs } = grid;
    let mut total = 4 * outputs * rows;
    for row in 0..rows {
        (0..outputs).for_each(|i| pieces(row, i, &mut |piece| total += piece.len()));
    }

    let buffer = response.output(name, sys::TRITONSERVER_TYPE_BYTES, shape, total)?;
    let mut at = 0;
    for row in 0..rows {
        for i in 0..outputs {
            let start = at;
            at += 4;
            pieces(row, i, &mut |piece| {
                buffer[at..at + piece.len()].copy_from_slice(piece.as_bytes());
                at += piece.len();
            });
            let length = (at - start - 4) as u32;
            buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
        }
    }
    Ok(())
}

/// A tensor of 4-byte numbers, one per output.
fn numbers(
    response: &mut Response,
    name: &CStr,
    datatype: TRITONSERVER_DataType,
    shape: &[i64],
    rows: &[AnswerRow],
    value: impl Fn(&Output) -> [u8; 4],
) -> Result<()> {
    let outputs = rows.iter().flat_map(|row| &row.answer.outputs);
    let bytes = 4 * outputs.clone().count();
    let buffer = response.output(name, datatype, shape, bytes)?;
    for (cell, output) in buffer.chunks_exact_mut(4).zip(outputs) {
        cell.copy_from_slice(&value(output));
    }
    Ok(())
}
