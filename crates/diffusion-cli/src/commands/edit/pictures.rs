//! The input pictures of an edit, and the names of the results.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use diffusion_data::PictureConfig;
use diffusion_picture::Picture;
use diffusion_report::{Cell, sheet};

use crate::session::usage::bail_usage;

/// The smallest side of a picture in a grid, in pixels.
const SIDE: usize = 84;
/// The largest number of letters of a name in a grid.
const LETTERS: usize = 24;

/// Pictures with the size and the channels of a model's images.
pub(super) struct InputPictures {
    pub(super) paths: Vec<PathBuf>,
    /// The names of the pictures without their endings; in a folder, `cat-1` for `cat/1.png`.
    names: Vec<String>,
    /// (N, C, H, W).
    pub(super) images: Tensor,
    /// Whether the argument is a folder.
    pub(super) folder: bool,
}

impl InputPictures {
    /// Reads the picture at `path`, or all pictures in that folder in the order of their names, but
    /// none in `out`, the folder of the results. `config` sets how they are fitted, and their
    /// background.
    pub(super) fn open(
        path: &Path,
        out: &Path,
        shape: [usize; 3],
        config: &PictureConfig,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let folder = path.is_dir();
        let (names, paths) = if folder {
            pictures_in(path, out)?.into_iter().unzip()
        } else {
            (vec![name_of(path)], vec![path.to_owned()])
        };
        let read = |path: &PathBuf| diffusion_data::read_picture(path, shape, config, device);
        let images = paths.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { paths, names, images: Tensor::cat(&images, 0)?, folder })
    }

    /// The name of a picture for display.
    pub(super) fn name(&self, picture: usize) -> String {
        self.names[picture].clone()
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

/// The pictures in a folder and its subfolders, but for those in the subfolder `out`.
fn pictures_in(folder: &Path, out: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let found = diffusion_data::picture_files(folder)?;
    for note in &found.notes {
        tracing::warn!("{}: {note}", folder.display());
    }
    let out = out.canonicalize().ok().filter(|out| {
        folder.canonicalize().is_ok_and(|folder| *out != folder && out.starts_with(folder))
    });
    let is_result = |path: &Path| {
        out.as_ref().is_some_and(|out| path.canonicalize().is_ok_and(|path| path.starts_with(out)))
    };
    let files = found.files.into_iter().filter(|(_, path)| !is_result(path));
    let named = files.map(|(name, path)| {
        let folders = name.rfind('/').map_or(0, |end| end + 1);
        (name[..folders].replace('/', "-") + &name_of(&path), path)
    });
    let pictures: Vec<(String, PathBuf)> = named.collect();
    if pictures.is_empty() {
        bail_usage!(
            "{}: there is no picture in this folder; expected files ending in .png, .jpg, .webp, \
             .bmp, .gif or .tif",
            folder.display()
        );
    }
    Ok(pictures)
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
    Ok(sheet(&cells, &names, &columns)?.write_sheet(path)?)
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= LETTERS {
        return name.to_owned();
    }
    name.chars().take(LETTERS - 1).chain(['…']).collect()
}
