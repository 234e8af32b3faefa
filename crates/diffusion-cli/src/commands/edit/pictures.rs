//! The pictures that are changed, and the names of what becomes of them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::{Device, Tensor};
use diffusion_data::PictureConfig;
use diffusion_picture::Picture;
use diffusion_report::{Cell, sheet};

use crate::session::usage::bail_usage;

/// Endings of files that are taken for pictures where a folder is named.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "bmp", "gif"];
/// Pixels that a picture's side has in a grid, at least.
const SIDE: usize = 84;
/// Letters of a name that a grid has room for.
const LETTERS: usize = 24;

/// Pictures, brought to the size and the channels of a model's.
pub(super) struct InputPictures {
    pub(super) paths: Vec<PathBuf>,
    /// (N, C, H, W).
    pub(super) images: Tensor,
    /// Whether a folder was named.
    pub(super) folder: bool,
}

impl InputPictures {
    /// The picture at `path`, or all pictures of the folder there, in the order of their names; fitted and laid over a background as
    /// `prepared` says.
    pub(super) fn open(
        path: &Path,
        shape: [usize; 3],
        prepared: &PictureConfig,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let folder = path.is_dir();
        let paths = if folder { pictures_in(path)? } else { vec![path.to_owned()] };
        let read = |path: &PathBuf| diffusion_data::read_picture(path, shape, prepared, device);
        let images = paths.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { paths, images: Tensor::cat(&images, 0)?, folder })
    }

    /// What a picture is called, for people.
    pub(super) fn name(&self, picture: usize) -> String {
        name_of(&self.paths[picture])
    }

    /// All of them, for people.
    pub(super) fn names(&self) -> String {
        if let [only] = self.paths.as_slice() {
            return only.display().to_string();
        }
        format!("{} pictures", self.paths.len())
    }

    /// Where a picture's result is written: its own name, with what tells its results apart.
    pub(super) fn result(&self, out: &Path, picture: usize, marks: &[String]) -> PathBuf {
        let parts: Vec<String> =
            std::iter::once(self.name(picture)).chain(marks.iter().cloned()).collect();
        out.join(parts.join("-") + ".png")
    }

    /// Refuses results that would take each other's place.
    pub(super) fn check_results<'a>(
        &self,
        results: impl Iterator<Item = (usize, &'a Path)>,
    ) -> anyhow::Result<()> {
        let mut taken: HashMap<&Path, usize> = HashMap::new();
        for (picture, result) in results {
            if let Some(other) = taken.insert(result, picture) {
                bail_usage!(
                    "{} and {} would both become {}; give one of them another name",
                    self.paths[other].display(),
                    self.paths[picture].display(),
                    result.display()
                );
            }
        }
        Ok(())
    }
}

/// A file's name without its ending.
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
            "{}: there is no picture in this folder, no file .{}",
            folder.display(),
            ENDINGS.join(", .")
        );
    }
    Ok(paths)
}

/// Rows of pictures with names, enlarged to be seen.
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
