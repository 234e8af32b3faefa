//! The images that `diffusion sample` generates, and their file names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use diffusion_model::{ClassChoice, ImageSpec};
use diffusion_picture::Picture;
use diffusion_report::Cell;

use super::SampleArgs;
use crate::args::control::Control;
use crate::commands::{make_folder, warn_of_images_beyond};
use crate::session::usage::bail_usage;

/// The images to generate, in order.
pub(super) struct ImageList {
    pub(super) specs: Vec<ImageSpec>,
    /// The requested classes and the number of images of each, if there are several classes. Images
    /// of one class follow each other.
    by_class: Option<(Vec<Option<u32>>, usize)>,
}

impl ImageList {
    /// The images that the flags request; `noise` is that of --init-noise. All classes get the same
    /// noise, so the images show what the class changes.
    pub(super) fn new(
        args: &SampleArgs,
        control: &Control,
        noise: Option<&Tensor>,
    ) -> anyhow::Result<Self> {
        let noise_count = noise.map(|noise| noise.dim(0)).transpose()?.map(|n| n as u64);
        if let (Some(available), Some(num)) = (noise_count, args.num)
            && num > available
        {
            bail_usage!("--num {num}: --init-noise has only {available} images");
        }
        let noise_count = args.num.filter(|_| noise_count.is_some()).or(noise_count);
        let indexed = |class, num| (0..num).map(move |index| ImageSpec { index, class });
        let Some(classes) = control.requested.clone() else {
            let indices = 0..noise_count.or(args.num).unwrap_or(16);
            let specs = ClassChoice::AsTrained.specs(args.seed, indices, &control.classes);
            return Ok(Self { specs, by_class: None });
        };
        match (classes.as_slice(), args.num.or(noise_count)) {
            (&[class], num) => {
                let num = num.or(args.per_class).unwrap_or(16);
                Ok(Self { specs: indexed(class, num).collect(), by_class: None })
            }
            (_, Some(_)) if noise_count.is_some() => bail_usage!(
                "--class names {} classes: --init-noise works with one class or none",
                classes.len()
            ),
            (_, Some(_)) => bail_usage!(
                "--class names {} classes: use --per-class for the number of images of each class",
                classes.len()
            ),
            (_, None) => {
                let num = args.per_class.unwrap_or(8);
                let specs = classes.iter().flat_map(|class| indexed(*class, num)).collect();
                Ok(Self { specs, by_class: Some((classes, num as usize)) })
            }
        }
    }

    /// The names of the classes that are requested and had no training pictures, where the model
    /// has such a record.
    pub(super) fn untrained_classes<'c>(&self, control: &'c Control) -> Vec<&'c str> {
        let has_record = control.classes.iter().any(|class| class.pictures > 0);
        let used: BTreeSet<u32> = self.specs.iter().filter_map(|spec| spec.class).collect();
        let classes = used.into_iter().filter_map(|class| control.classes.get(class as usize));
        let untrained = classes.filter(|class| has_record && class.pictures == 0);
        untrained.map(|class| class.name.as_str()).collect()
    }

    /// Creates the folder `out` and those of the classes in it. Warns about images of an earlier
    /// call that remain there.
    pub(super) fn make_folders(&self, out: &Path, control: &Control) -> anyhow::Result<()> {
        let (requested, each) = self.by_class.clone().unwrap_or_default();
        let all = (0..control.classes.len() as u32).map(Some).chain([None]);
        let of_class = |class: Option<u32>| {
            (
                out.join(control.class_folder(class)),
                if requested.contains(&class) { each } else { 0 },
            )
        };
        let mut folders: Vec<(PathBuf, usize)> = all.map(of_class).collect();
        folders.push((out.to_owned(), if self.by_class.is_some() { 0 } else { self.specs.len() }));
        make_folder(out)?;
        for class in &requested {
            make_folder(&out.join(control.class_folder(*class)))?;
        }
        warn_of_images_beyond(out, &folders)
    }

    /// The path of an image in `out`: in the folder of its class, if there are several classes.
    pub(super) fn file(&self, number: usize, control: &Control) -> PathBuf {
        match &self.by_class {
            Some((_, each)) => {
                let class = control.class_folder(self.specs[number].class);
                Path::new(class).join(format!("{:06}.png", number % each))
            }
            None => PathBuf::from(format!("{number:06}.png")),
        }
    }

    /// All images in one picture: one labelled row per class, if there are several classes.
    pub(super) fn grid(&self, pictures: &[Picture], control: &Control) -> anyhow::Result<Picture> {
        let Some((classes, each)) = &self.by_class else {
            return Ok(diffusion_picture::grid(pictures)?.enlarged_for_viewing());
        };
        let rows = pictures.chunks(*each);
        // Enlarged twofold for visibility.
        let cells = rows.map(|row| {
            Ok(vec![diffusion_picture::grid_with_columns(row, *each)?.enlarged(2).into()])
        });
        let names: Vec<String> =
            classes.iter().map(|class| control.class_name(*class).to_owned()).collect();
        let cells: Vec<Vec<Cell>> = cells.collect::<anyhow::Result<_>>()?;
        Ok(diffusion_report::sheet(&cells, &names, &[String::new()])?)
    }
}
