//! Non-leaky augmentation: random geometric transformations with labels that describe them.
//!
//! The network is conditioned on the transformation of each picture. In sampling, all labels are
//! zero, so that images look as if nothing was transformed (Karras et al. 2022, appendix F.2).

use std::f32::consts::PI;

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

/// The number of labels of a picture: mirrored left to right, mirrored top to bottom, scale,
/// rotation (2), stretch (2) and shift (2). Zero means not transformed.
pub const AUGMENTATION_LABELS: usize = 9;

/// The standard deviation of the binary logarithm of a scale and of a stretch.
const SCALE: f32 = 0.2;
/// The standard deviation of a shift, as a share of the side.
const SHIFT: f32 = 0.125;

/// A transformation of a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Augmentation {
    pub(super) labels: [f32; AUGMENTATION_LABELS],
    /// The matrix and the offset that lead from a place in the result to the place in the picture,
    /// in shares of the side from the centre.
    matrix: [[f32; 2]; 2],
    offset: [f32; 2],
}

impl Augmentation {
    /// A random transformation. Each kind is used with `probability`, except that with `mirror` the
    /// picture is mirrored left to right with probability ½.
    pub(super) fn draw(rng: &mut impl Rng, probability: f64, mirror: bool) -> Self {
        // All numbers are drawn in any case, so that one kind does not change the others.
        let (left_right, top_bottom) = (rng.random::<bool>(), rng.random::<bool>());
        let used: [bool; 5] = std::array::from_fn(|_| rng.random::<f64>() < probability);
        let (scale, angle): (f32, f32) = (rng.sample(StandardNormal), rng.random_range(-PI..PI));
        // A negative stretch is a positive one across, and would have the labels of another one.
        let stretch = rng.sample::<f32, _>(StandardNormal).abs();
        let direction: f32 = rng.random_range(-PI..PI);
        let shift: [f32; 2] = [rng.sample(StandardNormal), rng.sample(StandardNormal)];
        let mut labels = [0.0; AUGMENTATION_LABELS];
        if mirror && left_right {
            labels[0] = 1.0;
        }
        if used[0] && top_bottom {
            labels[1] = 1.0;
        }
        if used[1] {
            labels[2] = scale;
        }
        if used[2] {
            (labels[3], labels[4]) = (angle.cos() - 1.0, angle.sin());
        }
        if used[3] {
            (labels[5], labels[6]) = (stretch * direction.cos(), stretch * direction.sin());
        }
        if used[4] {
            labels[7..].copy_from_slice(&shift);
        }
        Self::with_labels(labels)
    }

    /// The transformation that `labels` describe: a shift, then a stretch, a rotation, a scaling
    /// and mirrorings.
    fn with_labels(labels: [f32; AUGMENTATION_LABELS]) -> Self {
        let [left_right, top_bottom, scale, cos, sin, stretch_x, stretch_y, x, y] = labels;
        let diagonal = |x: f32, y: f32| [[x, 0.0], [0.0, y]];
        let scale = (-SCALE * scale).exp2();
        let stretch = (-SCALE * stretch_x.hypot(stretch_y)).exp2();
        let direction = stretch_y.atan2(stretch_x);
        let steps = [
            diagonal(1.0 - 2.0 * left_right, 1.0 - 2.0 * top_bottom),
            diagonal(scale, scale),
            rotation(-sin.atan2(1.0 + cos)),
            rotation(direction),
            diagonal(stretch, 1.0 / stretch),
            rotation(-direction),
        ];
        let matrix = steps.into_iter().fold(diagonal(1.0, 1.0), product);
        let offset = matrix.map(|[a, b]| -SHIFT * (a * x + b * y));
        Self { labels, matrix, offset }
    }

    /// Transforms one channel of a picture by cubic interpolation. Outside, the picture is
    /// mirrored at its edges.
    pub(super) fn apply(&self, from: &[f32], to: &mut [f32], [height, width]: [usize; 2]) {
        let (h, w) = (height as f32, width as f32);
        let (low, high) = from
            .iter()
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
        for (i, to) in to.iter_mut().enumerate() {
            let u = [((i % width) as f32 + 0.5) / w - 0.5, ((i / width) as f32 + 0.5) / h - 0.5];
            let [x, y] = [0, 1].map(|axis| {
                let [a, b] = self.matrix[axis];
                a * u[0] + b * u[1] + self.offset[axis]
            });
            let ((columns, by_column), (rows, by_row)) =
                (cubic((x + 0.5) * w - 0.5, width), cubic((y + 0.5) * h - 0.5, height));
            let value: f32 = rows
                .iter()
                .zip(by_row)
                .map(|(row, weight)| {
                    let line = columns.iter().zip(by_column);
                    weight * line.map(|(x, weight)| weight * from[row * width + x]).sum::<f32>()
                })
                .sum();
            // Cubic interpolation overshoots at edges.
            *to = value.clamp(low, high);
        }
    }
}

/// The rotation by `angle`.
fn rotation(angle: f32) -> [[f32; 2]; 2] {
    let (sin, cos) = angle.sin_cos();
    [[cos, -sin], [sin, cos]]
}

fn product(a: [[f32; 2]; 2], b: [[f32; 2]; 2]) -> [[f32; 2]; 2] {
    std::array::from_fn(|i| std::array::from_fn(|j| a[i][0] * b[0][j] + a[i][1] * b[1][j]))
}

/// The four pixels around the place `at` of a line of `len` pixels, and their weights (Keys 1981,
/// with a = −½).
fn cubic(at: f32, len: usize) -> ([usize; 4], [f32; 4]) {
    let first = at.floor();
    let t = at - first;
    let weights = [
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ];
    (std::array::from_fn(|k| mirrored(first + k as f32 - 1.0, len)), weights)
}

/// The pixel at the place `at`, inside or outside of a line of `len` pixels that is mirrored at its
/// edges.
fn mirrored(at: f32, len: usize) -> usize {
    let len = len as f32;
    let at = at.rem_euclid(2.0 * len);
    (if at < len { at } else { 2.0 * len - 1.0 - at }) as usize
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const SIDE: usize = 12;
    const LAST: usize = SIDE - 1;

    /// A picture whose pixels differ.
    fn picture() -> Vec<f32> {
        (0..SIDE * SIDE).map(|i| (i as f32 * 0.7).sin()).collect()
    }

    fn applied(augmentation: &Augmentation) -> Vec<f32> {
        let mut to = vec![0.0; SIDE * SIDE];
        augmentation.apply(&picture(), &mut to, [SIDE; 2]);
        to
    }

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
    }

    #[test]
    fn labels_of_zero_mean_the_picture_itself() {
        let mut rng = StdRng::seed_from_u64(1);
        let none = Augmentation::draw(&mut rng, 0.0, false);
        assert_eq!(none.labels, [0.0; AUGMENTATION_LABELS]);
        assert!(close(&applied(&none), &picture()));
        for _ in 0..50 {
            let drawn = Augmentation::draw(&mut rng, 0.3, true);
            let untouched = drawn.labels == [0.0; AUGMENTATION_LABELS];
            assert_eq!(untouched, close(&applied(&drawn), &picture()), "{drawn:?}");
        }
    }

    /// All labels, from those that are not 0 and their places.
    fn all_labels(labels: &[(usize, f32)]) -> [f32; AUGMENTATION_LABELS] {
        let mut all = [0.0; AUGMENTATION_LABELS];
        for (place, label) in labels {
            all[*place] = *label;
        }
        all
    }

    /// The picture transformed as labels say, which are given by their places.
    fn labelled(labels: &[(usize, f32)]) -> Vec<f32> {
        applied(&Augmentation::with_labels(all_labels(labels)))
    }

    #[test]
    fn pixels_move_as_the_labels_say() {
        let from = picture();
        let moved = |place: fn(usize, usize) -> (usize, usize)| -> Vec<f32> {
            let at = |i: usize| place(i % SIDE, i / SIDE);
            (0..SIDE * SIDE).map(|i| from[at(i).1 * SIDE + at(i).0]).collect()
        };
        assert!(close(&labelled(&[(0, 1.0)]), &moved(|x, y| (LAST - x, y))));
        assert!(close(&labelled(&[(1, 1.0)]), &moved(|x, y| (x, LAST - y))));
        // A quarter turn: the cosine is 0, its label −1.
        assert!(close(&labelled(&[(3, -1.0), (4, 1.0)]), &moved(|x, y| (y, LAST - x))));
        assert!(close(&labelled(&[(3, -1.0), (4, -1.0)]), &moved(|x, y| (LAST - y, x))));
        // A shift to the right by 3 pixels, and one down.
        let three = 3.0 / SIDE as f32 / SHIFT;
        let (right, down) = (labelled(&[(7, three)]), labelled(&[(8, three)]));
        for y in 0..SIDE {
            assert!(close(&right[y * SIDE + 3..][..SIDE - 3], &from[y * SIDE..][..SIDE - 3]));
            // Mirrored at the edge.
            assert!(close(&right[y * SIDE + 2..][..1], &from[y * SIDE..][..1]));
        }
        assert!(close(&down[3 * SIDE..], &from[..SIDE * (SIDE - 3)]));
    }

    #[test]
    fn scales_and_stretches_enlarge_as_the_labels_say() {
        // A smooth hill, whose second moments tell its size.
        let hill: Vec<f32> = (0..64 * 64)
            .map(|i| {
                let [x, y] = [i % 64, i / 64].map(|at| (at as f32 - 31.5) / 6.0);
                (-(x * x + y * y) / 2.0).exp()
            })
            .collect();
        let widths = |labels: [f32; AUGMENTATION_LABELS]| {
            let mut to = vec![0.0; 64 * 64];
            Augmentation::with_labels(labels).apply(&hill, &mut to, [64; 2]);
            let total: f32 = to.iter().sum();
            [0, 1].map(|axis: usize| {
                let at = |i: usize| [i % 64, i / 64][axis] as f32 - 31.5;
                let square: f32 = to.iter().enumerate().map(|(i, x)| at(i) * at(i) * x).sum();
                (square / total).sqrt() / 6.0
            })
        };
        let with = |labels: &[(usize, f32)]| widths(all_labels(labels));
        let near = |found: [f32; 2], expected: [f32; 2]| {
            found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.02)
        };
        let factor = SCALE.exp2();
        assert!(near(with(&[(2, 1.0)]), [factor; 2]), "{:?}", with(&[(2, 1.0)]));
        assert!(near(with(&[(2, -1.0)]), [1.0 / factor; 2]));
        assert!(near(with(&[(5, 1.0)]), [factor, 1.0 / factor]), "{:?}", with(&[(5, 1.0)]));
        assert!(near(with(&[(6, 1.0)]), [1.0 / factor, factor]));
        assert!(near(with(&[(5, -1.0)]), [factor, 1.0 / factor]), "the same line, backwards");
    }

    #[test]
    fn each_kind_is_drawn_as_often_as_its_probability() {
        let mut rng = StdRng::seed_from_u64(3);
        let drawn: Vec<_> = (0..4000).map(|_| Augmentation::draw(&mut rng, 0.12, true)).collect();
        let share = |label: usize| {
            drawn.iter().filter(|drawn| drawn.labels[label] != 0.0).count() as f64 / 4000.0
        };
        for (label, expected) in
            [(0, 0.5), (1, 0.06), (2, 0.12), (3, 0.12), (4, 0.12), (5, 0.12), (8, 0.12)]
        {
            assert!((share(label) - expected).abs() < 0.03, "{label}: {}", share(label));
        }
        let turns = drawn.iter().map(|drawn| drawn.labels[4].atan2(drawn.labels[3] + 1.0));
        assert!(turns.fold(0.0f32, f32::max) > 0.9 * PI, "rotations by any angle");
    }
}
