//! The block's forward pass.

use rayon::prelude::*;

use super::conv::Conv;
use super::{Parameters, Settings, Sizes, Stack};
use crate::TimeConditioning;
use crate::arith::product::{Factor, Target, product_of_words};
use crate::arith::vector::{add, padded};
use crate::image::norm::{Norm, Statistics};
use crate::image::pixels::{padded_len, write_pixels};
use crate::image::transpose::channels_last;
use crate::image::winograd::Canvas;
use crate::image::words::{by_channel, by_term};
use crate::memory::scratch::Scratch;
use crate::memory::uninit::UninitSlice;

/// The forward pass with its parameters, for all images.
pub(crate) struct ForwardPass<'a> {
    settings: &'a Settings,
    norm1: Norm<'a>,
    norm2: [&'a [f32]; 2],
    /// The embeddings of all images, concatenated.
    embedding: &'a [f32],
    conv1: Conv,
    conv2: Conv,
    /// `[input][output padded]`, as words.
    skip: Option<Scratch>,
    /// The initial values of the first convolution, padded: its bias, or for each image its bias
    /// plus the embedding.
    starts: Vec<f32>,
    /// The sum of the second convolution's bias and the skip's bias, padded.
    bias2: Vec<f32>,
}

impl<'a> ForwardPass<'a> {
    pub(crate) fn new(settings: &'a Settings, parameters: Parameters<'a>) -> Self {
        let Sizes { inputs, outputs, .. } = settings.sizes;
        let Parameters { norm1, conv1, norm2, conv2, skip, embedding } = parameters;
        let sum =
            |a: &[f32], b: &[f32]| padded(&a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>());
        let conv = |weight, inputs| {
            Conv::new(settings.isa, settings.sizes.method(inputs), weight, [outputs, inputs])
        };
        Self {
            settings,
            norm1: settings.norm(norm1),
            norm2,
            embedding,
            conv1: conv(conv1[0], inputs),
            conv2: conv(conv2[0], outputs),
            skip: settings.sizes.skip.then(|| {
                let weights = channels_last(settings.isa, skip[0], [outputs, inputs]);
                by_term(settings.isa, settings.isa.format(), weights, padded_len(outputs))
            }),
            starts: match settings.sizes.conditioning {
                TimeConditioning::Add => {
                    embedding.chunks_exact(outputs).flat_map(|e| sum(e, conv1[1])).collect()
                }
                TimeConditioning::ScaleShift => padded(conv1[1]),
            },
            bias2: if settings.sizes.skip { sum(conv2[1], skip[1]) } else { padded(conv2[1]) },
        }
    }

    /// Computes the first convolution's output for the images of `x` from image `first` on, with
    /// padded channels.
    pub(crate) fn hidden(&self, x: &Stack<'_>, first: usize, hidden: &mut [f32]) {
        let size = self.settings.sizes.pixels() * self.settings.sizes.padded_outputs();
        self.first_half(&x.images(first, hidden.len() / size), first, hidden);
    }

    /// Like [`Self::hidden`], for the padded pixels of images. Returns the statistics of the first
    /// normalisation for each image.
    fn first_half(&self, x: &[f32], first: usize, hidden: &mut [f32]) -> Vec<Statistics> {
        let &Sizes { inputs, tiles, .. } = &self.settings.sizes;
        let pitch = self.settings.sizes.padded_outputs();
        let images = hidden.len() / (tiles.pixels() * pitch);
        let mut canvas = Canvas::new(tiles, images, inputs);
        let inputs_of = x.par_chunks_exact(x.len() / images);
        let with_inputs = canvas.par_images_mut().zip(inputs_of);
        let statistics =
            with_inputs.map(|(rows, x)| self.norm1.activate(x, rows, None)).collect::<Vec<_>>();
        let starts = match self.settings.sizes.conditioning {
            TimeConditioning::Add => &self.starts[first * pitch..][..images * pitch],
            TimeConditioning::ScaleShift => &self.starts,
        };
        self.conv1.run(&canvas, starts, hidden, self.settings.sizes.by_image());
        statistics
    }

    /// Computes `y` for the images of `x` from image `first` on. `hidden`, with padded channels,
    /// receives the first convolution's output. Returns the statistics of both normalisations for
    /// each image.
    pub(crate) fn images(
        &self,
        x: &Stack<'_>,
        first: usize,
        hidden: &mut [f32],
        y: UninitSlice<'_>,
    ) -> Vec<[Statistics; 2]> {
        let (settings, isa) = (self.settings, self.settings.isa);
        let &Sizes { inputs, outputs, tiles, .. } = &settings.sizes;
        let (pixels, pitch) = (tiles.pixels(), settings.sizes.padded_outputs());
        let images = hidden.len() / (pixels * pitch);
        let x = x.images(first, images);
        let first_statistics = self.first_half(&x, first, hidden);

        let mut canvas = Canvas::new(tiles, images, outputs);
        let hidden = hidden.par_chunks_exact(pixels * pitch).enumerate();
        let with_hidden = canvas.par_images_mut().zip(hidden);
        let second_statistics = with_hidden.map(|(rows, (i, hidden))| {
            let effective = settings.modulated(self.norm2, self.embedding, first + i).effective();
            let mask = settings.mask(first + i);
            settings.norm([&effective[0], &effective[1]]).activate(hidden, rows, mask)
        });
        let second_statistics: Vec<_> = second_statistics.collect();
        write_pixels(y, outputs, |y| {
            self.conv2.run(&canvas, &self.bias2, y, settings.sizes.by_image());
            if let Some(skip) = &self.skip {
                let (format, pitch_in) = (isa.format(), padded_len(inputs));
                let x = x.par_chunks_exact(pixels * pitch_in);
                y.par_chunks_exact_mut(pixels * pitch).zip(x).for_each(|(y, x)| {
                    let x = by_channel(isa, format, x, pitch_in);
                    let x = Factor::matrix(&x, format.channels(pitch_in), format.channels(inputs));
                    let y = Target::onto(y, pitch);
                    product_of_words(isa, format, x, skip, [pixels, pitch], y);
                });
            } else {
                add(isa, &x, y);
            }
        });
        let both = first_statistics.into_iter().zip(second_statistics);
        both.map(|(first, second)| [first, second]).collect()
    }
}
