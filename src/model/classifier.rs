//! The head of a classifier: logits of a pooled row, in float32 on the host. One or two products by
//! a vector, which cost less than to fetch their result from a device. `engine` loads it beside the
//! decoder and runs it where answers are made; what scores become of logits is
//! [`ClassifierRule`]'s.

use super::architectures::ClassifierDense;
use super::checkpoint::{Checkpoint, WeightSource};
use super::config::{ClassifierRule, ClassifierWeights, ModelSpec};
use super::load::prefix_of;
use crate::error::Result;
use crate::ids::TokenId;
use crate::{internal, invalid, json};

/// From a pooled row to logits.
#[derive(Debug)]
pub struct ClassifierHead {
    /// Followed by tanh.
    dense: Option<Product>,
    output: Product,
}

/// `weight x + bias`.
#[derive(Debug)]
struct Product {
    /// `[outputs, inputs]`; nothing stands for zeros.
    weight: Vec<f32>,
    inputs: usize,
    bias: Vec<f32>,
}

/// Which token the tokenizer spells so.
pub type TokenOf<'a> = &'a dyn Fn(&str) -> Option<TokenId>;

impl ClassifierHead {
    /// The head of a model that classifies. Made-up weights are zeros.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape than the labels ask for; a token that the
    /// tokenizer or the model lacks.
    pub fn load(
        spec: &ModelSpec,
        rule: &ClassifierRule,
        source: &WeightSource,
        token_of: TokenOf,
    ) -> Result<ClassifierHead> {
        let (labels, hidden) = (rule.labels, spec.hidden);
        let WeightSource::Files(checkpoint) = source else {
            return Ok(ClassifierHead { dense: None, output: Product::zeros(labels) });
        };
        let prefix = prefix_of(spec, source);

        match &rule.weights {
            ClassifierWeights::Stored => stored(spec, prefix, checkpoint, labels),
            ClassifierWeights::OfTokens { tokens, difference, tied } => {
                let names = &spec.family.names;
                let name = match tied {
                    true => format!("{prefix}{}.weight", names.embed),
                    false => format!("{}.weight", names.head),
                };

                let mut rows = rows_of(spec, checkpoint, &name, tokens, token_of)?;
                if *difference {
                    let (no, yes) = rows.split_at(hidden);
                    rows = yes.iter().zip(no).map(|(yes, no)| yes - no).collect();
                }
                let output = Product { weight: rows, inputs: hidden, bias: vec![0.0; labels] };
                Ok(ClassifierHead { dense: None, output })
            }
        }
    }

    /// Of one row.
    pub fn logits(&self, pooled: &[f32]) -> Vec<f32> {
        match &self.dense {
            None => self.output.of(pooled),
            Some(dense) => {
                let inner: Vec<f32> = dense.of(pooled).into_iter().map(f32::tanh).collect();
                self.output.of(&inner)
            }
        }
    }
}

/// As the family's row names the tensors.
fn stored(
    spec: &ModelSpec,
    prefix: &str,
    checkpoint: &Checkpoint,
    labels: usize,
) -> Result<ClassifierHead> {
    let row = &spec.family.classifier;
    let hidden = spec.hidden;
    let dense = match row.dense {
        ClassifierDense::None => None,
        ClassifierDense::OfBody(name) => Some(format!("{prefix}{name}")),
        ClassifierDense::OfHead(name) => Some(name.to_string()),
    };
    let dense = dense.map(|name| Product::read(checkpoint, &name, hidden, hidden, true));
    let output = Product::read(checkpoint, row.output, labels, hidden, row.biased);
    let output = output.map_err(|e| {
        e.context(&format!("a classifier of {labels} labels (id2label or num_labels): "))
    })?;
    Ok(ClassifierHead { dense: dense.transpose()?, output })
}

/// The rows of these tokens in a table of all.
fn rows_of(
    spec: &ModelSpec,
    checkpoint: &Checkpoint,
    name: &str,
    tokens: &[String],
    token_of: TokenOf,
) -> Result<Vec<f32>> {
    let table = checkpoint.tensor(name, spec.vocab_size, spec.hidden)?;
    let mut rows = Vec::new();
    for token in tokens {
        let known = token_of(token).filter(|id| id.index() < spec.vocab_size);
        let id = known.ok_or_else(|| {
            let token = json::cut(token);
            invalid!(
                "config.json or hf_overrides: 'classifier_from_token': the tokenizer has no token \
                 '{token}'."
            )
        })?;
        rows.extend(table.rows(id.index()..id.index() + 1).values()?);
    }
    Ok(rows)
}

impl Product {
    fn zeros(outputs: usize) -> Product {
        Product { weight: Vec::new(), inputs: 0, bias: vec![0.0; outputs] }
    }

    fn read(
        checkpoint: &Checkpoint,
        name: &str,
        outputs: usize,
        inputs: usize,
        biased: bool,
    ) -> Result<Product> {
        let weight = checkpoint.tensor(&format!("{name}.weight"), outputs, inputs)?.values()?;
        let bias = format!("{name}.bias");
        let bias = match biased || checkpoint.contains(&bias) {
            true => checkpoint.tensor(&bias, outputs, 1)?.values()?,
            false => vec![0.0; outputs],
        };
        if weight.len() != outputs * inputs || bias.len() != outputs {
            return Err(internal!("{name} has {} elements", weight.len()));
        }
        Ok(Product { weight, inputs, bias })
    }

    fn of(&self, input: &[f32]) -> Vec<f32> {
        if self.weight.is_empty() {
            return self.bias.clone();
        }
        let rows = self.weight.chunks_exact(self.inputs.max(1)).zip(&self.bias);
        rows.map(|(row, bias)| dot(row, input) + bias).collect()
    }
}

/// Sums of every sixteenth product, which a compiler turns into vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (a, b) = (a.chunks(LANES), b.chunks(LANES));
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}
