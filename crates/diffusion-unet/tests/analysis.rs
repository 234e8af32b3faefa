//! The analysis of networks against counts made by hand, and against the memory that the program really asks for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use diffusion_nn::{Conv2dConfig, DropoutNoise, Parameters, conv_transpose2d, conv2d, load_frozen};
use diffusion_unet::{
    DownBlockType, NetworkAnalysis, NetworkConfig, SimpleUNetConfig, UNet2DConfig, UNetSketch,
    UpBlockType,
};

/// Counts what is asked for and given back.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code)]
// SAFETY: everything is the system's allocator's; the counter is beside it.
unsafe impl GlobalAlloc for Counting {
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
static ALLOCATOR: Counting = Counting;

/// Memory is the process's, so one test at a time.
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
            let of_part = tensors.iter().filter(|(name, _)| name.starts_with(&prefix));
            assert_eq!(
                part.parameters,
                of_part.map(|(_, t)| t.elem_count()).sum::<usize>(),
                "{}",
                part.name
            );
        }
    }
}

#[test]
fn sizes_and_multiply_adds_are_those_one_counts_by_hand() {
    let _alone = alone();
    let analysis = NetworkAnalysis::new(&digits(), [28, 28], 2).unwrap();
    let (b, t) = (32, 128);
    // A block: its projection of the time, both convolutions, and the skip where the width changes.
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

/// What a forward pass leaves in memory while its result lives, asked of the allocator.
fn left_by<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Ordering::Relaxed);
    let result = f();
    (result, LIVE.load(Ordering::Relaxed).saturating_sub(before))
}

/// The most that was there at a time while `f` ran, beyond what there was before, asked of the allocator.
fn peak_of<T>(f: impl FnOnce() -> T) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    drop(f());
    PEAK.load(Ordering::Relaxed) - before
}

#[test]
fn memory_is_what_the_allocator_gave() {
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
        let forward = || network.forward_training(&x, &t, &classes, noise).unwrap();
        // Buffers of passes that have gone wait to be used again; while three passes live, there are none left of them.
        let held = [forward(), forward(), forward()];
        let (fourth, measured) = left_by(forward);
        drop(fourth);
        let pass = || forward().sqr().unwrap().mean_all().unwrap().backward().unwrap();
        // A fifth pass finds the fourth's buffers; only what it wants beyond those is asked for.
        let fourth = forward();
        let peak = diffusion_kernels::in_pool(|| peak_of(pass));
        // These take what that pass gave back.
        let more = [forward(), forward()];
        let frozen =
            load_frozen(parameters.tensors(), &Device::Cpu, |vb| config.build_for_training(vb))
                .unwrap();
        let sampling = peak_of(|| frozen.forward_training(&x, &t, &classes, noise).unwrap());
        drop((held, fourth, more));
        // Beside the maps, the gradients of the weights are there in the end, and what threads work with.
        let told = analysis.training_peak_bytes + 4 * analysis.parameters();
        let share = |measured: usize, told: usize| measured as f64 / told as f64;
        assert!(
            (0.97..1.25).contains(&share(peak, told)),
            "training: {peak} bytes measured, {told} told"
        );
        // Buffers given back wait for a use of their size, which when sampling is a good part of what there is.
        let told = analysis.inference_peak_bytes;
        assert!(
            (0.97..1.6).contains(&share(sampling, told)),
            "sampling: {sampling} measured, {told} told"
        );
        let ratio = share(measured, analysis.training_bytes());
        assert!(
            (0.97..1.25).contains(&ratio),
            "{measured} bytes measured, {} told",
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
    // In dec1: what it reads, 32 channels from below and the skip of 32, and what it gives.
    let least = 3 * map(32, 28);
    assert!(analysis.inference_peak_bytes >= least, "{} < {least}", analysis.inference_peak_bytes);
    assert!(analysis.inference_peak_bytes < 2 * least);
}

#[test]
fn a_size_that_the_network_cannot_take_is_refused() {
    let _alone = alone();
    assert!(NetworkAnalysis::new(&digits(), [30, 28], 1).is_err());
}

#[test]
fn the_lessons_sketches_have_the_parameters_of_real_convolutions() {
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
            let of_level =
                parameters.iter().filter(|(name, _)| name.starts_with(&format!("{}.", level.name)));
            assert_eq!(
                level.parameters,
                of_level.map(|(_, var)| var.elem_count()).sum::<usize>(),
                "{}",
                level.name
            );
            assert_eq!(level.bytes, 4 * level.channels * level.resolution * level.resolution);
        }
    }
    let sketch = UNetSketch::new(&[64, 128, 256], 3, 64).unwrap();
    let resolutions: Vec<usize> = sketch.levels.iter().map(|level| level.resolution).collect();
    assert_eq!(resolutions, [64, 32, 16, 8, 16, 32, 64]);
    // The last convolution: 64 channels from below, the skip's 64, and the result's.
    assert_eq!(sketch.peak_bytes, 3 * 64 * 64 * 64 * 4);
}

#[test]
fn impossible_sketches_are_refused() {
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
