//! Training of a judge, a classifier whose features compare images.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion_data::{Batch, ImageDataset, LoaderConfig};
use diffusion_eval::{
    Judge, JudgeDescription, JudgeNetwork, JudgeNetworkConfig, JudgeTask, judge_id,
};
use diffusion_nn::Parameters;
use diffusion_process::log_likelihood;
use diffusion_random::{Domain, NoiseSource};
use rand::RngExt;

use super::{ClassifierStep, EVALUATION_BATCH, Training, field_error};
use crate::TrainError;
use crate::recipe::classes_of;

/// The configuration of a judge's training.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeTraining {
    /// The network. Default: [`JudgeNetworkConfig::new`] for the pictures.
    pub network: Option<JudgeNetworkConfig>,
    /// Learn rotations even if the pictures have classes. Default: false.
    pub rotations: bool,
    /// Pictures per update, at least 1. Default: 128.
    pub batch_size: usize,
    /// Mirror pictures, left to right, with probability ½. Default: false.
    pub flip: bool,
    /// The largest number of updates. Default: no limit.
    pub steps: Option<u64>,
    /// The time limit in minutes. Default: 10. The learning rate decays over the limit that is
    /// reached first.
    pub max_minutes: Option<f64>,
    /// The base learning rate, above 0. Default: 0.002.
    pub lr: f64,
    /// The seed of weights, picture order, shifts and rotations. Default: 0.
    pub seed: u64,
}

impl Default for JudgeTraining {
    fn default() -> Self {
        Self {
            network: None,
            rotations: false,
            batch_size: 128,
            flip: false,
            steps: None,
            max_minutes: Some(10.0),
            lr: 2e-3,
            seed: 0,
        }
    }
}

/// The largest shift of a picture by the augmentation, as a part of its side.
const SHIFT: usize = 8;
/// The number of rotations by quarter turns.
const TURNS: u32 = 4;

/// Trains a judge on `dataset`, called `name`, and measures its accuracy on `held_out`.
///
/// It learns the classes of the pictures, and pictures without a class are skipped. With fewer than
/// two classes, it learns by how many quarter turns a picture is rotated (Gidaris et al. 2018).
/// Pictures are shifted at random by up to an eighth of their side. The hidden matrices are updated
/// by Muon. `observer` is called after each update; if it breaks, the training ends early and the
/// result is the judge trained so far.
///
/// # Errors
/// If neither `steps` nor `max_minutes` is set; if the network does not fit the pictures; if
/// pictures to rotate are not square; if the loss is not finite.
pub fn train_judge(
    config: &JudgeTraining,
    name: &str,
    dataset: &ImageDataset,
    held_out: Option<&ImageDataset>,
    device: &Device,
    observer: &mut dyn FnMut(&ClassifierStep) -> ControlFlow<()>,
) -> Result<Judge, TrainError> {
    let present = classes_of(dataset).iter().filter(|class| class.pictures > 0).count();
    let (task, labelled) = if present < 2 || config.rotations {
        (JudgeTask::Rotations, None)
    } else {
        (JudgeTask::Classes(dataset.classes().to_vec()), Some(dataset.labelled()?))
    };
    let dataset = labelled.as_ref().unwrap_or(dataset);
    let labelled = held_out.filter(|_| task != JudgeTask::Rotations);
    let labelled = labelled.map(|set| set.labelled().ok());
    let held_out = match &labelled {
        Some(labelled) => labelled.as_ref(),
        None => held_out,
    };
    let shape = dataset.image_shape();
    if task == JudgeTask::Rotations && shape[1] != shape[2] {
        let size = format!("{}×{}", shape[2], shape[1]);
        let expected = "pictures without classes are rotated by quarter turns and must be square";
        return Err(field_error("the size of the pictures", size, expected));
    }
    let training = Training {
        dataset,
        loader: LoaderConfig {
            flip: config.flip,
            ..LoaderConfig::new(config.batch_size, config.seed)
        },
        steps: config.steps,
        max_minutes: config.max_minutes,
        lr: config.lr,
        muon: true,
        device,
    };
    training.check_length()?;
    let outputs = match &task {
        JudgeTask::Classes(names) => names.len(),
        JudgeTask::Rotations => TURNS as usize,
    };
    let network_config =
        config.network.clone().unwrap_or_else(|| JudgeNetworkConfig::new(shape, outputs));
    let build = |vb: candle_nn::VarBuilder<'_>| JudgeNetwork::new(&network_config, vb);
    let (network, parameters) = Parameters::initialise(config.seed, device, build)?;
    let parameters = parameters.with_outer_layers(&JudgeNetwork::OUTER_LAYERS);
    let (source, rotate) = (NoiseSource::new(config.seed), task == JudgeTask::Rotations);
    let loss = |batch: &Batch, step| {
        let moves = (0..batch.labels.len() as u64)
            .map(|i| Move::random(shape, rotate, source, step, i))
            .collect::<Vec<_>>();
        let labels = if rotate {
            moves.iter().map(|movement| Some(movement.turns)).collect()
        } else {
            batch.labels.clone()
        };
        let logits = network.forward(&moved(&batch.images, &moves)?)?.logits;
        log_likelihood(&logits, &labels)?.mean_all()?.neg()
    };
    let (ema, step) = training.run(&parameters, loss, observer)?;
    let weights = ema.tensors();
    let mut description = JudgeDescription {
        name: format!("judge of {name} ({})", judge_id(&weights)?),
        network: network_config,
        task,
        step,
        pictures: dataset.len(),
        held_out: held_out.map_or(0, ImageDataset::len),
        accuracy: None,
        reference: None,
    };
    let path = Path::new("the trained judge");
    let judge = Judge::new(description.clone(), weights.clone(), path, device)?;
    let Some(held_out) = held_out else { return Ok(judge) };
    description.accuracy = Some(judge_accuracy(&judge, held_out, device)?);
    Ok(Judge::new(description, weights, path, device)?)
}

/// The share of `pictures` that `judge` classifies correctly, in \[0, 1\]; for a judge of
/// rotations, the share of all rotations of all pictures.
///
/// A picture without a class counts as an error.
///
/// # Errors
/// If the pictures have another shape than those of the training.
pub fn judge_accuracy(
    judge: &Judge,
    pictures: &ImageDataset,
    device: &Device,
) -> Result<f64, TrainError> {
    let (mut right, mut all) = (0, 0);
    for first in (0..pictures.len()).step_by(EVALUATION_BATCH) {
        let chosen: Vec<usize> = (first..pictures.len().min(first + EVALUATION_BATCH)).collect();
        let images = pictures.images(&chosen, device)?;
        let mut count = |images: &Tensor, labels: &[Option<u32>]| -> Result<(), TrainError> {
            let answers = judge.judge(images)?.logits.argmax(1)?.to_vec1::<u32>()?;
            all += labels.len();
            right += answers.iter().zip(labels).filter(|(a, b)| Some(**a) == **b).count();
            Ok(())
        };
        if judge.description().task != JudgeTask::Rotations {
            let labels: Vec<_> = chosen.iter().map(|i| pictures.label(*i)).collect();
            count(&images, &labels)?;
            continue;
        }
        for turns in 0..TURNS {
            let moves = vec![Move { down: 0, right: 0, turns }; chosen.len()];
            count(&moved(&images, &moves)?, &vec![Some(turns); chosen.len()])?;
        }
    }
    Ok(right as f64 / all.max(1) as f64)
}

/// A shift of an image in pixels, and a rotation before it.
#[derive(Clone, Copy)]
struct Move {
    down: i32,
    right: i32,
    /// Quarter turns, 0 to 3.
    turns: u32,
}

impl Move {
    fn random(
        [_, height, width]: [usize; 3],
        rotate: bool,
        source: NoiseSource,
        step: u64,
        index: u64,
    ) -> Self {
        let mut rng = source.rng(Domain::Augmentation, step, index);
        let mut shift = |side: usize| {
            let most = i32::try_from(side / SHIFT).unwrap_or(i32::MAX);
            rng.random_range(-most..=most)
        };
        let (down, right) = (shift(height), shift(width));
        Self { down, right, turns: if rotate { rng.random_range(0..TURNS) } else { 0 } }
    }

    /// Moves one channel. Pixels at the edge fill the gap of a shift.
    fn apply(self, from: &[f32], to: &mut [f32], height: usize, width: usize) {
        let inside = |at: usize, shift: i32, side: usize| {
            at.saturating_add_signed(-shift as isize).min(side - 1)
        };
        for (i, to) in to.iter_mut().enumerate() {
            let (y, x) =
                (inside(i / width, self.down, height), inside(i % width, self.right, width));
            let (y, x) = match self.turns {
                0 => (y, x),
                1 => (x, width - 1 - y),
                2 => (height - 1 - y, width - 1 - x),
                _ => (height - 1 - x, y),
            };
            *to = from[y * width + x];
        }
    }
}

/// The `images` (N, C, H, W), each with its move.
fn moved(images: &Tensor, moves: &[Move]) -> candle_core::Result<Tensor> {
    let (_, channels, height, width) = images.dims4()?;
    let from = images.flatten_all()?.to_vec1::<f32>()?;
    let mut to = vec![0.0; from.len()];
    let pixels = height * width;
    for ((from, to), movement) in
        from.chunks_exact(channels * pixels).zip(to.chunks_exact_mut(channels * pixels)).zip(moves)
    {
        for (from, to) in from.chunks_exact(pixels).zip(to.chunks_exact_mut(pixels)) {
            movement.apply(from, to, height, width);
        }
    }
    Tensor::from_vec(to, images.shape(), images.device())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(movement: Move) -> Vec<f32> {
        let from: Vec<f32> = (0..9u8).map(f32::from).collect();
        let mut to = vec![0.0; 9];
        movement.apply(&from, &mut to, 3, 3);
        to
    }

    #[test]
    fn shifts_repeat_the_edge_and_four_quarter_turns_are_none() {
        let down = apply(Move { down: 1, right: 0, turns: 0 });
        assert_eq!(down, [0., 1., 2., 0., 1., 2., 3., 4., 5.]);
        let left = apply(Move { down: 0, right: -1, turns: 0 });
        assert_eq!(left, [1., 2., 2., 4., 5., 5., 7., 8., 8.]);
        let turned = apply(Move { down: 0, right: 0, turns: 1 });
        assert_eq!(turned, [2., 5., 8., 1., 4., 7., 0., 3., 6.]);
        let mut image: Vec<f32> = (0..9u8).map(f32::from).collect();
        for _ in 0..4 {
            let from = image.clone();
            Move { down: 0, right: 0, turns: 1 }.apply(&from, &mut image, 3, 3);
        }
        assert_eq!(image, (0..9u8).map(f32::from).collect::<Vec<_>>());
        for turns in 2..4 {
            let mut twice: Vec<f32> = (0..9u8).map(f32::from).collect();
            for _ in 0..turns {
                let from = twice.clone();
                Move { down: 0, right: 0, turns: 1 }.apply(&from, &mut twice, 3, 3);
            }
            assert_eq!(apply(Move { down: 0, right: 0, turns }), twice);
        }
    }
}
