//! The cost of a 3-D convolution over video and of its (2+1)-D split: a convolution over space,
//! then one over time (Tran et al. 2018).
//!
//! `cargo run -p diffusion-unet --example conv3d`

/// A convolution with kt × kh × kw weights from `inputs` to `outputs` channels, with bias.
#[derive(Clone, Copy)]
struct Conv3d {
    inputs: usize,
    outputs: usize,
    kernel: [usize; 3],
}

impl Conv3d {
    fn parameters(self) -> usize {
        let [kt, kh, kw] = self.kernel;
        self.outputs * self.inputs * kt * kh * kw + self.outputs
    }

    /// A spatial 1 × kh × kw convolution to `outputs` channels, then a temporal kt × 1 × 1 one,
    /// both with bias.
    fn split(self) -> [Self; 2] {
        let [kt, kh, kw] = self.kernel;
        [
            Self { kernel: [1, kh, kw], ..self },
            Self { inputs: self.outputs, outputs: self.outputs, kernel: [kt, 1, 1] },
        ]
    }

    fn split_parameters(self) -> usize {
        self.split().map(Self::parameters).iter().sum()
    }

    /// Multiply-adds with stride 1 and padding that keeps the size: one per weight of a channel and
    /// output element.
    fn multiply_adds(self, [frames, height, width]: [usize; 3]) -> usize {
        self.outputs * frames * height * width * self.inputs * self.kernel.iter().product::<usize>()
    }
}

/// The layers of the table, each with the frames, height and width of its input.
const LAYERS: [(Conv3d, [usize; 3]); 3] = [
    (Conv3d { inputs: 3, outputs: 64, kernel: [3, 7, 7] }, [16, 224, 224]),
    (Conv3d { inputs: 64, outputs: 128, kernel: [3, 3, 3] }, [8, 56, 56]),
    (Conv3d { inputs: 128, outputs: 256, kernel: [3, 3, 3] }, [4, 28, 28]),
];

fn main() {
    println!(
        "{:<30} {:>10} {:>10} {:>7} {:>15}",
        "layer", "3-D", "(2+1)-D", "ratio", "mult-adds, 3-D"
    );
    for (conv, size) in LAYERS {
        let Conv3d { inputs, outputs, kernel: [kt, kh, kw] } = conv;
        let [frames, height, width] = size;
        println!(
            "{:<30} {:>10} {:>10} {:>7.3} {:>15}",
            format!("{inputs}→{outputs} {kt}×{kh}×{kw} on {frames}×{height}×{width}"),
            conv.parameters(),
            conv.split_parameters(),
            conv.split_parameters() as f64 / conv.parameters() as f64,
            conv.multiply_adds(size),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::LAYERS;
    use candle_core::Device;
    use diffusion_nn::Parameters;

    /// The number of parameters of a real layer.
    fn real(inputs: usize, outputs: usize, kernel: [usize; 3]) -> usize {
        let [kt, kh, kw] = kernel;
        let (_, parameters) = Parameters::initialise(0, &Device::Cpu, |vb| {
            vb.get((outputs, inputs, kt, kh, kw), "weight")?;
            vb.get(outputs, "bias")
        })
        .unwrap();
        parameters.count()
    }

    #[test]
    fn parameters_are_those_of_real_variables() {
        for (conv, _) in LAYERS {
            let [kt, kh, kw] = conv.kernel;
            assert_eq!(conv.parameters(), real(conv.inputs, conv.outputs, conv.kernel));
            let split = real(conv.inputs, conv.outputs, [1, kh, kw])
                + real(conv.outputs, conv.outputs, [kt, 1, 1]);
            assert_eq!(conv.split_parameters(), split);
        }
    }

    #[test]
    fn multiply_adds_agree_with_counting_loops() {
        // One output element is a sum over the inputs and the kernel. Counted in loops for the
        // smallest layer.
        let (conv, [frames, height, width]) = LAYERS[2];
        let mut per_output = 0;
        for _ in 0..conv.inputs {
            for k in
                conv.kernel[0..1].iter().flat_map(|kt| vec![conv.kernel[1] * conv.kernel[2]; *kt])
            {
                per_output += k;
            }
        }
        let outputs = conv.outputs * frames * height * width;
        assert_eq!(conv.multiply_adds([frames, height, width]), outputs * per_output);
        assert_eq!(
            LAYERS.map(|(conv, size)| conv.multiply_adds(size)),
            [22_658_678_784, 5_549_064_192, 2_774_532_096]
        );
    }
}
