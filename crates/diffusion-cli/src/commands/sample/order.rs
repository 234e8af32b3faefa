//! Which images are to be made, and what their files are called.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use diffusion_model::{ClassChoice, ImageSpec};
use diffusion_picture::Picture;
use diffusion_report::Cell;

use super::SampleArgs;
use crate::args::control::Control;
use crate::commands::{make_folder, warn_of_images_beyond};
use crate::session::usage::bail_usage;

/// The images to be made, in their order.
pub(super) struct Order {
    pub(super) specs: Vec<ImageSpec>,
    /// The classes that were asked for, one after the other, and the images of each.
    by_class: Option<(Vec<Option<u32>>, usize)>,
}

impl Order {
    /// The same noise for each class, so that one sees what the class changes.
    pub(super) fn new(
        args: &SampleArgs,
        control: &Control,
        noise: Option<&Tensor>,
    ) -> anyhow::Result<Self> {
        let given = noise.map(|noise| noise.dim(0)).transpose()?.map(|n| n as u64);
        let indexed = |class, num| (0..num).map(move |index| ImageSpec { index, class });
        let Some(classes) = control.requested.clone() else {
            let indices = 0..given.or(args.num).unwrap_or(16);
            let specs = ClassChoice::AsTrained.specs(args.seed, indices, &control.classes);
            return Ok(Self { specs, by_class: None });
        };
        match (classes.as_slice(), args.num.or(given)) {
            (&[class], num) => {
                let num = num.or(args.per_class).unwrap_or(16);
                Ok(Self { specs: indexed(class, num).collect(), by_class: None })
            }
            (_, Some(_)) => bail_usage!(
                "--class names {} classes: say by --per-class how many images of each",
                classes.len()
            ),
            (_, None) => {
                let num = args.per_class.unwrap_or(8);
                let specs = classes.iter().flat_map(|class| indexed(*class, num)).collect();
                Ok(Self { specs, by_class: Some((classes, num as usize)) })
            }
        }
    }

    /// Makes the folder `out`, and in it those of the classes; says so where images of an earlier call lie there that these do not replace.
    pub(super) fn make_folders(&self, out: &Path, control: &Control) -> anyhow::Result<()> {
        let (asked, each) = self.by_class.clone().unwrap_or_default();
        let known = (0..control.classes.len() as u32).map(Some).chain([None]);
        let of_class = |class: Option<u32>| {
            (out.join(control.class_folder(class)), if asked.contains(&class) { each } else { 0 })
        };
        let mut folders: Vec<(PathBuf, usize)> = known.map(of_class).collect();
        folders.push((out.to_owned(), if self.by_class.is_some() { 0 } else { self.specs.len() }));
        make_folder(out)?;
        for class in &asked {
            make_folder(&out.join(control.class_folder(*class)))?;
        }
        warn_of_images_beyond(out, &folders)
    }

    /// The name of an image's file: in a folder of its class, where several were asked for.
    pub(super) fn file(&self, number: usize, control: &Control) -> PathBuf {
        match &self.by_class {
            Some((_, each)) => {
                let class = control.class_folder(self.specs[number].class);
                Path::new(class).join(format!("{:06}.png", number % each))
            }
            None => PathBuf::from(format!("{number:06}.png")),
        }
    }

    /// All images as one picture: a line with a name for each class, where several were asked for.
    pub(super) fn grid(&self, pictures: &[Picture], control: &Control) -> anyhow::Result<Picture> {
        let Some((classes, each)) = &self.by_class else {
            return Ok(diffusion_picture::grid(pictures)?.enlarged_for_viewing());
        };
        let rows = pictures.chunks(*each);
        // Twice the size, to be seen.
        let cells =
            rows.map(|row| Ok(vec![diffusion_picture::grid_of(row, *each)?.enlarged(2).into()]));
        let names: Vec<String> =
            classes.iter().map(|class| control.class_name(*class).to_owned()).collect();
        let cells: Vec<Vec<Cell>> = cells.collect::<anyhow::Result<_>>()?;
        Ok(diffusion_report::sheet(&cells, &names, &[String::new()])?)
    }
}
