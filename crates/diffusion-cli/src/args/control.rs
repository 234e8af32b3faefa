//! What steers a sampling: classes, guidance, a reference picture.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Context;
use candle_core::Device;
use diffusion_model::{
    GuidanceConfig, GuidanceError, GuidanceMethod, LoadedClassifier, LoadedModel, ModelClass,
    ModelDescription, Reference, Weights, find_class,
};
use diffusion_sample::Guidance;

use crate::args::numbers::{at_least_1, interval, scale, share};
use crate::args::runs::FoundModel;
use crate::session::usage::{bail_usage, first_given};

/// Every class of the model.
const ALL: &str = "all";
/// No class in particular.
const NONE: &str = "none";

/// What the images are to be, and how strictly.
#[derive(clap::Args, Clone, Default)]
#[command(next_help_heading = "Control")]
pub(crate) struct ControlArgs {
    /// The classes to draw, by name or number, `all`, or `none` for no class in particular [default: as often as each came in training; where
    /// pictures are edited, no class in particular]
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    pub(crate) class: Vec<String>,
    /// How far to push the images towards their class, away from what the model draws without one; 1: not at all, or with --classifier as
    /// far as it is sure [default: 1.1, or 2 with --autoguide or --classifier]
    #[arg(long, value_name = "SCALE", value_parser = scale, allow_negative_numbers = true)]
    pub(crate) guidance: Option<f64>,
    /// Push at noise levels σ from A to B only; either may be left out, as in 0.3: (Kynkäänniemi et al. 2024)
    #[arg(long, value_name = "A:B", value_parser = interval)]
    guidance_interval: Option<[f64; 2]>,
    /// How much of the contrast that pushing adds is taken away again, from 0, none, to 1 (Lin et al. 2023) [default: 0]
    #[arg(long, value_name = "PHI", value_parser = share)]
    guidance_rescale: Option<f64>,
    /// Push away from what this run or checkpoint draws instead: a smaller or an earlier model of the same pictures (Karras et al.
    /// 2024)
    #[arg(long, value_name = "RUN")]
    autoguide: Option<PathBuf>,
    /// Push towards what this classifier takes for the class, a file of `diffusion train-classifier`; the model need not know of classes
    /// (Dhariwal & Nichol 2021)
    #[arg(long, value_name = "FILE", conflicts_with = "autoguide")]
    classifier: Option<PathBuf>,
    /// Give the images the large shapes of this picture (Choi et al. 2021)
    #[arg(long, value_name = "PICTURE")]
    reference: Option<PathBuf>,
    /// How small the reference is made, as a divisor of its sides: 2 keeps much of it, 8 little
    #[arg(long, value_name = "N", default_value = "4", requires = "reference", value_parser = at_least_1)]
    reference_factor: f64,
}

/// What steers the images of a model.
pub(crate) struct Control {
    pub(crate) guidance: GuidanceConfig,
    /// The classes that can be asked for.
    pub(crate) classes: Vec<ModelClass>,
    /// Those that are, where any is named; `None` among them is the unconditional one.
    pub(crate) requested: Option<Vec<Option<u32>>>,
    /// The flag that sets the guidance, if one does.
    guidance_flag: Option<&'static str>,
    /// A folder's name for each class.
    folders: Vec<String>,
}

impl ControlArgs {
    /// What pushes towards classes and nothing else.
    pub(crate) fn of_guidance(guidance: Option<f64>) -> Self {
        Self { guidance, ..Self::default() }
    }

    /// The pictures that are read.
    pub(crate) fn inputs(&self) -> &[PathBuf] {
        self.reference.as_slice()
    }

    /// What steers the images of the model `found`.
    pub(crate) fn open(&self, found: &FoundModel, device: &Device) -> anyhow::Result<Control> {
        let model = &found.model.description;
        let method = self.method(model, device)?;
        let (classes, takes_none) = method.classes(model);
        let requested = find_classes("--class", &self.class, classes, takes_none)?;
        let guidance_flag = self.check_guidance(model, &method, &requested)?;
        let (classes, folders) = (classes.to_vec(), folders(classes));
        let guidance = Guidance {
            scale: self.guidance.unwrap_or(match method {
                GuidanceMethod::ClassifierFree => model.guidance().scale,
                GuidanceMethod::Autoguidance(_) | GuidanceMethod::Classifier(_) => 2.0,
            }),
            rescale: self.guidance_rescale.unwrap_or(0.0),
            interval: self.guidance_interval.unwrap_or(Guidance::default().interval),
        };
        let reference = match &self.reference {
            Some(path) => {
                let picture = diffusion_data::read_picture(
                    path,
                    model.image_shape,
                    &found.prepared()?,
                    device,
                )
                .context("--reference")?;
                Some(Reference { picture, factor: self.reference_factor })
            }
            None => None,
        };
        let guidance = GuidanceConfig { guidance, method, reference };
        let requested = (!requested.is_empty()).then_some(requested);
        Ok(Control { guidance, classes, requested, guidance_flag, folders })
    }

    /// What the images of `model` are steered by.
    fn method(&self, model: &ModelDescription, device: &Device) -> anyhow::Result<GuidanceMethod> {
        match (&self.autoguide, &self.classifier) {
            (Some(path), _) => {
                let weaker =
                    LoadedModel::open(path, Weights::Ema, device).context("--autoguide")?;
                GuidanceMethod::by_weaker_model(weaker, model)
                    .or_else(|e| bail_usage!("--autoguide {}: {e}", path.display()))
            }
            (None, Some(path)) => {
                let classifier = LoadedClassifier::open(path, device)
                    .context("--classifier wants a file of `diffusion train-classifier`")?;
                GuidanceMethod::by_classifier(classifier, model)
                    .or_else(|e| bail_usage!("--classifier {}: {e}", path.display()))
            }
            (None, None) => Ok(GuidanceMethod::ClassifierFree),
        }
    }

    /// Refuses flags that say how to push where there is nothing to push towards or away from. Gives the first such flag.
    fn check_guidance(
        &self,
        model: &ModelDescription,
        method: &GuidanceMethod,
        requested: &[Option<u32>],
    ) -> anyhow::Result<Option<&'static str>> {
        let given = [
            ("--guidance", self.guidance.is_some()),
            ("--guidance-interval", self.guidance_interval.is_some()),
            ("--guidance-rescale", self.guidance_rescale.is_some()),
            ("--classifier", self.classifier.is_some()),
        ];
        let (Some(flag), false) =
            (first_given(&given), matches!(method, GuidanceMethod::Autoguidance(_)))
        else {
            return Ok(None);
        };
        let impossible = match method {
            GuidanceMethod::ClassifierFree => model.check_classifier_free().err(),
            GuidanceMethod::Autoguidance(_) | GuidanceMethod::Classifier(_) => None,
        };
        if matches!(impossible, Some(GuidanceError::NoClasses)) {
            bail_usage!(
                "{flag}: the model was trained without classes, so that there is nothing to push towards; train one by \
                 `train --conditional`, or guide by a classifier with --classifier or by a worse model with --autoguide"
            );
        }
        if impossible.is_some() {
            bail_usage!(
                "{flag}: the model never learned what images of no class in particular are; guide by a worse model with \
                 --autoguide"
            );
        }
        if !requested.is_empty() && requested.iter().all(Option::is_none) {
            bail_usage!(
                "{flag}: images of no class in particular cannot be pushed towards one; name a class"
            );
        }
        Ok(Some(flag))
    }
}

/// What `names` after `flag` are among `classes`; `None` is no class in particular, which can be had if `takes_none`.
pub(crate) fn find_classes(
    flag: &str,
    names: &[String],
    classes: &[ModelClass],
    takes_none: bool,
) -> anyhow::Result<Vec<Option<u32>>> {
    let mut found = Vec::new();
    for name in names {
        let these: Vec<Option<u32>> = match name.as_str() {
            ALL if !classes.is_empty() => (0..classes.len() as u32).map(Some).collect(),
            NONE if takes_none => vec![None],
            NONE => bail_usage!("{flag} none: this model must be told a class of each image"),
            name => match find_class(classes, name) {
                Ok(class) => vec![Some(class)],
                Err(e) => bail_usage!("{flag} {name}: {e}"),
            },
        };
        for class in these {
            if !found.contains(&class) {
                found.push(class);
            }
        }
    }
    Ok(found)
}

/// A folder's name for each of `classes`: its own, with its number where others' are the same or differ in case only.
fn folders(classes: &[ModelClass]) -> Vec<String> {
    let plain: Vec<String> = classes.iter().map(|class| folder_name(&class.name)).collect();
    let mut count = HashMap::from([(NONE.to_owned(), 1)]);
    for name in &plain {
        *count.entry(name.to_lowercase()).or_insert(0) += 1;
    }
    let numbered = |(number, name): (usize, String)| {
        if count[&name.to_lowercase()] == 1 {
            return name;
        }
        let mut own = format!("{name}-{number}");
        while count.contains_key(&own.to_lowercase()) {
            own.push('_');
        }
        count.insert(own.to_lowercase(), 1);
        own
    };
    plain.into_iter().enumerate().map(numbered).collect()
}

/// A class's name as that of a file or folder on any system.
fn folder_name(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_alphanumeric() || "-_. ".contains(c) { c } else { '-' })
        .collect();
    match plain.trim_matches(['.', ' ']) {
        "" => "-".to_owned(),
        plain => plain.to_owned(),
    }
}

impl Control {
    /// The classes asked for, or if none was, the unconditional one.
    pub(crate) fn requested_or_unconditional(
        &self,
        model: &ModelDescription,
    ) -> anyhow::Result<Vec<Option<u32>>> {
        match (&self.requested, self.guidance_flag) {
            (Some(classes), _) => Ok(classes.clone()),
            (None, Some(flag)) => bail_usage!("{flag}: say by --class what to push towards"),
            (None, None) if model.network.takes_no_class() => Ok(vec![None]),
            (None, None) => {
                bail_usage!("--class: this model must be told a class of each image; name one")
            }
        }
    }

    /// A class's name, for people.
    pub(crate) fn class_name(&self, class: Option<u32>) -> &str {
        class.map_or(NONE, |class| &self.classes[class as usize].name)
    }

    /// A class's name as that of a folder or a part of a file's, another one for each class on any system.
    pub(crate) fn class_folder(&self, class: Option<u32>) -> &str {
        class.map_or(NONE, |class| &self.folders[class as usize])
    }
}
