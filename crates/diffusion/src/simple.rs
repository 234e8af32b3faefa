//! The simple interface: a model, and a request for images of it.

use std::fs;
use std::ops::{ControlFlow, Deref};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use diffusion_files::FileError;
use diffusion_model::{ClassChoice, Generation, LoadedModel, ModelError, Weights, find_class};
use diffusion_picture::{Picture, PictureError};
use diffusion_sample::{Guidance, SamplerKind};
use thiserror::Error;

/// Why a model cannot be opened, or images cannot be generated or written.
#[derive(Debug, Error)]
pub enum Error {
    /// A model that cannot be opened or sampled.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A picture that cannot be written.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A folder that cannot be created.
    #[error(transparent)]
    File(#[from] FileError),
    /// The scheduler of an imported run is damaged.
    #[cfg(feature = "interop")]
    #[error(transparent)]
    Scheduler(Box<diffusion_interop::InteropError>),
}

/// A trained model, ready for sampling. It dereferences to [`LoadedModel`], which has its parts.
pub struct Model(LoadedModel);

impl Model {
    /// Opens the model at `path` with its EMA weights, on the CPU. `path` is a run folder, whose
    /// newest checkpoint is used, a checkpoint folder, or a packed file.
    ///
    /// # Errors
    /// If there is nothing at `path`, or no model, or if the model is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_on(path, &Device::Cpu)
    }

    /// Like [`open`](Self::open), on another device.
    ///
    /// # Errors
    /// If there is nothing at `path`, or no model, or if the model is damaged. Also an error of the
    /// device.
    pub fn open_on(path: impl AsRef<Path>, device: &Device) -> Result<Self, Error> {
        let path = path.as_ref();
        let model = LoadedModel::open(path, Weights::Ema, device)?;
        #[cfg(feature = "interop")]
        let model = with_scheduler(model, path)?;
        Ok(Self(model))
    }

    /// A request for `num` images. Defaults: the sampler, steps and guidance that suit the model,
    /// seed 0, and classes drawn with their training frequencies. With the feature `interop`, an
    /// imported model is sampled by its scheduler.
    pub fn images(&self, num: u64) -> Images<'_> {
        Images { model: self, generation: Generation::new(num), class: None }
    }
}

/// The model, with the scheduler of its run if it was imported.
#[cfg(feature = "interop")]
fn with_scheduler(mut model: LoadedModel, path: &Path) -> Result<LoadedModel, Error> {
    if path.is_dir() {
        let checkpoint = diffusion_model::RunLayout::checkpoint_at(path)?;
        if let Some(method) = diffusion_interop::SchedulerMethod::of_checkpoint(&checkpoint)
            .map_err(|e| Error::Scheduler(Box::new(e)))?
        {
            method.set(&mut model);
        }
    }
    Ok(model)
}

impl Deref for Model {
    type Target = LoadedModel;

    fn deref(&self) -> &LoadedModel {
        &self.0
    }
}

/// A request for images of a model. Image i depends only on the seed and on i.
#[derive(Clone)]
pub struct Images<'a> {
    model: &'a Model,
    generation: Generation,
    class: Option<String>,
}

impl Images<'_> {
    /// The class of all images, by name or number. Default: drawn with the training frequencies.
    #[must_use]
    pub fn class(mut self, name: impl Into<String>) -> Self {
        self.class = Some(name.into());
        self
    }

    /// The scale of classifier-free guidance. 1 = none; a model without classes supports only 1.
    /// Default: 1.1 where guidance is possible.
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

    /// The number of sampling steps: at least 1, at most those of the model's schedule. Default: as
    /// suits the sampler.
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

    /// Generates the images (N, C, H, W) in \[−1, 1\].
    ///
    /// # Errors
    /// If the model does not have the class, or if the sampler, the steps or the guidance do not
    /// suit it. Also an error of the device.
    pub fn tensor(mut self) -> Result<Tensor, Error> {
        if let Some(name) = &self.class {
            let class =
                find_class(&self.model.description.classes, name).map_err(ModelError::from)?;
            self.generation.classes = ClassChoice::Listed(vec![class]);
        }
        Ok(self.model.generate(&self.generation, &mut |_| ControlFlow::Continue(()))?)
    }

    /// Generates the images as 8-bit pictures.
    ///
    /// # Errors
    /// If the model does not have the class, or if the sampler, the steps or the guidance do not
    /// suit it. Also an error of the device.
    pub fn pictures(self) -> Result<Vec<Picture>, Error> {
        Ok(diffusion_picture::from_tensor(&self.tensor()?)?)
    }

    /// Generates the images and writes them to `folder` as 000000.png, 000001.png, …; the folder is
    /// created if needed. Returns the paths of the files.
    ///
    /// # Errors
    /// If the model does not have the class, or if the sampler, the steps or the guidance do not
    /// suit it. If the folder or a file cannot be written. Also an error of the device.
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
