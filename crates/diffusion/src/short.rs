//! The short way: a model, and a request for images of it.

use std::fs;
use std::ops::{ControlFlow, Deref};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use diffusion_files::FileError;
use diffusion_model::{ClassChoice, Generation, LoadedModel, ModelError, Weights, find_class};
use diffusion_picture::{Picture, PictureError};
use diffusion_sample::{Guidance, SamplerKind};
use thiserror::Error;

/// Why there is no model or there are no images.
#[derive(Debug, Error)]
pub enum Error {
    /// A model that cannot be opened or sampled.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A picture that cannot be written.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A folder that cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A trained model, ready for use; what it is made of is that of [`LoadedModel`].
pub struct Model(LoadedModel);

impl Model {
    /// The model at `path`, with its averaged weights, on the CPU: the folder of a run, of which the newest checkpoint is
    /// taken; the folder of a checkpoint; or a packed file.
    ///
    /// # Errors
    /// Something else at `path`, or a model that is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_on(path, &Device::Cpu)
    }

    /// As [`open`](Self::open), on another device.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_on(path: impl AsRef<Path>, device: &Device) -> Result<Self, Error> {
        Ok(Self(LoadedModel::open(path.as_ref(), Weights::Ema, device)?))
    }

    /// A request for `num` images. Defaults: the sampler, steps and guidance that suit the model, seed 0, and
    /// classes as often as each came in training.
    pub fn images(&self, num: u64) -> Images<'_> {
        Images { model: self, generation: Generation::new(num), class: None }
    }
}

impl Deref for Model {
    type Target = LoadedModel;

    fn deref(&self) -> &LoadedModel {
        &self.0
    }
}

/// A request for images of a model. Image i depends on the seed and on i only.
#[derive(Clone)]
pub struct Images<'a> {
    model: &'a Model,
    generation: Generation,
    class: Option<String>,
}

impl Images<'_> {
    /// All images of this class, by name or number. Default: as often as each came in training.
    #[must_use]
    pub fn class(mut self, name: impl Into<String>) -> Self {
        self.class = Some(name.into());
        self
    }

    /// The scale of classifier-free guidance: 1 is none, and all that a model without classes takes. Default: 1.1 where it is possible.
    #[must_use]
    pub fn guidance(mut self, scale: f64) -> Self {
        self.generation.guidance = Some(Guidance::new(scale));
        self
    }

    /// The sampler. Default: the one that suits the model.
    #[must_use]
    pub fn sampler(mut self, sampler: SamplerKind) -> Self {
        self.generation.sampler = Some(sampler);
        self
    }

    /// Sampling steps, at least 1 and at most as many as the model's schedule has. Default: as many as suit the sampler.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.generation.steps = Some(steps);
        self
    }

    /// The seed of all noise. Default: 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.generation.seed = seed;
        self
    }

    /// The images (N, C, H, W) in \[−1, 1\].
    ///
    /// # Errors
    /// A class that the model does not have; a sampler, steps or guidance that do not suit it; those of the device.
    pub fn tensor(mut self) -> Result<Tensor, Error> {
        if let Some(name) = &self.class {
            let class =
                find_class(&self.model.description.classes, name).map_err(ModelError::from)?;
            self.generation.classes = ClassChoice::Listed(vec![class]);
        }
        Ok(self.model.generate(&self.generation, &mut |_| ControlFlow::Continue(()))?)
    }

    /// The images as 8-bit pictures.
    ///
    /// # Errors
    /// Those of [`tensor`](Self::tensor).
    pub fn pictures(self) -> Result<Vec<Picture>, Error> {
        Ok(diffusion_picture::from_tensor(&self.tensor()?)?)
    }

    /// Writes the images to `folder`, which is made if it does not exist, as 000000.png, 000001.png, … Returns the files.
    ///
    /// # Errors
    /// Those of [`tensor`](Self::tensor); a folder or a file that cannot be written.
    pub fn save(self, folder: impl AsRef<Path>) -> Result<Vec<PathBuf>, Error> {
        let folder = folder.as_ref();
        let pictures = self.pictures()?;
        fs::create_dir_all(folder).map_err(FileError::io(folder))?;
        let write = |(number, picture): (usize, Picture)| {
            let path = folder.join(format!("{number:06}.png"));
            picture.write_png(&path)?;
            Ok(path)
        };
        pictures.into_iter().enumerate().map(write).collect()
    }
}
