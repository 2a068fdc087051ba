//! BERT in tch, under the names that checkpoints use, and a way to load a checkpoint into a `VarStore` strictly.

mod bert;
mod strict;
mod tokens;

pub use bert::{Bert, Config};
pub use strict::load_strictly;
pub use tokens::TokenClassifier;
