//! The block's backward pass.

use rayon::prelude::*;

use super::conv::{Conv, ConvSums};
use super::{Parameters, Settings, Sizes, Stack};
use crate::TimeConditioning;
use crate::arith::isa::Isa;
use crate::arith::product::{Factor, Target, product_of_words};
use crate::arith::vector::{add, add_up};
use crate::image::norm::{Norm, Statistics};
use crate::image::pixels::{Pixels, padded_len, write_stacked};
use crate::image::transpose::to_channels_first;
use crate::image::winograd::{Canvas, SUM_STRIP};
use crate::image::words::{self, by_row, by_term};
use crate::memory::buffer::Buffer;
use crate::memory::scratch::Scratch;
use crate::memory::uninit::{UninitSlice, UninitVec};

/// The number of input channels of a skip convolution whose weight gradients one task sums.
const SKIP_ROWS: usize = 56;

/// The backward pass with its parameters, for all images.
pub(crate) struct BackwardPass<'a> {
    settings: &'a Settings,
    norm1: Norm<'a>,
    norm2: [&'a [f32]; 2],
    /// The embeddings of all images, concatenated.
    embedding: &'a [f32],
    /// The statistics of both normalisations for each image.
    statistics: &'a [[Statistics; 2]],
    conv1: Conv,
    conv2: Conv,
    /// `[output][input padded]`, as words.
    skip: Option<Scratch>,
}

/// The parameter gradients of one task, summed over its images.
struct Sums {
    conv1: ConvSums,
    /// The gradient of the first convolution's bias, padded.
    bias1: Vec<f32>,
    conv2: ConvSums,
    /// `[input][output padded]`.
    skip: Vec<f32>,
    /// Pairs of weight and bias gradient for each channel.
    norm1: Vec<[f32; 2]>,
    norm2: Vec<[f32; 2]>,
    /// The sums of dy, padded: the gradient of the second convolution's bias and of the skip's
    /// bias.
    dy: Vec<f32>,
}

impl Sums {
    /// Adds the gradient of the skip convolution's weights, if there is one, from its inputs and
    /// the gradients of its outputs. Pixels are `pitches` floats apart.
    fn add_skip(&mut self, isa: Isa, x: &[f32], dy: &[f32], [pitch_in, pitch]: [usize; 2]) {
        if self.skip.is_empty() {
            return;
        }
        let format = isa.format();
        let pixels = format.rows(dy.len() / pitch);
        let (x, dy) = (by_row(isa, format, x, pitch_in), by_row(isa, format, dy, pitch));
        // A task takes some input channels, so that the order of the sums does not change.
        self.skip.par_chunks_mut(SKIP_ROWS * pitch).enumerate().for_each(|(i, dw)| {
            let x = Factor::transposed(&x[i * SKIP_ROWS..], pitch_in, pixels);
            let rows = dw.len() / pitch;
            product_of_words(isa, format, x, &dy, [rows, pitch], Target::onto(dw, pitch));
        });
    }
}

impl<'a> BackwardPass<'a> {
    /// `statistics` are those of the forward pass, for each image.
    pub(crate) fn new(
        settings: &'a Settings,
        parameters: Parameters<'a>,
        statistics: &'a [[Statistics; 2]],
    ) -> Self {
        let Sizes { inputs, outputs, .. } = settings.sizes;
        let Parameters { norm1, conv1, norm2, conv2, skip, embedding } = parameters;
        let padded_in = padded_len(inputs);
        let conv = |weight, inputs| {
            Conv::transposed(settings.isa, settings.sizes.method(inputs), weight, [outputs, inputs])
        };
        let skip = settings.sizes.skip.then(|| {
            let mut padded = Scratch::zeroed(outputs * padded_in);
            let rows = padded.chunks_exact_mut(padded_in).zip(skip[0].chunks_exact(inputs));
            rows.for_each(|(to, from)| to[..inputs].copy_from_slice(from));
            by_term(settings.isa, settings.isa.format(), padded, padded_in)
        });
        Self {
            settings,
            norm1: settings.norm(norm1),
            norm2,
            embedding,
            statistics,
            conv1: conv(conv1[0], inputs),
            conv2: conv(conv2[0], outputs),
            skip,
        }
    }

    /// Processes a task's images of `x` from image `first` on. Writes the gradients of the parts of
    /// `x` to `dx` and those of the embedding to `de`. Returns the summed gradients of the
    /// parameters, in the order of the block.
    pub(crate) fn chunk(
        &self,
        x: &Stack<'_>,
        first: usize,
        [hidden, dy]: [&[f32]; 2],
        dx: Vec<(UninitSlice<'_>, usize)>,
        de: &mut [f32],
    ) -> Vec<Buffer> {
        let sizes = &self.settings.sizes;
        let (pixels, group) = (sizes.pixels(), sizes.group(SUM_STRIP));
        let mut sums = self.begin();
        let mut dx: Vec<_> = dx
            .into_iter()
            .map(|(dx, channels)| (dx.chunks(group * pixels * channels), channels))
            .collect();
        let groups = hidden.chunks(group * pixels * sizes.padded_outputs());
        let groups = groups.zip(dy.chunks(group * pixels * sizes.outputs));
        for (i, (de, hidden_dy)) in de.chunks_mut(group * sizes.embedding()).zip(groups).enumerate()
        {
            let images = de.len() / sizes.embedding();
            let dx = dx
                .iter_mut()
                .filter_map(|(chunks, channels)| Some((chunks.next()?, *channels)))
                .collect();
            self.images(x, (first + i * group, images), hidden_dy, dx, de, &mut sums);
        }
        self.finish(&sums)
    }

    /// Sums of zero.
    fn begin(&self) -> Sums {
        let Sizes { inputs, outputs, skip, .. } = self.settings.sizes;
        let pitch = self.settings.sizes.padded_outputs();
        let sums = |inputs| {
            ConvSums::new(self.settings.isa, self.settings.sizes.method(inputs), [outputs, inputs])
        };
        Sums {
            conv1: sums(inputs),
            bias1: vec![0.0; pitch],
            conv2: sums(outputs),
            skip: vec![0.0; if skip { inputs * pitch } else { 0 }],
            norm1: vec![[0.0; 2]; inputs],
            norm2: vec![[0.0; 2]; outputs],
            dy: vec![0.0; pitch],
        }
    }

    /// Processes `images` images of `x` from image `first` on, from the last layer to the first.
    /// They stay in the cache. `hidden` has padded channels.
    fn images(
        &self,
        x: &Stack<'_>,
        (first, images): (usize, usize),
        (hidden, dy): (&[f32], &[f32]),
        dx: Vec<(UninitSlice<'_>, usize)>,
        de: &mut [f32],
        sums: &mut Sums,
    ) {
        let Sizes { inputs, outputs, .. } = self.settings.sizes;
        let x = &x.images(first, images);
        let dy = &Pixels::new(dy, outputs);
        let d_hidden = self.second_half((first, images), (hidden, dy), de, sums);
        self.first_half((x, first), &d_hidden, dy, dx, sums);
        let pitches = [padded_len(inputs), self.settings.sizes.padded_outputs()];
        sums.add_skip(self.settings.isa, x, dy, pitches);
    }

    /// From the gradient of the block's result to that of the first convolution's output.
    fn second_half(
        &self,
        (first, images): (usize, usize),
        (hidden, dy): (&[f32], &[f32]),
        de: &mut [f32],
        sums: &mut Sums,
    ) -> Canvas {
        let (settings, isa) = (self.settings, self.settings.isa);
        let &Sizes { outputs, tiles, .. } = &settings.sizes;
        let pitch = settings.sizes.padded_outputs();
        let size = tiles.pixels() * pitch;
        let modulated = |i| settings.modulated(self.norm2, self.embedding, first + i);
        let effective: Vec<_> = (0..images).map(|i| modulated(i).effective()).collect();
        let norm2 = |i: usize| settings.norm([&effective[i][0], &effective[i][1]]);

        let (mut slopes, mut back) = (Scratch::new(images * size), Scratch::new(images * size));
        let mut normed = Canvas::new(tiles, images, outputs);
        let statistics = &self.statistics[first..first + images];
        normed
            .par_images_mut()
            .zip(hidden.par_chunks_exact(size))
            .zip(slopes.par_chunks_exact_mut(size))
            .enumerate()
            .for_each(|(i, ((rows, hidden), slopes))| {
                let mask = settings.mask(first + i);
                norm2(i).activate_with_slopes(hidden, &statistics[i][1], rows, slopes, mask);
            });
        let mut canvas = Canvas::new(tiles, images, outputs);
        canvas.fill(dy, pitch);
        sums.conv2.add(images, &normed, &canvas);
        self.conv2.run(&canvas, &Scratch::zeroed(pitch), &mut back, false);

        let images_of = hidden
            .par_chunks_exact(size)
            .zip(slopes.par_chunks_exact(size))
            .zip(back.par_chunks_exact_mut(size))
            .zip(dy.par_chunks_exact(size));
        let mut d_hidden = Canvas::new(tiles, images, outputs);
        let by_image: Vec<_> = d_hidden
            .par_images_mut()
            .zip(images_of)
            .enumerate()
            .map(|(i, (dx, (((hidden, slopes), dz), dy)))| {
                let mut by_channel = vec![[0.0; 2]; outputs];
                let norm = norm2(i);
                let combination =
                    norm.backward(hidden, &statistics[i][1], slopes, dz, &mut by_channel);
                let [mut totals, mut dy_totals] = [(); 2].map(|()| vec![0.0; pitch]);
                add_up(isa, dy, &mut dy_totals);
                let row = tiles.side.1 * pitch;
                let rows = hidden.chunks_exact(row).zip(dz.chunks_exact(row));
                for ((hidden, dz), dx) in rows.zip(dx) {
                    combination.write(dz, hidden, dx, &mut totals);
                }
                (by_channel, totals, dy_totals)
            })
            .collect();
        let embeddings = de.chunks_exact_mut(settings.sizes.embedding());
        for (i, ((by_channel, totals, dy_totals), de)) in
            by_image.iter().zip(embeddings).enumerate()
        {
            modulated(i).backward(by_channel, &mut sums.norm2, de);
            add(isa, totals, &mut sums.bias1);
            add(isa, dy_totals, &mut sums.dy);
            if settings.sizes.conditioning == TimeConditioning::Add {
                de.copy_from_slice(&totals[..outputs]);
            }
        }
        d_hidden
    }

    /// From the gradient of the first convolution's output to that of the block's inputs `x`, from
    /// image `first` on, with the part of the skip connection.
    fn first_half(
        &self,
        (x, first): (&[f32], usize),
        d_hidden: &Canvas,
        dy: &[f32],
        dx: Vec<(UninitSlice<'_>, usize)>,
        sums: &mut Sums,
    ) {
        let isa = self.settings.isa;
        let &Sizes { inputs, outputs, tiles, .. } = &self.settings.sizes;
        let (pitch_in, pitch) = (padded_len(inputs), self.settings.sizes.padded_outputs());
        let (pixels, size) = (tiles.pixels(), tiles.pixels() * pitch_in);
        let images = x.len() / size;

        let (mut slopes, mut back) = (Scratch::new(x.len()), Scratch::new(x.len()));
        let mut normed = Canvas::new(tiles, images, inputs);
        let statistics = &self.statistics[first..first + images];
        normed
            .par_images_mut()
            .zip(x.par_chunks_exact(size).zip(statistics))
            .zip(slopes.par_chunks_exact_mut(size))
            .for_each(|((rows, (x, [statistics, _])), slopes)| {
                self.norm1.activate_with_slopes(x, statistics, rows, slopes, None);
            });
        sums.conv1.add(images, &normed, d_hidden);
        let zeros = Scratch::zeroed(pitch_in);
        self.conv1.run(d_hidden, &zeros, &mut back, false);
        write_stacked(dx, |dx| {
            let images_of = x
                .par_chunks_exact(size)
                .zip(slopes.par_chunks_exact(size))
                .zip(back.par_chunks_exact_mut(size))
                .zip(statistics)
                .zip(dy.par_chunks_exact(pixels * pitch));
            let by_image: Vec<_> = dx
                .par_chunks_exact_mut(size)
                .zip(images_of)
                .map(|(dx, ((((x, slopes), dz), [statistics, _]), dy))| {
                    let mut by_channel = vec![[0.0; 2]; inputs];
                    let norm = &self.norm1;
                    let combination = norm.backward(x, statistics, slopes, dz, &mut by_channel);
                    combination.write(dz, x, dx, &mut Scratch::zeroed(pitch_in));
                    match &self.skip {
                        Some(skip) => {
                            let (format, dx) = (isa.format(), Target::onto(dx, pitch_in));
                            let terms = [pitch, outputs].map(|channels| format.channels(channels));
                            let dy = words::by_channel(isa, format, dy, pitch);
                            let dy = Factor::matrix(&dy, terms[0], terms[1]);
                            product_of_words(isa, format, dy, skip, [pixels, pitch_in], dx);
                        }
                        None => add(isa, dy, dx),
                    }
                    by_channel
                })
                .collect();
            for by_channel in by_image {
                for (sum, [dw, db]) in sums.norm1.iter_mut().zip(by_channel) {
                    *sum = [sum[0] + dw, sum[1] + db];
                }
            }
        });
    }

    /// The sums as gradients of the parameters.
    fn finish(&self, sums: &Sums) -> Vec<Buffer> {
        let Sizes { inputs, outputs, .. } = self.settings.sizes;
        let pitch = self.settings.sizes.padded_outputs();
        let of = |sums: &[[f32; 2]], which| {
            sums.iter().map(|pair: &[f32; 2]| pair[which]).collect::<Vec<f32>>().into()
        };
        let bias = |sums: &[f32]| sums[..outputs].to_vec().into();
        let mut gradients = vec![
            of(&sums.norm1, 0),
            of(&sums.norm1, 1),
            sums.conv1.weights(),
            bias(&sums.bias1),
            of(&sums.norm2, 0),
            of(&sums.norm2, 1),
            sums.conv2.weights(),
            bias(&sums.dy),
        ];
        if self.skip.is_some() {
            gradients.push(UninitVec::build(outputs * inputs, |weights| {
                let isa = self.settings.isa;
                to_channels_first(isa, &sums.skip, pitch, [outputs, inputs], weights);
            }));
            gradients.push(bias(&sums.dy));
        }
        gradients
    }
}
