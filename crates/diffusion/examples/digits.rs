//! Sixteen sevens of the model that ships with the repository: `cargo run -p diffusion --example digits` in its root.

use diffusion::{Model, sample::SamplerKind};

pub(crate) fn main() -> Result<(), diffusion::Error> {
    let model = Model::open("assets/digits.safetensors")?;
    model.images(16).class("7").sampler(SamplerKind::Ddim).steps(20).seed(1).save("sevens")?;
    Ok(())
}
