//! Products that sentence-transformers puts behind pooling: what their config.json says. Called by
//! `side_files` alone; `pooled_head` loads the tensors.

use std::path::{Path, PathBuf};

use super::keys;
use crate::error::{Error, Result};
use crate::files::Kind;
use crate::json::{self, Object};

/// A `Dense` module: a product, and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenseModule {
    /// Where its tensors `linear.weight` and `linear.bias` lie.
    pub folder: PathBuf,
    /// Elements of what it reads.
    pub inputs: usize,
    /// Elements of what it makes.
    pub outputs: usize,
    /// It has a bias.
    pub biased: bool,
    /// What follows.
    pub activation: DenseActivation,
}

/// What follows a product on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseActivation {
    /// Nothing does.
    None,
    /// Each element by itself.
    Tanh,
    /// max(x, 0)
    Relu,
    /// The exact form.
    Gelu,
}

/// Classes of torch by their last names.
const ACTIVATIONS: [(&str, DenseActivation); 4] = [
    ("Identity", DenseActivation::None),
    ("Tanh", DenseActivation::Tanh),
    ("ReLU", DenseActivation::Relu),
    ("GELU", DenseActivation::Gelu),
];

impl DenseModule {
    /// By `<folder>/config.json`. Without `activation_function` nothing follows, as in vLLM.
    ///
    /// # Errors
    /// A broken file, a size that is missing, an activation that is not built.
    pub fn read(folder: &Path) -> Result<DenseModule> {
        let path = folder.join("config.json");
        let map = json::read_object(&path, Kind::Config)?;
        let shown = path.display().to_string();
        let config = Object::new(&shown, &map);

        const ACTIVATION: &str = "activation_function";
        let class = config.text(ACTIVATION)?.unwrap_or("Identity");
        let name = class.rsplit('.').next().unwrap_or_default();
        let found = ACTIVATIONS.iter().find(|(known, _)| *known == name);
        let &(_, activation) = found.ok_or_else(|| {
            let known: Vec<&str> = ACTIVATIONS.iter().map(|&(name, _)| name).collect();
            Error::Unsupported(format!(
                "{}: '{}' is not supported; supported: {}.",
                config.name(ACTIVATION),
                json::cut(class),
                known.join(", ")
            ))
        })?;
        Ok(DenseModule {
            folder: folder.to_path_buf(),
            inputs: keys::needed_width(&config, "in_features")?,
            outputs: keys::needed_width(&config, "out_features")?,
            biased: config.flag("bias")?.unwrap_or(true),
            activation,
        })
    }
}
