//! The Fréchet distance between Gaussians (Dowson & Landau 1982).

use candle_core::{DType, Device, Tensor};
use nalgebra::{DMatrix, DVector};

use crate::EvalError;

/// The mean and covariance of a set of features.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
}

impl Statistics {
    /// The statistics of `features` (N, D); N must be at least 2. The covariance has the divisor
    /// N − 1.
    ///
    /// # Errors
    /// If `features` does not have rank 2, has fewer than 2 rows or no columns. If a feature is not
    /// finite.
    pub fn of(features: &Tensor) -> Result<Self, EvalError> {
        let (rows, width) = features.dims2()?;
        if rows < 2 || width == 0 {
            return Err(EvalError::TooFew(rows.min(width)));
        }
        let values = finite_values(features)?;
        let mut centred = DMatrix::from_row_slice(rows, width, &values);
        let mean = centred.row_mean().transpose();
        for mut row in centred.row_iter_mut() {
            row -= mean.transpose();
        }
        let covariance = centred.tr_mul(&centred) / (rows - 1) as f64;
        Ok(Self { mean, covariance })
    }

    /// The statistics with a given `mean` (D) and `covariance` (D, D).
    ///
    /// # Errors
    /// If the shapes do not fit. If a value is not finite.
    pub(crate) fn from_parts(mean: &Tensor, covariance: &Tensor) -> Result<Self, EvalError> {
        let (rows, columns) = covariance.dims2()?;
        let width = mean.dims1()?;
        if let Some(other) = [rows, columns].into_iter().find(|side| *side != width) {
            return Err(EvalError::Width(width, other));
        }
        let values = finite_values(covariance)?;
        let mean = DVector::from_vec(finite_values(&mean.unsqueeze(0)?)?);
        Ok(Self { mean, covariance: DMatrix::from_row_slice(width, width, &values) })
    }

    /// The mean (D), in f64.
    ///
    /// # Errors
    /// If the tensor cannot be created.
    pub fn mean(&self) -> candle_core::Result<Tensor> {
        Tensor::from_slice(self.mean.as_slice(), self.width(), &Device::Cpu)
    }

    /// The covariance (D, D), in f64.
    ///
    /// # Errors
    /// If the tensor cannot be created.
    pub fn covariance(&self) -> candle_core::Result<Tensor> {
        // The order of rows and columns does not matter: the matrix is symmetric.
        Tensor::from_slice(self.covariance.as_slice(), (self.width(), self.width()), &Device::Cpu)
    }

    /// D, the number of features.
    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// The Fréchet distance |m₁ − m₂|² + tr(C₁ + C₂ − 2·(C₁·C₂)^½), at least 0.
    ///
    /// The trace of the root is computed from the symmetric matrix (C₁^½·C₂·C₁^½)^½, whose
    /// eigenvalues are real. With fewer points than features, some eigenvalues should be 0; values
    /// below 0 from rounding are set to 0.
    ///
    /// # Errors
    /// If the numbers of features differ.
    pub fn frechet_distance(&self, other: &Self) -> Result<f64, EvalError> {
        if self.width() != other.width() {
            return Err(EvalError::Width(self.width(), other.width()));
        }
        let root = symmetric_root(&self.covariance);
        let product = &root * &other.covariance * &root;
        let eigenvalues = ((&product + product.transpose()) / 2.0).symmetric_eigenvalues();
        let trace_of_root: f64 = eigenvalues.iter().map(|value| value.max(0.0).sqrt()).sum();
        let traces = self.covariance.trace() + other.covariance.trace();
        Ok(((&self.mean - &other.mean).norm_squared() + traces - 2.0 * trace_of_root).max(0.0))
    }
}

/// The values of `features` (N, D) in f64, row by row.
///
/// # Errors
/// If `features` does not have rank 2. If a feature is not finite.
pub(crate) fn finite_values(features: &Tensor) -> Result<Vec<f64>, EvalError> {
    let (_, width) = features.dims2()?;
    let values =
        features.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    match values.iter().position(|value| !value.is_finite()) {
        Some(i) => {
            Err(EvalError::NotFinite { row: i / width, column: i % width, value: values[i] })
        }
        None => Ok(values),
    }
}

/// The square root of a symmetric matrix whose eigenvalues are at least 0, up to rounding.
fn symmetric_root(matrix: &DMatrix<f64>) -> DMatrix<f64> {
    let eigen = matrix.clone().symmetric_eigen();
    let roots = eigen.eigenvalues.map(|value| value.max(0.0).sqrt());
    &eigen.eigenvectors * DMatrix::from_diagonal(&roots) * eigen.eigenvectors.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_without_a_gaussian_are_errors() {
        let of = |rows: &[[f32; 2]]| {
            Statistics::of(
                &Tensor::from_slice(rows.as_flattened(), (rows.len(), 2), &Device::Cpu).unwrap(),
            )
        };
        assert!(of(&[[1.0, 2.0]]).unwrap_err().to_string().contains("1 rows"));
        let error = of(&[[1.0, 2.0], [3.0, f32::NAN]]).unwrap_err().to_string();
        assert!(error.contains("feature 1 of row 1"), "{error}");
        let wide = Statistics::of(
            &Tensor::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 7.0]], &Device::Cpu).unwrap(),
        )
        .unwrap();
        let narrow = of(&[[1.0, 2.0], [3.0, 5.0]]).unwrap();
        assert!(
            wide.frechet_distance(&narrow)
                .unwrap_err()
                .to_string()
                .contains("3 features, the other 2")
        );
    }

    #[test]
    fn the_distance_of_one_dimensional_gaussians_is_that_of_their_means_and_deviations() {
        let set = |deviation: f32, mean: f32| {
            let rows: Vec<f32> = [-1f32, 0.0, 1.0].iter().map(|x| x * deviation + mean).collect();
            Statistics::of(&Tensor::from_vec(rows, (3, 1), &Device::Cpu).unwrap()).unwrap()
        };
        // The factors are the standard deviations, because the variance of −1, 0 and 1 is 1.
        let distance = set(2.0, 1.0).frechet_distance(&set(5.0, -3.0)).unwrap();
        assert!((distance - (16.0 + 9.0)).abs() < 1e-9, "{distance}");
    }
}
