//! The errors of images, features and weight files.

use std::path::PathBuf;

use thiserror::Error;

/// Why images or features could not be evaluated.
#[derive(Debug, Error)]
pub enum EvalError {
    /// Too few points: a covariance and the search for copies need at least 2.
    #[error("{0} rows of features; at least 2 are needed")]
    TooFew(usize),
    /// No neighbours, or not more points than neighbours.
    #[error(
        "{rows} rows of features and {neighbours} neighbours; expected at least 1 neighbour and \
         more rows than neighbours"
    )]
    TooFewNeighbours {
        /// The number of points.
        rows: usize,
        /// The number of neighbours of each point.
        neighbours: usize,
    },
    /// A feature that is NaN or infinite.
    #[error("feature {column} of row {row} is {value}; features must be finite")]
    NotFinite {
        /// The row.
        row: usize,
        /// The feature in the row.
        column: usize,
        /// The value of the feature.
        value: f64,
    },
    /// Two sets with different numbers of features.
    #[error("one set has {0} features, the other {1}; the numbers must be equal")]
    Width(usize, usize),
    /// A tensor that the network needs is missing.
    #[error("there is no tensor {0}")]
    MissingTensor(String),
    /// A tensor with another shape than the network's.
    #[error("tensor {name} has the shape {found:?}, not {expected:?}")]
    TensorShape {
        /// The name of the tensor.
        name: String,
        /// The shape of the tensor.
        found: Vec<usize>,
        /// The shape that the network needs.
        expected: Vec<usize>,
    },
    /// Weights or statistics that are not finite, or a variance below 0.
    #[error("the tensors of {0} give weights that are not finite")]
    Convolution(String),
    /// A file without valid weights of Inception.
    #[error(
        "{} is not a file of Inception's weights: {reason}; expected pytorch-fid's \
         pt_inception-2015-12-05-6726825d.pth, saved as safetensors with the same tensor names",
        path.display()
    )]
    Weights {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Box<EvalError>,
    },
    /// The judge cannot read images of this shape.
    #[error(
        "the {judge} needs images of {}×{}×{}, got {}×{}×{}",
        expected[0], expected[1], expected[2], shape[0], shape[1], shape[2]
    )]
    NoFeatures {
        /// The name of the judge.
        judge: String,
        /// The shape (C, H, W) of its images.
        expected: [usize; 3],
        /// The shape (C, H, W) of the images.
        shape: [usize; 3],
    },
    /// MNIST's test digits are included as features of the digit judge, not as images.
    #[error(
        "only the digit judge's features of these digits are included; other networks need the \
         pictures themselves"
    )]
    NoImagesOfMnist,
    /// No reference was given, and the training images of the model are unknown.
    #[error("expected the reference pictures, or mnist: the training pictures are unknown")]
    NoReference,
    /// Reference images and generated images differ in shape.
    #[error(
        "its pictures are {found:?}, expected {expected:?} as the images (channels, height, width)"
    )]
    ReferenceShape {
        /// The shape (C, H, W) of the reference images.
        found: [usize; 3],
        /// The shape (C, H, W) of the generated images.
        expected: [usize; 3],
    },
    /// Too few reference images.
    #[error("{name}: {count} pictures are too few to compare images with; {smallest} are needed")]
    TooFewReferences {
        /// A description of the reference images.
        name: String,
        /// The number of images.
        count: usize,
        /// The smallest number allowed.
        smallest: usize,
    },
    /// Too few generated images.
    #[error(
        "{name}: {count} {} too few to evaluate; {smallest} are needed",
        if *count == 1 { "image is" } else { "images are" }
    )]
    TooFewImages {
        /// The name of the set of images.
        name: String,
        /// The number of images.
        count: usize,
        /// The smallest number allowed.
        smallest: usize,
    },
    /// An error of an [`ImageSet`](crate::ImageSet).
    #[error(transparent)]
    Images(Box<dyn std::error::Error + Send + Sync>),
    /// A judge's file that cannot be read, used or written.
    #[error(transparent)]
    File(#[from] diffusion_files::FileError),
    /// An error of candle: a wrong shape, the device or a file.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
