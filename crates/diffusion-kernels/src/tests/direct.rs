//! Convolution by direct sums in f64.
//!
//! It is the reference for images that are not square too: candle's own gradients of strided
//! convolutions fail there, since they use one output padding for both axes.

use candle_core::{Device, Tensor};

use super::random;

fn numbers(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// The result and, under the cotangent of [`super::with_gradients`], the gradients of x, weight and
/// bias.
///
/// `small` and `large` are channels, height and width of the two sides. A convolution reads the
/// large side.
pub(super) fn convolution(
    [x, weight, bias]: [&Tensor; 3],
    transposed: bool,
    n: usize,
    [small, large]: [[usize; 3]; 2],
    [kernel, stride, padding]: [usize; 3],
) -> Vec<Tensor> {
    let out = if transposed { large } else { small };
    let shape = [n, out[0], out[1], out[2]];
    let (x_data, w, b, dy) =
        (numbers(x), numbers(weight), numbers(bias), numbers(&random(99, &shape)));
    let mut y: Vec<f64> = (0..dy.len()).map(|i| b[i / (out[1] * out[2]) % out[0]]).collect();
    let (mut dx, mut dw, mut db) =
        (vec![0.0; x_data.len()], vec![0.0; w.len()], vec![0.0; b.len()]);
    for (i, dy) in dy.iter().enumerate() {
        db[i / (out[1] * out[2]) % out[0]] += dy;
    }
    let at = |[c, h, w]: [usize; 3], i: usize, k: usize, y: usize, x: usize| {
        ((i * c + k) * h + y) * w + x
    };
    for i in 0..n {
        for s in 0..small[0] {
            for l in 0..large[0] {
                for sy in 0..small[1] {
                    for sx in 0..small[2] {
                        for ky in 0..kernel {
                            for kx in 0..kernel {
                                let (ly, lx) = (sy * stride + ky, sx * stride + kx);
                                let inside = (padding..large[1] + padding).contains(&ly)
                                    && (padding..large[2] + padding).contains(&lx);
                                if !inside {
                                    continue;
                                }
                                let at_small = at(small, i, s, sy, sx);
                                let at_large = at(large, i, l, ly - padding, lx - padding);
                                let at_weight = ((s * large[0] + l) * kernel + ky) * kernel + kx;
                                let (from, to) = if transposed {
                                    (at_small, at_large)
                                } else {
                                    (at_large, at_small)
                                };
                                y[to] += x_data[from] * w[at_weight];
                                dx[from] += dy[to] * w[at_weight];
                                dw[at_weight] += dy[to] * x_data[from];
                            }
                        }
                    }
                }
            }
        }
    }
    let tensor = |data: Vec<f64>, shape: &[usize]| {
        let data: Vec<f32> = data.into_iter().map(|x| x as f32).collect();
        Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
    };
    vec![
        tensor(y, &shape),
        tensor(dx, x.dims()),
        tensor(dw, weight.dims()),
        tensor(db, bias.dims()),
    ]
}
