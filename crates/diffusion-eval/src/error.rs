//! What can be wrong with images, features and the files of networks.

use std::path::PathBuf;

use thiserror::Error;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum EvalError {
    /// A covariance needs two points.
    #[error("{0} rows of features; at least 2 are needed")]
    TooFew(usize),
    /// Neighbours are other points.
    #[error(
        "{rows} rows of features; {neighbours} neighbours of each want at least one more, and there must be one"
    )]
    TooFewNeighbours {
        /// Points.
        rows: usize,
        /// The neighbours wanted of each.
        neighbours: usize,
    },
    /// A feature that is not a number, or infinite.
    #[error("feature {column} of row {row} is {value}")]
    NotFinite {
        /// Which row.
        row: usize,
        /// Which of its features.
        column: usize,
        /// What it is.
        value: f64,
    },
    /// Sets of different features.
    #[error("one set has {0} features, the other {1}")]
    Width(usize, usize),
    /// A tensor that a network needs.
    #[error("there is no tensor {0}")]
    MissingTensor(String),
    /// A tensor that the network has no place for.
    #[error("tensor {name} has the shape {found:?}, not {wanted:?}")]
    TensorShape {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The network's.
        wanted: Vec<usize>,
    },
    /// Weights or statistics that are not finite, or a variance below 0.
    #[error("the tensors of {0} make numbers that are not finite")]
    Convolution(String),
    /// A file that does not hold Inception's weights.
    #[error(
        "{} is no file of Inception's weights: {reason}; it should be pytorch-fid's \
         pt_inception-2015-12-05-6726825d.pth, saved as safetensors under the same names",
        path.display()
    )]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Box<EvalError>,
    },
    /// Images that neither network makes features of.
    #[error("the images are {}×{}×{}, and the digit judge reads 1×28×28", shape[0], shape[1], shape[2])]
    NoFeatures {
        /// Channels, height and width of the images.
        shape: [usize; 3],
    },
    /// MNIST's test digits come with this crate as the digit judge's features, not as images.
    #[error(
        "only what the digit judge makes of these digits is known; name the pictures for Inception"
    )]
    NoImagesOfMnist,
    /// No reference images were named, and the images that the model was trained on are not known.
    #[error("name the real pictures, or mnist")]
    NoReference,
    /// Reference images of another shape than the generated ones.
    #[error("its pictures are {found:?}, the images {expected:?} (channels, height, width)")]
    ReferenceShape {
        /// Channels, height and width of the reference images.
        found: [usize; 3],
        /// Those of the generated images.
        expected: [usize; 3],
    },
    /// Fewer reference images than can be compared with.
    #[error("{name}: {count} pictures are too few to compare images with; {smallest} are needed")]
    TooFewReferences {
        /// What the reference images are.
        name: String,
        /// Their number.
        count: usize,
        /// The smallest number that is enough.
        smallest: usize,
    },
    /// Fewer generated images than can be judged.
    #[error(
        "{name}: {count} {} too few to be judged; {smallest} are needed",
        if *count == 1 { "image is" } else { "images are" }
    )]
    TooFewImages {
        /// What the images are.
        name: String,
        /// Their number.
        count: usize,
        /// The smallest number that is enough.
        smallest: usize,
    },
    /// The error of an [`ImageSet`](crate::ImageSet).
    #[error(transparent)]
    Images(Box<dyn std::error::Error + Send + Sync>),
    /// The tensor's own error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
