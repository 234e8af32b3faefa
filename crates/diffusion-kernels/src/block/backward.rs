//! The block's backward pass.

use super::conv::{Conv, ConvSums};
use super::norm::Norm;
use super::{Parameters, Pass, Sizes, Stack};
use crate::buffer::{Buffer, room};
use crate::fresh::Unwritten;
use crate::pixels::{Pixels, padded_len, write_stacked};
use crate::product::{Factor, Result, product};
use crate::scratch::Scratch;
use crate::vector::{add, add_up};
use crate::winograd::{Canvas, SUM_STRIP};

/// What the backward pass of every image uses.
pub(super) struct BackwardPass<'a> {
    pass: &'a Pass,
    norm1: Norm<'a>,
    norm2: Norm<'a>,
    conv1: Conv,
    conv2: Conv,
    /// `[output][input padded]`.
    skip: Option<Scratch>,
}

/// The gradients of one task's parameters, which it sums over its images.
struct Sums {
    conv1: ConvSums,
    conv2: ConvSums,
    /// `[input][output padded]`.
    skip: Vec<f32>,
    /// Pairs of weight and bias, a channel each.
    norm1: Vec<[f32; 2]>,
    norm2: Vec<[f32; 2]>,
    /// Sums of dy, padded: the gradient of the second convolution's bias and of the skip's.
    dy: Vec<f32>,
}

impl<'a> BackwardPass<'a> {
    pub(super) fn new(pass: &'a Pass, parameters: Parameters<'a>) -> Self {
        let Sizes { inputs, outputs, .. } = pass.sizes;
        let Parameters { norm1, conv1, norm2, conv2, skip, .. } = parameters;
        let padded_in = padded_len(inputs);
        let conv = |weight, inputs| {
            Conv::transposed(pass.isa, pass.sizes.winograd(inputs), weight, [outputs, inputs])
        };
        let skip = pass.sizes.skip.then(|| {
            let mut padded = Scratch::zeroed(outputs * padded_in);
            let rows = padded.chunks_exact_mut(padded_in).zip(skip[0].chunks_exact(inputs));
            rows.for_each(|(to, from)| to[..inputs].copy_from_slice(from));
            padded
        });
        Self {
            pass,
            norm1: pass.norm(norm1),
            norm2: pass.norm(norm2),
            conv1: conv(conv1[0], inputs),
            conv2: conv(conv2[0], outputs),
            skip,
        }
    }

    /// A task's images of `x`, from the one numbered `first` on: the gradients of its parts go to `dx`, those of the
    /// embedding to `de`, those of the parameters, summed and packed, are returned.
    pub(super) fn chunk(
        &self,
        x: &Stack<'_>,
        first: usize,
        [hidden, dy]: [&[f32]; 2],
        dx: Vec<(Unwritten<'_>, usize)>,
        de: &mut [f32],
    ) -> Buffer {
        let sizes = &self.pass.sizes;
        let (pixels, group) = (sizes.pixels(), sizes.group(SUM_STRIP));
        let mut sums = self.begin();
        let mut dx: Vec<_> =
            dx.into_iter().map(|(dx, channels)| (dx.chunks(group * pixels * channels), channels)).collect();
        let given = hidden.chunks(group * pixels * sizes.padded_outputs());
        let given = given.zip(dy.chunks(group * pixels * sizes.outputs));
        for (i, (de, given)) in de.chunks_mut(group * sizes.outputs).zip(given).enumerate() {
            let images = de.len() / sizes.outputs;
            let dx =
                dx.iter_mut().filter_map(|(chunks, channels)| Some((chunks.next()?, *channels))).collect();
            self.images(&x.images(first + i * group, images), given, dx, de, &mut sums);
        }
        self.finish(&sums, de)
    }

    /// Nothing summed yet.
    fn begin(&self) -> Sums {
        let Sizes { inputs, outputs, skip, .. } = self.pass.sizes;
        let pitch = self.pass.sizes.padded_outputs();
        let sums = |inputs| ConvSums::new(self.pass.isa, self.pass.sizes.winograd(inputs), [outputs, inputs]);
        Sums {
            conv1: sums(inputs),
            conv2: sums(outputs),
            skip: vec![0.0; if skip { inputs * pitch } else { 0 }],
            norm1: vec![[0.0; 2]; inputs],
            norm2: vec![[0.0; 2]; outputs],
            dy: vec![0.0; pitch],
        }
    }

    /// Some images that stay in the cache: from the last layer to the first. `x` and `hidden` are padded.
    fn images(
        &self,
        x: &[f32],
        (hidden, dy): (&[f32], &[f32]),
        dx: Vec<(Unwritten<'_>, usize)>,
        de: &mut [f32],
        sums: &mut Sums,
    ) {
        let (pass, isa) = (self.pass, self.pass.isa);
        let &Sizes { inputs, outputs, tiles, .. } = &pass.sizes;
        let (pixels, pitch_in, pitch) = (tiles.pixels(), padded_len(inputs), pass.sizes.padded_outputs());
        let images = de.len() / outputs;
        let zeros = Scratch::zeroed(pitch_in.max(pitch));
        let mut back = Scratch::new(images * pixels * pitch_in.max(pitch));
        let mut slopes = Scratch::new(images * pixels * pitch_in.max(pitch));

        let dy = Pixels::new(dy, outputs);
        add_up(isa, &dy, &mut sums.dy);
        let mut canvas = Canvas::new(tiles, images, outputs);
        canvas.fill(&dy, pitch);
        let mut normed = Canvas::new(tiles, images, outputs);
        let size = pixels * pitch;
        let statistics: Vec<_> = (0..images)
            .map(|i| {
                let range = i * size..(i + 1) * size;
                self.norm2.forward_with_slopes(&hidden[range.clone()], &mut normed, i, &mut slopes[range])
            })
            .collect();
        sums.conv2.add(images, &normed, &canvas);
        self.conv2.run(&canvas, &zeros[..pitch], &mut back[..images * size]);
        let mut d_hidden = Canvas::new(tiles, images, outputs);
        for (i, (statistics, de)) in statistics.iter().zip(de.chunks_exact_mut(outputs)).enumerate() {
            let range = i * size..(i + 1) * size;
            let (hidden, dz) = (&hidden[range.clone()], &mut back[range.clone()]);
            let combination = self.norm2.backward(hidden, statistics, &slopes[range], dz, &mut sums.norm2);
            let mut totals = Scratch::zeroed(pitch);
            let row = tiles.side.1 * pitch;
            for (y, (hidden, dz)) in hidden.chunks_exact(row).zip(dz.chunks_exact(row)).enumerate() {
                combination.write(dz, hidden, d_hidden.row_mut(i, y), &mut totals);
            }
            de.copy_from_slice(&totals[..outputs]);
        }

        let mut normed = Canvas::new(tiles, images, inputs);
        let size = pixels * pitch_in;
        let statistics: Vec<_> = (0..images)
            .map(|i| {
                let range = i * size..(i + 1) * size;
                self.norm1.forward_with_slopes(&x[range.clone()], &mut normed, i, &mut slopes[range])
            })
            .collect();
        sums.conv1.add(images, &normed, &d_hidden);
        self.conv1.run(&d_hidden, &zeros[..pitch_in], &mut back[..images * size]);
        write_stacked(dx, &zeros[..pitch_in], |dx| {
            for (i, statistics) in statistics.iter().enumerate() {
                let range = i * size..(i + 1) * size;
                let (x, dz) = (&x[range.clone()], &mut back[range.clone()]);
                let combination =
                    self.norm1.backward(x, statistics, &slopes[range.clone()], dz, &mut sums.norm1);
                combination.write(dz, x, &mut dx[range], &mut Scratch::zeroed(pitch_in));
            }
            let Some(skip) = &self.skip else { return add(isa, &dy, dx) };
            let by_weight = Factor::transposed(x, pitch_in, images * pixels);
            let dw = Result { data: &mut sums.skip, row: pitch, onto: true };
            product(isa, by_weight, &dy, [inputs, pitch], dw);
            let dx = Result { data: dx, row: pitch_in, onto: true };
            product(isa, Factor::matrix(&dy, pitch, outputs), skip, [images * pixels, pitch_in], dx);
        });
    }

    /// The sums as gradients of the packed parameters; `de` are the gradients of the embeddings.
    fn finish(&self, sums: &Sums, de: &[f32]) -> Buffer {
        let Sizes { inputs, outputs, .. } = self.pass.sizes;
        let (conv1, conv2) = (sums.conv1.weights(), sums.conv2.weights());
        let pitch = self.pass.sizes.padded_outputs();
        let mut packed = room(conv1.len() + conv2.len() + sums.skip.len() + 2 * inputs + 5 * outputs);
        let pairs = |packed: &mut Vec<f32>, sums: &[[f32; 2]]| {
            (0..2).for_each(|which| packed.extend(sums.iter().map(|pair| pair[which])));
        };
        pairs(&mut packed, &sums.norm1);
        packed.extend(&*conv1);
        let mut bias1 = vec![0.0; outputs];
        de.chunks_exact(outputs).for_each(|de| add(self.pass.isa, de, &mut bias1));
        packed.extend(bias1);
        pairs(&mut packed, &sums.norm2);
        packed.extend(&*conv2);
        packed.extend(&sums.dy[..outputs]);
        if self.skip.is_some() {
            let skip = &sums.skip;
            packed.extend((0..outputs).flat_map(|o| (0..inputs).map(move |c| skip[c * pitch + o])));
            packed.extend(&sums.dy[..outputs]);
        }
        packed.into()
    }
}
