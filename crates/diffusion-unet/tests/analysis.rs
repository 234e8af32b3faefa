//! The analysis of networks against counts by hand and against the memory that is really allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use diffusion_kernels::{in_pool, peak_bytes};
use diffusion_nn::{Conv2dConfig, DropoutNoise, Parameters, conv_transpose2d, conv2d, load_frozen};
use diffusion_unet::{
    DownBlockType, NetworkAnalysis, NetworkConfig, SimpleUNetConfig, UNet2DConfig, UNetSketch,
    UpBlockType,
};

/// The system's allocator, with a counter of the bytes in use and of their peak.
struct CountingAllocator;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code)]
// SAFETY: every call goes to the system's allocator; the counters do not affect it.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Memory is counted for the whole process, so the tests run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn digits() -> NetworkConfig {
    NetworkConfig::SimpleUnet(SimpleUNetConfig {
        in_channels: 1,
        base_channels: 32,
        time_dim: 128,
        ..SimpleUNetConfig::default()
    })
}

fn with_attention() -> NetworkConfig {
    NetworkConfig::Unet2d(UNet2DConfig {
        in_channels: 3,
        out_channels: 3,
        block_out_channels: vec![16, 24],
        down_block_types: vec![DownBlockType::DownBlock2D, DownBlockType::AttnDownBlock2D],
        up_block_types: vec![UpBlockType::AttnUpBlock2D, UpBlockType::UpBlock2D],
        layers_per_block: 1,
        norm_num_groups: 8,
        num_class_embeds: Some(10),
        ..UNet2DConfig::default()
    })
}

#[test]
fn parameters_are_those_of_the_real_variables_part_by_part() {
    let _alone = alone();
    for (config, size) in [(digits(), 28), (with_attention(), 16)] {
        let analysis = NetworkAnalysis::new(&config, [size, size], 1).unwrap();
        let (_, parameters) =
            Parameters::initialise(0, &Device::Cpu, |vb| config.build(vb)).unwrap();
        let real: usize = parameters.tensors().values().map(Tensor::elem_count).sum();
        assert_eq!(analysis.parameters(), real);
        for part in &analysis.parts {
            let prefix = format!("{}.", part.name);
            let tensors = parameters.tensors();
            let in_part = tensors.iter().filter(|(name, _)| name.starts_with(&prefix));
            assert_eq!(
                part.parameters,
                in_part.map(|(_, t)| t.elem_count()).sum::<usize>(),
                "{}",
                part.name
            );
        }
    }
}

#[test]
fn sizes_and_multiply_adds_agree_with_counts_by_hand() {
    let _alone = alone();
    let analysis = NetworkAnalysis::new(&digits(), [28, 28], 2).unwrap();
    let (b, t) = (32, 128);
    // A block: its projection of the time, both convolutions, and the skip if the width changes.
    let block = |cin: usize, cout: usize, side: usize| {
        let skip = if cin == cout { 0 } else { cin * cout };
        t * cout + side * side * (9 * cin * cout + 9 * cout * cout + skip)
    };
    let expected: [(&str, [usize; 3], usize); 12] = [
        ("time_embed", [t, 1, 1], t * 4 * t * 2),
        ("stem", [b, 28, 28], 28 * 28 * 9 * b),
        ("enc1", [b, 28, 28], block(b, b, 28)),
        ("down1", [b, 14, 14], 14 * 14 * 9 * b * b),
        ("enc2", [2 * b, 14, 14], block(b, 2 * b, 14)),
        ("down2", [2 * b, 7, 7], 7 * 7 * 9 * 4 * b * b),
        ("mid", [2 * b, 7, 7], block(2 * b, 2 * b, 7)),
        ("up2", [2 * b, 14, 14], 7 * 7 * 16 * 4 * b * b),
        ("dec2", [b, 14, 14], block(4 * b, b, 14)),
        ("up1", [b, 28, 28], 14 * 14 * 16 * b * b),
        ("dec1", [b, 28, 28], block(2 * b, b, 28)),
        ("out", [1, 28, 28], 28 * 28 * b),
    ];
    assert_eq!(analysis.parts.len(), expected.len());
    for (part, (name, output, multiply_adds)) in analysis.parts.iter().zip(expected) {
        assert_eq!((part.name.as_str(), part.output), (name, output));
        assert_eq!(part.multiply_adds, multiply_adds as u64, "{name}");
        if name != "time_embed" {
            assert_eq!(part.activation_bytes, 2 * 4 * output.iter().product::<usize>(), "{name}");
        }
    }
}

/// The result of `f`, and the bytes still allocated while the result lives.
fn left_by<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Ordering::Relaxed);
    let result = f();
    (result, LIVE.load(Ordering::Relaxed).saturating_sub(before))
}

/// The most bytes allocated at a time while `f` ran, beyond those allocated before.
fn peak_of<T>(f: impl FnOnce() -> T) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    drop(f());
    PEAK.load(Ordering::Relaxed) - before
}

#[test]
fn memory_agrees_with_the_allocator() {
    let _alone = alone();
    for (config, size, batch) in [(digits(), 28, 16), (with_attention(), 16, 32)] {
        let analysis = NetworkAnalysis::new(&config, [size, size], batch).unwrap();
        let (network, parameters) = config.initialise(0, &Device::Cpu).unwrap();
        let x =
            Tensor::zeros((batch, config.image_channels(), size, size), DType::F32, &Device::Cpu)
                .unwrap();
        let t = Tensor::ones(batch, DType::F32, &Device::Cpu).unwrap();
        let classes = vec![matches!(config, NetworkConfig::Unet2d(_)).then_some(0); batch];
        let noise =
            DropoutNoise { source: diffusion_random::NoiseSource::new(0), draw: 0, first_index: 0 };
        let forward = || network.forward_training(&x, &t, &classes, None, noise).unwrap();
        // Buffers of finished passes wait for reuse. With three live passes, none of them are left.
        let live = [forward(), forward(), forward()];
        let (fourth, measured) = left_by(forward);
        drop(fourth);
        let pass = || forward().sqr().unwrap().mean_all().unwrap().backward().unwrap();
        // This pass takes the buffers that the fourth freed. The measured pass must allocate its
        // own.
        let fourth = forward();
        let peak = in_pool(|| peak_of(pass));
        // These passes take the buffers that the measured pass freed.
        let more = [forward(), forward()];
        let frozen =
            load_frozen(parameters.tensors(), &Device::Cpu, |vb| config.build_for_training(vb))
                .unwrap();
        // The analysis predicts one pass over the whole batch.
        let whole =
            || peak_bytes(|| frozen.forward_training(&x, &t, &classes, None, noise).unwrap()).0;
        let sampling = peak_of(whole);
        drop((live, fourth, more));
        // In addition to the maps, memory holds the gradients of the weights and the threads' own
        // buffers.
        let predicted = analysis.training_peak_bytes + 4 * analysis.parameters();
        let share = |measured: usize, predicted: usize| measured as f64 / predicted as f64;
        assert!(
            (0.97..1.25).contains(&share(peak, predicted)),
            "training: {peak} bytes measured, {predicted} predicted"
        );
        // Freed buffers wait for reuse at their size. During sampling they are a large part of the
        // memory.
        let predicted = analysis.inference_peak_bytes;
        assert!(
            (0.97..1.6).contains(&share(sampling, predicted)),
            "sampling: {sampling} bytes measured, {predicted} predicted"
        );
        let ratio = share(measured, analysis.training_bytes());
        assert!(
            (0.97..1.25).contains(&ratio),
            "{measured} bytes measured, {} predicted",
            analysis.training_bytes()
        );
        assert!(analysis.training_peak_bytes > analysis.training_bytes());
        assert!(analysis.inference_peak_bytes < analysis.activation_bytes());
    }
}

#[test]
fn the_peak_of_sampling_holds_the_skips_and_a_layer() {
    let _alone = alone();
    let analysis = NetworkAnalysis::new(&digits(), [28, 28], 64).unwrap();
    let map = |channels: usize, side: usize| 64 * 4 * channels * side * side;
    // dec1 has 32 input channels from below, 32 of the skip connection and 32 output channels.
    let least = 3 * map(32, 28);
    assert!(analysis.inference_peak_bytes >= least, "{} < {least}", analysis.inference_peak_bytes);
    assert!(analysis.inference_peak_bytes < 2 * least);
}

#[test]
fn a_size_that_the_network_does_not_support_is_an_error() {
    let _alone = alone();
    assert!(NetworkAnalysis::new(&digits(), [30, 28], 1).is_err());
}

#[test]
fn sketches_have_the_parameters_of_real_convolutions() {
    let _alone = alone();
    for widths in [[64, 128, 256].as_slice(), &[32, 64, 128, 256]] {
        let sketch = UNetSketch::new(widths, 3, 64).unwrap();
        let ((), parameters) = Parameters::initialise(0, &Device::Cpu, |vb| {
            let (three, mut inputs) = (Conv2dConfig::default(), 3);
            for (i, &width) in widths.iter().enumerate() {
                conv2d(inputs, width, three, vb.pp(format!("encoder {}", i + 1)))?;
                inputs = width;
            }
            conv2d(inputs, inputs, three, vb.pp("bottleneck"))?;
            for (i, &width) in widths.iter().enumerate().rev() {
                let vb = vb.pp(format!("decoder {}", i + 1));
                conv_transpose2d(inputs, width, 4, 2, 1, vb.pp("up"))?;
                conv2d(2 * width, width, three, vb.pp("conv"))?;
                inputs = width;
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(sketch.parameters(), parameters.count());
        for level in &sketch.levels {
            let in_level =
                parameters.iter().filter(|(name, _)| name.starts_with(&format!("{}.", level.name)));
            assert_eq!(
                level.parameters,
                in_level.map(|(_, var)| var.elem_count()).sum::<usize>(),
                "{}",
                level.name
            );
            assert_eq!(level.bytes, 4 * level.channels * level.resolution * level.resolution);
        }
    }
    let sketch = UNetSketch::new(&[64, 128, 256], 3, 64).unwrap();
    let resolutions: Vec<usize> = sketch.levels.iter().map(|level| level.resolution).collect();
    assert_eq!(resolutions, [64, 32, 16, 8, 16, 32, 64]);
    // The last convolution: 64 channels from below, 64 of the skip connection and 64 of the output.
    assert_eq!(sketch.peak_bytes, 3 * 64 * 64 * 64 * 4);
}

#[test]
fn impossible_sketches_are_errors() {
    let _alone = alone();
    for (widths, channels, size) in [
        ([].as_slice(), 3, 64),
        (&[0], 3, 64),
        (&[8], 0, 64),
        (&[8, 8], 3, 6),
        (&[8], 3, 0),
        (&[8; 17], 3, 1 << 17),
    ] {
        assert!(UNetSketch::new(widths, channels, size).is_err(), "{widths:?} {channels} {size}");
    }
}
