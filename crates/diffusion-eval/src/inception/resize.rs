//! Bilinear resizing like PyTorch's `interpolate` in bilinear mode: `align_corners=False` and no
//! antialiasing.

use candle_core::{Device, Result, Tensor};

/// Resizes `images` (N, C, H, W) in f32 to (N, C, size, size). No dimension may be 0.
pub(super) fn resize(images: &Tensor, size: usize) -> Result<Tensor> {
    let (n, c, h, w) = images.dims4()?;
    let (rows, columns) = (weights(h, size, images.device())?, weights(w, size, images.device())?);
    let wide = images.reshape((n * c * h, w))?.matmul(&columns.t()?)?.reshape((n * c, h, size))?;
    rows.broadcast_matmul(&wide)?.reshape((n, c, size, size))
}

/// The interpolation weights (to, from): the share of each input pixel in each output pixel.
fn weights(from: usize, to: usize, device: &Device) -> Result<Tensor> {
    let mut weights = vec![0f32; to * from];
    for (i, row) in weights.chunks_exact_mut(from).enumerate() {
        // Positions outside the outermost centres take the value of the border pixel.
        let position = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
        let first = (position as usize).min(from - 1);
        let share = position - first as f64;
        row[first] += (1.0 - share) as f32;
        row[(first + 1).min(from - 1)] += share as f32;
    }
    Tensor::from_vec(weights, (to, from), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resized(rows: &[&[f32]], size: usize) -> Vec<f32> {
        let shape = (1, 1, rows.len(), rows[0].len());
        let image = Tensor::from_vec(rows.concat(), shape, &Device::Cpu).unwrap();
        resize(&image, size).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn enlarging_interpolates_between_centres_and_repeats_the_border() {
        // The new centres are at −¼, ¼, ¾ and 1¼.
        let expected = [
            [0.0, 1.0, 3.0, 4.0], //
            [2.0, 3.0, 5.0, 6.0],
            [6.0, 7.0, 9.0, 10.0],
            [8.0, 9.0, 11.0, 12.0],
        ];
        assert_eq!(resized(&[&[0.0, 4.0], &[8.0, 12.0]], 4), expected.as_flattened());
        assert_eq!(resized(&[&[7.0]], 2), [7.0; 4]);
    }

    #[test]
    fn reducing_uses_two_pixels_however_many_there_are() {
        // (i + ½)·8/2 − ½: the new centres are at 1½ and 5½.
        let row: &[f32] = &[100.0, 1.0, 3.0, 100.0, 100.0, 5.0, 9.0, 100.0];
        assert_eq!(resized(&[row], 2), [2.0, 7.0, 2.0, 7.0]);
        // Reducing by 3: the centres are pixels, at 1 and 4.
        assert_eq!(resized(&[&[0.0, 1.0, 0.0, 0.0, 2.0, 0.0]], 2), [1.0, 2.0, 1.0, 2.0]);
    }

    #[test]
    fn each_side_is_resized_by_its_own_factor() {
        // Rows at −¼, ¼, ¾, 1¼; columns at the pixels 1, 4, 7, 10.
        let rows: [Vec<f32>; 2] =
            [0u8, 12].map(|top| (0..12u8).map(|x| f32::from(top + x)).collect());
        let expected = [
            [1.0, 4.0, 7.0, 10.0],
            [4.0, 7.0, 10.0, 13.0],
            [10.0, 13.0, 16.0, 19.0],
            [13.0, 16.0, 19.0, 22.0],
        ];
        assert_eq!(resized(&[&rows[0], &rows[1]], 4), expected.as_flattened());
    }

    #[test]
    fn images_of_the_target_size_are_unchanged() {
        let image = [[0.1, 0.7, -0.3], [0.9, -1.0, 0.2], [0.3, 0.4, 1.0]];
        assert_eq!(resized(&[&image[0], &image[1], &image[2]], 3), image.as_flattened());
    }
}
