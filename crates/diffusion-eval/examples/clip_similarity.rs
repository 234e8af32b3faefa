//! The similarity of video clips whose frames are pooled by mean, maximum or attention.
//!
//! `cargo run -p diffusion-eval --example clip_similarity`

use candle_core::{D, Device, Result, Tensor};
use diffusion_process::{Domain, NoiseSource};

/// The shape (C, T, H, W) of a clip's features, with T frames.
const SHAPE: [usize; 4] = [64, 8, 7, 7];
const PAIRS: u64 = 5;
/// The scale of the noise that turns a clip into another take of it.
const NOISE: f64 = 0.1;

#[derive(Clone, Copy, Debug)]
enum Pooling {
    Average,
    Maximum,
    /// A weighted mean of frames. The weights are the softmax of the scaled dot product of each
    /// frame with the mean over all frames.
    Attention,
}

impl Pooling {
    const ALL: [Self; 3] = [Self::Average, Self::Maximum, Self::Attention];

    /// Pools `clip` (C, T, H, W) to a vector of C·H·W values.
    fn pool(self, clip: &Tensor) -> Result<Tensor> {
        let [channels, frames, height, width] = SHAPE;
        let by_frame = clip.transpose(0, 1)?.reshape((frames, channels * height * width))?;
        match self {
            Self::Average => by_frame.mean(0),
            Self::Maximum => by_frame.max(0),
            Self::Attention => {
                let query = by_frame.mean_keepdim(0)?;
                let scale = 1.0 / (by_frame.dim(1)? as f64).sqrt();
                let scores = by_frame.broadcast_mul(&query)?.sum(1)?.affine(scale, 0.0)?;
                let weights = softmax(&scores)?.reshape((frames, 1))?;
                by_frame.broadcast_mul(&weights)?.sum(0)
            }
        }
    }
}

fn softmax(scores: &Tensor) -> Result<Tensor> {
    let exp = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// The cosine of the angle between two vectors, in [−1, 1].
fn cosine(a: &Tensor, b: &Tensor) -> Result<f64> {
    let dot = |a: &Tensor, b: &Tensor| -> Result<f64> {
        Ok(f64::from((a * b)?.sum_all()?.to_scalar::<f32>()?))
    };
    Ok(dot(a, b)? / (dot(a, a)? * dot(b, b)?).sqrt())
}

/// A random clip, also used as noise for another clip.
fn clip(draw: u64, pair: u64) -> Result<Tensor> {
    NoiseSource::new(0).normal(Domain::Initial, draw, [pair], &SHAPE, &Device::Cpu)?.squeeze(0)
}

/// The mean similarity of two takes of the same clip, and of two different clips.
fn similarities(pooling: Pooling) -> Result<[f64; 2]> {
    let mut sums = [0.0; 2];
    for pair in 0..PAIRS {
        let one = clip(0, pair)?;
        let take = (&one + clip(1, pair)?.affine(NOISE, 0.0)?)?;
        let other = clip(2, pair)?;
        let pooled = pooling.pool(&one)?;
        sums[0] += cosine(&pooled, &pooling.pool(&take)?)? / PAIRS as f64;
        sums[1] += cosine(&pooled, &pooling.pool(&other)?)? / PAIRS as f64;
    }
    Ok(sums)
}

fn main() -> Result<()> {
    println!("{:<10} {:>8} {:>10} {:>8}", "pooling", "similar", "different", "gap");
    for pooling in Pooling::ALL {
        let [similar, different] = similarities(pooling)?;
        println!(
            "{:<10} {similar:>8.4} {different:>10.4} {:>8.4}",
            format!("{pooling:?}").to_lowercase(),
            similar - different
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarities_are_the_expected_ones() {
        // A vector and itself with noise of scale 0.1: 1/√(1 + 0.01), for any average over frames.
        let expected = 1.0 / (1.0 + NOISE * NOISE).sqrt();
        let [similar, different] = similarities(Pooling::Average).unwrap();
        assert!(
            (similar - expected).abs() < 1e-3 && different.abs() < 0.03,
            "{similar} {different}"
        );
        let [similar, different] = similarities(Pooling::Attention).unwrap();
        assert!(
            (similar - expected).abs() < 0.02 && different.abs() < 0.05,
            "{similar} {different}"
        );
        // The maximum of 8 normal numbers has mean 1.42 and variance 0.37. So the cosine of two
        // different clips is 1.42²/(1.42² + 0.37).
        let [similar, different] = similarities(Pooling::Maximum).unwrap();
        assert!((different - 0.844).abs() < 0.02 && similar > 0.98, "{similar} {different}");
    }

    #[test]
    fn softmax_weights_sum_to_1_and_cosine_measures_the_angle() {
        let weights = softmax(&Tensor::new(&[1f32, 1.0, 100.0], &Device::Cpu).unwrap())
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6 && weights[2] > 0.99);
        let vector = |x: [f32; 2]| Tensor::new(&x, &Device::Cpu).unwrap();
        let angle = cosine(&vector([1.0, 0.0]), &vector([1.0, 1.0])).unwrap();
        assert!((angle - std::f64::consts::FRAC_1_SQRT_2).abs() < 1e-6);
    }
}
