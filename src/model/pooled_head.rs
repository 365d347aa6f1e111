//! What follows a pooled row on the host, in float32: the head of a classifier, or the products
//! that sentence-transformers puts behind pooling. A few products by a vector, which cost less than
//! to fetch their result from a device. `engine` loads it beside the decoder and runs it where
//! answers are made; what becomes of the result then is the business of [`PoolingRule`].

use super::architectures::ClassifierDense;
use super::checkpoint::{Checkpoint, WeightSource};
use super::config::{
    ClassifierRule, ClassifierWeights, DenseActivation, DenseModule, ModelSpec, PooledAnswer,
    PoolingRule,
};
use super::load::prefix_of;
use crate::device::cpu::numbers;
use crate::device::{Activation, NormKind};
use crate::error::Result;
use crate::ids::TokenId;
use crate::{internal, invalid, json};

/// From a pooled row to logits, or to a vector of another width.
#[derive(Debug)]
pub struct PooledHead {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Product(Product),
    Tanh,
    Activation(Activation),
    /// A layer norm without bias.
    Norm {
        weight: Vec<f32>,
        eps: f32,
    },
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

impl PooledHead {
    /// Of a model that pools, if it has one. Made-up weights are zeros.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape than the labels ask for; a token that the
    /// tokenizer or the model lacks.
    pub fn load(
        spec: &ModelSpec,
        rule: &PoolingRule,
        source: &WeightSource,
        token_of: TokenOf,
    ) -> Result<Option<PooledHead>> {
        let steps = match &rule.answer {
            PooledAnswer::Scores(rule) => classifier(spec, rule, source, token_of)?,
            PooledAnswer::Vector(rule) if rule.dense.is_empty() => return Ok(None),
            PooledAnswer::Vector(rule) => {
                let mut steps = Vec::new();
                for module in &rule.dense {
                    steps.push(Step::Product(of_module(module, source)?));
                    steps.extend(following(module.activation));
                }
                steps
            }
        };
        Ok(Some(PooledHead { steps }))
    }

    /// Of one row.
    pub fn of(&self, pooled: Vec<f32>) -> Vec<f32> {
        self.steps.iter().fold(pooled, |x, step| step.of(x))
    }
}

impl Step {
    fn of(&self, mut x: Vec<f32>) -> Vec<f32> {
        match self {
            Step::Product(product) => return product.of(&x),
            Step::Tanh => x.iter_mut().for_each(|x| *x = x.tanh()),
            Step::Activation(act) => numbers::activate(*act, &mut x),
            Step::Norm { weight, eps } => {
                let input = x.clone();
                numbers::norm(NormKind::Layer, *eps, weight, None, &input, &mut x);
            }
        }
        x
    }
}

fn following(activation: DenseActivation) -> Option<Step> {
    match activation {
        DenseActivation::None => None,
        DenseActivation::Tanh => Some(Step::Tanh),
        DenseActivation::Relu => Some(Step::Activation(Activation::Relu)),
        DenseActivation::Gelu => Some(Step::Activation(Activation::Gelu)),
    }
}

/// The product of a module of sentence-transformers.
fn of_module(module: &DenseModule, source: &WeightSource) -> Result<Product> {
    match source {
        WeightSource::Dummy => Ok(Product::zeros(module.outputs)),
        WeightSource::Files(_) => {
            let checkpoint = Checkpoint::open(&module.folder)?;
            Product::read(&checkpoint, "linear", module.outputs, module.inputs, module.biased)
        }
    }
}

/// From a pooled row to the logits of labels.
fn classifier(
    spec: &ModelSpec,
    rule: &ClassifierRule,
    source: &WeightSource,
    token_of: TokenOf,
) -> Result<Vec<Step>> {
    let (labels, hidden) = (rule.labels, spec.hidden);
    let WeightSource::Files(checkpoint) = source else {
        return Ok(vec![Step::Product(Product::zeros(labels))]);
    };
    let prefix = prefix_of(spec, source);

    match &rule.weights {
        ClassifierWeights::Stored => stored(spec, prefix, checkpoint, labels),
        ClassifierWeights::OfTokens { tokens, difference, tied } => {
            let names = &spec.family.names;
            let name = if *tied {
                format!("{prefix}{}.weight", names.embed)
            } else {
                format!("{}.weight", names.head)
            };

            let mut rows = rows_of(spec, checkpoint, &name, tokens, token_of)?;
            if *difference {
                let (no, yes) = rows.split_at(hidden);
                rows = yes.iter().zip(no).map(|(yes, no)| yes - no).collect();
            }
            let output = Product { weight: rows, inputs: hidden, bias: vec![0.0; labels] };
            Ok(vec![Step::Product(output)])
        }
    }
}

/// As the family's row names the tensors.
fn stored(
    spec: &ModelSpec,
    prefix: &str,
    checkpoint: &Checkpoint,
    labels: usize,
) -> Result<Vec<Step>> {
    let row = &spec.family.classifier;
    let hidden = spec.hidden;
    let read = |name: &str, biased| Product::read(checkpoint, name, hidden, hidden, biased);
    let mut steps = match row.dense {
        ClassifierDense::None => Vec::new(),
        ClassifierDense::OfBody(name) => {
            vec![Step::Product(read(&format!("{prefix}{name}"), true)?), Step::Tanh]
        }
        ClassifierDense::OfHead(name) => vec![Step::Product(read(name, true)?), Step::Tanh],
        ClassifierDense::Normed { dense, norm } => {
            let weight = checkpoint.tensor(&format!("{norm}.weight"), hidden, 1)?.values()?;
            vec![
                Step::Product(read(dense, false)?),
                Step::Activation(Activation::Gelu),
                Step::Norm { weight, eps: spec.inner_eps },
            ]
        }
    };

    let output = Product::read(checkpoint, row.output, labels, hidden, row.biased);
    let output = output.map_err(|e| {
        e.context(&format!("a classifier of {labels} labels (id2label or num_labels): "))
    })?;
    steps.push(Step::Product(output));
    Ok(steps)
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
        let bias = if biased || checkpoint.contains(&bias) {
            checkpoint.tensor(&bias, outputs, 1)?.values()?
        } else {
            vec![0.0; outputs]
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
