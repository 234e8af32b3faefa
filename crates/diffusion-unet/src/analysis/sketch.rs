//! The cost of a U-Net reduced to one convolution per level.

use candle_core::{Error, Result};

/// One level of a [`UNetSketch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SketchLevel {
    /// The name: `encoder 1`, `bottleneck` or `decoder 1`. Levels count from the image.
    pub name: String,
    /// Channels of the feature map.
    pub channels: usize,
    /// Height and width of the feature map.
    pub resolution: usize,
    /// The number of weights and biases.
    pub parameters: usize,
    /// Bytes of the feature map in f32, for one image.
    pub bytes: usize,
}

/// Parameters and memory of a U-Net with one convolution per level, without normalisations, time
/// embedding and last layer. These convolutions determine the size of a network.
///
/// With widths w₁ … w_L and an image of S × S:
///
/// - encoder i: a 3×3 convolution from the channels of the level above to wᵢ, at the resolution
///   S/2^(i−1). Its output is the skip connection, and is halved for the next level.
/// - bottleneck: a 3×3 convolution from w_L to w_L channels, at S/2^L.
/// - decoder i, from L to 1: a 4×4 transposed convolution that doubles the resolution of the level
///   below and gives wᵢ channels. Then a 3×3 convolution from these and the skip connection,
///   together 2·wᵢ channels, to wᵢ, at S/2^(i−1).
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
    /// The levels, from the image down and up again.
    pub levels: Vec<SketchLevel>,
    /// The most bytes of feature maps at a time, for one image during inference: the stored skip
    /// connections and the input and output of a layer.
    pub peak_bytes: usize,
}

impl UNetSketch {
    /// The sketch of a U-Net with the given encoder widths, for images of
    /// `in_channels` × `size` × `size`.
    ///
    /// # Errors
    /// - If there are no widths, or more than 16.
    /// - If a width or `in_channels` is 0 or above 65,536.
    /// - If `size` is 0, above 65,536 or not a multiple of 2^L.
    pub fn new(widths: &[usize], in_channels: usize, size: usize) -> Result<Self> {
        const MAX: usize = 65_536;
        let invalid = |problem: String| Err(Error::Msg(problem));
        if widths.is_empty() || widths.len() > 16 {
            return invalid(format!("a U-Net sketch needs 1 to 16 levels, got {}", widths.len()));
        }
        if let Some(width) =
            widths.iter().chain([&in_channels]).find(|width| !(1..=MAX).contains(*width))
        {
            return invalid(format!("a level must have 1 to {MAX} channels, got {width}"));
        }
        let multiple = 1 << widths.len();
        if size == 0 || size > MAX || !size.is_multiple_of(multiple) {
            return invalid(format!(
                "the size must be a multiple of {multiple} for {} levels, \
                 and at most {MAX}, got {size}",
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
            // The transposed convolution, then the convolution of its output and the skip
            // connection.
            peak = peak.max(skips + bytes(below, side(i + 1)) + bytes(width, side(i)));
            peak = peak.max(skips + 2 * bytes(width, side(i)));
            skips -= bytes(width, side(i));
            below = width;
        }
        Ok(Self { levels, peak_bytes: peak })
    }

    /// The number of weights and biases of all levels.
    pub fn parameters(&self) -> usize {
        self.levels.iter().map(|level| level.parameters).sum()
    }

    /// Bytes of all feature maps together, which the backward pass of one image needs.
    pub fn bytes(&self) -> usize {
        self.levels.iter().map(|level| level.bytes).sum()
    }
}
