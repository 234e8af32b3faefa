//! Group normalisation of a map, fused with modulation and activation.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use tracing::trace_span;

use crate::arith::isa::Isa;
use crate::graph::map::{Map, Node};
use crate::graph::op::MapOp;
use crate::image::norm::{Modulated, Norm};
use crate::image::pixels::{Pixels, padded_len, write_pixels};
use crate::memory::buffer::Buffer;
use crate::memory::scratch::Scratch;
use crate::memory::storage::with_elements;
use crate::memory::uninit::UninitVec;
use crate::{Activation, GroupNorm};

/// The backward operation: from `y` to `x` and the packed parameters.
struct Op {
    isa: Isa,
    settings: Settings,
    x: Arc<Map>,
    y: Arc<Map>,
}

#[derive(Clone, Copy)]
struct Settings {
    groups: usize,
    eps: f32,
    activation: Activation,
    modulated: bool,
}

/// Checks the shapes.
pub(crate) fn check([images, channels]: [usize; 2], norm: &GroupNorm<'_>) -> Result<()> {
    let GroupNorm { groups, weight, bias, modulation, .. } = norm;
    if *groups == 0 || !channels.is_multiple_of(*groups) {
        bail!("group_norm: {channels} channels do not divide into {groups} groups");
    }
    if weight.dims() != [channels] || bias.dims() != [channels] {
        bail!(
            "group_norm: {channels} channels need a weight and a bias of shape [{channels}], got {:?} and {:?}",
            weight.dims(),
            bias.dims()
        );
    }
    match modulation {
        Some(modulation) if modulation.dims() != [images, 2 * channels] => {
            bail!(
                "group_norm: expected a modulation (N, 2·C) = {:?}, got {:?}",
                [images, 2 * channels],
                modulation.dims()
            )
        }
        _ => Ok(()),
    }
}

/// Normalises, modulates and activates `x`.
pub(crate) fn group_norm(isa: Isa, x: &Node, norm: &GroupNorm<'_>) -> Result<Node> {
    let [images, _, _, channels] = x.map.dims;
    check([images, channels], norm)?;
    let settings = Settings {
        groups: norm.groups,
        eps: norm.eps as f32,
        activation: norm.activation,
        modulated: norm.modulation.is_some(),
    };
    let modulation = norm.modulation.map(Tensor::flatten_all).transpose()?;
    let parameters: Vec<&Tensor> =
        [norm.weight, norm.bias].into_iter().chain(&modulation).collect();
    let packed = Tensor::cat(&parameters, 0)?;
    let _span = trace_span!("group norm, forward", dims = ?x.map.dims).entered();
    let y = with_elements([&packed], |[packed]| Ok(settings.forward(isa, &x.map, packed)))?;
    let x_map = x.map.clone();
    Node::new(Map::new(y, x.map.dims), &[x], &[&packed], |y| Op { isa, settings, x: x_map, y })
}

impl Settings {
    /// The parameters and the modulation of image i.
    fn modulated<'a>(&self, packed: &'a [f32], channels: usize, i: usize) -> Modulated<'a> {
        let (weight, rest) = packed.split_at(channels);
        let (bias, modulation) = rest.split_at(channels);
        let width_per_image = if self.modulated { 2 * channels } else { 0 };
        Modulated {
            weight,
            bias,
            modulation: &modulation[i * width_per_image..(i + 1) * width_per_image],
        }
    }

    fn norm<'a>(&self, isa: Isa, [weight, bias]: &'a [Vec<f32>; 2]) -> Norm<'a> {
        Norm { isa, groups: self.groups, eps: self.eps, weight, bias }
    }

    fn forward(&self, isa: Isa, x: &Map, packed: &[f32]) -> Buffer {
        let [_, height, width, channels] = x.dims;
        let len = height * width * channels;
        let mut y = UninitVec::from_pool(x.values.len());
        y.par_chunks(len).zip(x.values.par_chunks_exact(len)).enumerate().for_each(
            |(i, (y, x))| {
                let effective = self.modulated(packed, channels, i).effective();
                let norm = self.norm(isa, &effective);
                let x = Pixels::new(x, channels);
                write_pixels(y, channels, |y| match self.activation {
                    Activation::Identity => {
                        norm.normalise(&x, y);
                    }
                    Activation::Silu => {
                        norm.activate(&x, [y], None);
                    }
                });
            },
        );
        y.into_buffer()
    }
}

impl Op {
    /// The gradients of x and of the packed parameters.
    fn gradients(&self, packed: &[f32], dtoken: &Tensor) -> Result<(Buffer, Vec<f32>)> {
        let Self { isa, settings, x, y } = self;
        let [images, height, width, channels] = x.dims;
        let len = height * width * channels;
        let dy = y.take_gradient(dtoken)?;
        let mut dx = UninitVec::from_pool(x.values.len());
        let width_per_image = if settings.modulated { 2 * channels } else { 0 };
        let mut modulation = vec![0.0; images * width_per_image];
        // `chunks_mut` does not allow empty chunks, but the modulation of an image may be empty.
        let mut parts: Vec<&mut [f32]> = Vec::with_capacity(images);
        let mut rest = &mut modulation[..];
        for _ in 0..images {
            let (part, after) = rest.split_at_mut(width_per_image);
            parts.push(part);
            rest = after;
        }
        let sums: Vec<Vec<[f32; 2]>> = dx
            .par_chunks(len)
            .zip(parts)
            .zip(x.values.par_chunks_exact(len).zip(dy.par_chunks_exact(len)))
            .enumerate()
            .map(|(i, ((dx, modulation), (x, dy)))| {
                let modulated = settings.modulated(packed, channels, i);
                let effective = modulated.effective();
                let norm = settings.norm(*isa, &effective);
                let (x, dy) = (Pixels::new(x, channels), Pixels::new(dy, channels));
                let (mut y, mut slopes) = (Scratch::new(x.len()), Scratch::new(x.len()));
                let statistics = match settings.activation {
                    Activation::Silu => {
                        let statistics = norm.statistics(&x);
                        let rows = [&mut *y];
                        norm.activate_with_slopes(&x, &statistics, rows, &mut slopes, None);
                        statistics
                    }
                    Activation::Identity => {
                        slopes.fill(1.0);
                        norm.normalise(&x, &mut y)
                    }
                };
                let mut dz = y;
                dz.copy_from_slice(&dy);
                let mut by_channel = vec![[0.0; 2]; channels];
                let combination = norm.backward(&x, &statistics, &slopes, &mut dz, &mut by_channel);
                let zeros = vec![0.0; padded_len(channels)];
                write_pixels(dx, channels, |dx| {
                    combination.write(&dz, &x, dx, &mut zeros.clone());
                });
                let mut sums = vec![[0.0; 2]; channels];
                modulated.backward(&by_channel, &mut sums, modulation);
                sums
            })
            .collect();
        let total = |c: usize, which: usize| sums.iter().map(|sums| sums[c][which]).sum::<f32>();
        let mut gradient: Vec<f32> = (0..channels).map(|c| total(c, 0)).collect();
        gradient.extend((0..channels).map(|c| total(c, 1)));
        gradient.extend(modulation);
        Ok((dx.into_buffer(), gradient))
    }
}

impl MapOp for Op {
    const NAME: &'static str = "diffusion-group-norm";

    fn backward(&self, arguments: &[&Tensor], dtoken: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (token, packed) = (arguments[0], arguments[1]);
        let _span = trace_span!("group norm, backward", dims = ?self.x.dims).entered();
        let (dx, gradient) = with_elements([packed], |[packed]| self.gradients(packed, dtoken))?;
        let dx = self.x.accumulate_gradient(self.isa, token, || dx)?;
        Ok(vec![dx, Some(Tensor::from_vec(gradient, packed.shape(), &Device::Cpu)?)])
    }
}
