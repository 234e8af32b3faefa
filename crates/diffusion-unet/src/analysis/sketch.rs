//! A U-Net reduced to its convolutions, as one sketches it on paper.

use candle_core::{Error, Result};

/// One level of a [`UNetSketch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SketchLevel {
    /// `encoder 1`, `bottleneck` or `decoder 1`, counted from the image.
    pub name: String,
    /// Channels of its feature map.
    pub channels: usize,
    /// Height and width of its feature map.
    pub resolution: usize,
    /// Weights and biases.
    pub parameters: usize,
    /// Bytes of its feature map, in f32, for one image.
    pub bytes: usize,
}

/// The arithmetic of a U-Net with one convolution a level, without its normalisations, its time embedding or its last layer:
/// what decides the size of a network, on half a page.
///
/// With widths w₁ … w_L and an image of S × S:
///
/// - encoder i: a 3×3 convolution from the level above to wᵢ, at S/2^(i−1); its result is the skip connection, and is halved
///   for the next level;
/// - bottleneck: a 3×3 convolution from w_L to w_L, at S/2^L;
/// - decoder i, from L to 1: a 4×4 transposed convolution that doubles the map below and brings it to wᵢ, and a 3×3 convolution
///   from that beside the skip, 2·wᵢ channels, to wᵢ, at S/2^(i−1).
///
/// ```
/// use diffusion_unet::UNetSketch;
///
/// let sketch = UNetSketch::new(&[64, 128, 256], 3, 64)?;
/// assert_eq!(sketch.levels[0].parameters, 3 * 64 * 9 + 64);
/// assert_eq!(sketch.levels.len(), 7);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UNetSketch {
    /// From the image down and up again.
    pub levels: Vec<SketchLevel>,
    /// The most bytes at a time, when the network is used on one image: the skips that wait, what a layer reads and what it
    /// gives.
    pub peak_bytes: usize,
}

impl UNetSketch {
    /// The sketch of a U-Net of these encoder widths, for images of `in_channels` × `size` × `size`.
    ///
    /// # Errors
    /// No widths; a width of 0 or above 65,536; more than 16 levels; a size that the levels do not halve evenly, or above
    /// 65,536.
    pub fn new(widths: &[usize], in_channels: usize, size: usize) -> Result<Self> {
        const MOST: usize = 65_536;
        let invalid = |problem: String| Err(Error::Msg(problem));
        if widths.is_empty() || widths.len() > 16 {
            return invalid(format!("{} levels; a U-Net is sketched with 1 to 16", widths.len()));
        }
        if let Some(width) =
            widths.iter().chain([&in_channels]).find(|width| !(1..=MOST).contains(*width))
        {
            return invalid(format!("{width} channels; a level has 1 to {MOST}"));
        }
        let halved = 1 << widths.len();
        if size == 0 || size > MOST || !size.is_multiple_of(halved) {
            return invalid(format!(
                "a size of {size}: {} levels halve it as often, so it must be a multiple of {halved}, at most {MOST}",
                widths.len()
            ));
        }
        let conv = |inputs: usize, outputs: usize, kernel: usize| {
            inputs * outputs * kernel * kernel + outputs
        };
        let bytes = |channels: usize, side: usize| channels * side * side * size_of::<f32>();
        let side = |level: usize| size >> level;
        let level =
            |name: String, channels: usize, resolution: usize, parameters: usize| SketchLevel {
                name,
                channels,
                resolution,
                parameters,
                bytes: bytes(channels, resolution),
            };

        let last = widths.len() - 1;
        let mut levels = Vec::new();
        let (mut peak, mut skips) = (0, 0);
        let mut inputs = in_channels;
        for (i, &width) in widths.iter().enumerate() {
            levels.push(level(
                format!("encoder {}", i + 1),
                width,
                side(i),
                conv(inputs, width, 3),
            ));
            peak = peak.max(skips + bytes(inputs, side(i)) + bytes(width, side(i)));
            skips += bytes(width, side(i));
            inputs = width;
        }
        let deepest = widths[last];
        levels.push(level(
            "bottleneck".to_owned(),
            deepest,
            side(last + 1),
            conv(deepest, deepest, 3),
        ));
        peak = peak.max(skips + 2 * bytes(deepest, side(last + 1)));
        let mut below = deepest;
        for (i, &width) in widths.iter().enumerate().rev() {
            let parameters = conv(below, width, 4) + conv(2 * width, width, 3);
            levels.push(level(format!("decoder {}", i + 1), width, side(i), parameters));
            // The doubling, then the convolution of both halves.
            peak = peak.max(skips + bytes(below, side(i + 1)) + bytes(width, side(i)));
            peak = peak.max(skips + 2 * bytes(width, side(i)));
            skips -= bytes(width, side(i));
            below = width;
        }
        Ok(Self { levels, peak_bytes: peak })
    }

    /// Weights and biases in all.
    pub fn parameters(&self) -> usize {
        self.levels.iter().map(|level| level.parameters).sum()
    }

    /// Bytes of all feature maps together: what waits for the backward pass of one image.
    pub fn bytes(&self) -> usize {
        self.levels.iter().map(|level| level.bytes).sum()
    }
}
