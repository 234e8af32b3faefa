//! The input pictures of an edit, and the names of the results.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::{Device, Tensor};
use diffusion_data::PictureConfig;
use diffusion_picture::Picture;
use diffusion_report::{Cell, sheet};

use crate::session::usage::bail_usage;

/// Endings of picture files in a folder.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "bmp", "gif"];
/// The smallest side of a picture in a grid, in pixels.
const SIDE: usize = 84;
/// The largest number of letters of a name in a grid.
const LETTERS: usize = 24;

/// Pictures with the size and the channels of a model's images.
pub(super) struct InputPictures {
    pub(super) paths: Vec<PathBuf>,
    /// (N, C, H, W).
    pub(super) images: Tensor,
    /// Whether the argument is a folder.
    pub(super) folder: bool,
}

impl InputPictures {
    /// Reads the picture at `path`, or all pictures in that folder in the order of their names.
    /// `config` sets how they are fitted, and their background.
    pub(super) fn open(
        path: &Path,
        shape: [usize; 3],
        config: &PictureConfig,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let folder = path.is_dir();
        let paths = if folder { pictures_in(path)? } else { vec![path.to_owned()] };
        let read = |path: &PathBuf| diffusion_data::read_picture(path, shape, config, device);
        let images = paths.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { paths, images: Tensor::cat(&images, 0)?, folder })
    }

    /// The name of a picture for display.
    pub(super) fn name(&self, picture: usize) -> String {
        name_of(&self.paths[picture])
    }

    /// The pictures for display: one path, or their number.
    pub(super) fn names(&self) -> String {
        if let [only] = self.paths.as_slice() {
            return only.display().to_string();
        }
        format!("{} pictures", self.paths.len())
    }

    /// The file of a result: the name of the picture, followed by `marks`.
    pub(super) fn result(&self, out: &Path, picture: usize, marks: &[String]) -> PathBuf {
        let parts: Vec<String> =
            std::iter::once(self.name(picture)).chain(marks.iter().cloned()).collect();
        out.join(parts.join("-") + ".png")
    }

    /// Fails if two results have the same file.
    pub(super) fn check_results<'a>(
        &self,
        results: impl Iterator<Item = (usize, &'a Path)>,
    ) -> anyhow::Result<()> {
        let mut files: HashMap<&Path, usize> = HashMap::new();
        for (picture, result) in results {
            if let Some(other) = files.insert(result, picture) {
                bail_usage!(
                    "{} and {} would both be written to {}; rename one of them",
                    self.paths[other].display(),
                    self.paths[picture].display(),
                    result.display()
                );
            }
        }
        Ok(())
    }
}

/// The name of a file without its ending.
pub(super) fn name_of(path: &Path) -> String {
    path.file_stem()
        .map_or_else(|| "picture".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

fn pictures_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path =
            entry.with_context(|| format!("cannot read the folder {}", folder.display()))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        if !hidden
            && path.is_file()
            && ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
        {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        bail_usage!(
            "{}: there is no picture in this folder; expected files ending in .{}",
            folder.display(),
            ENDINGS.join(", .")
        );
    }
    Ok(paths)
}

/// Writes rows of pictures with names, enlarged for visibility.
pub(super) fn write_grid(
    path: &Path,
    rows: Vec<(String, Vec<Picture>)>,
    columns: &[String],
) -> anyhow::Result<()> {
    let mut names = Vec::new();
    let mut cells: Vec<Vec<Cell>> = Vec::new();
    for (name, pictures) in rows {
        names.push(shortened(&name));
        let large =
            |picture: Picture| picture.enlarged(SIDE.div_ceil(picture.width.max(1)).max(1)).into();
        cells.push(pictures.into_iter().map(large).collect());
    }
    let columns: Vec<String> = columns.iter().map(|name| shortened(name)).collect();
    Ok(sheet(&cells, &names, &columns)?.write_png(path)?)
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= LETTERS {
        return name.to_owned();
    }
    name.chars().take(LETTERS - 1).chain(['…']).collect()
}
