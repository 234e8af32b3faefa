//! Classes, guidance and reference picture of a sampling.

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

/// The value of `--class` for every class of the model.
const ALL: &str = "all";
/// The value of `--class` for unconditional images.
const NONE: &str = "none";

/// The heading of [`ControlArgs`] in a help text. Each flag names it, because `next_help_heading`
/// would also apply to the later flags of a command.
const HEADING: &str = "Classes and guidance";

/// The flags of classes and guidance.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct ControlArgs {
    /// Classes to generate, by name or number, separated by commas; `all` for every class, `none`
    /// for unconditional images [default: random classes at their training frequencies for
    /// `sample`, `none` for `edit`]
    ///
    /// Numbers count from 0; if all names are numbers, a number is a name. `diffusion info` lists
    /// the classes of a model. With --classifier the classes are those of the classifier.
    #[arg(long, help_heading = HEADING, value_name = "CLASS", value_delimiter = ',', allow_hyphen_values = true)]
    pub(crate) class: Vec<String>,
    /// Guidance scale w, -1000 to 1000; 1 = no extra guidance (with --classifier: the classifier's
    /// unscaled gradient) [default: the model's guidance_scale, or else 1.1; 1 if the model does
    /// not support classifier-free guidance; 2 with --autoguide or --classifier]
    ///
    /// 0 ignores the class, 1 is the plain prediction for the class, and larger values follow the
    /// class more strictly and make the images less varied (classifier-free guidance, Ho & Salimans
    /// 2022). With --autoguide, 1 is the plain prediction, and larger values move further away from
    /// the weaker model. With --classifier, 0 has no effect, and 1 is the classifier's gradient.
    ///
    /// In formulas, the predicted image is D0 + w·(D1 − D0). D1 is the prediction for the class. D0
    /// is the unconditional prediction, or that of the weaker model. With --classifier, D0 is the
    /// model's prediction, and D1 − D0 comes from the gradient.
    #[arg(long, help_heading = HEADING, value_name = "SCALE", value_parser = scale, allow_negative_numbers = true)]
    pub(crate) guidance: Option<f64>,
    /// Apply guidance only at noise levels σ from A to B, for example 0.3:5 [default: all levels]
    ///
    /// σ is noise/signal, with 0 <= A < B. `0.3:` has no upper limit, `:5` no lower limit. Outside
    /// the interval, w is 1; with --classifier it is 0, so the class has no effect there. An
    /// interval keeps more variety than guidance at all levels (Kynkäänniemi et al. 2024).
    #[arg(long, help_heading = HEADING, value_name = "A:B", value_parser = interval)]
    guidance_interval: Option<[f64; 2]>,
    /// Share φ of the contrast added by guidance that is removed again, from 0 (nothing) to 1 (all
    /// of it) [default: 0]
    ///
    /// φ = 1 gives the predicted image the standard deviation that it has without guidance. Use it
    /// with large guidance scales, which exaggerate the contrast (Lin et al. 2023).
    #[arg(long, help_heading = HEADING, value_name = "PHI", value_parser = share)]
    guidance_rescale: Option<f64>,
    /// Guide away from the predictions of a weaker model, in the folder of a run or a checkpoint
    ///
    /// Use a smaller model of the same pictures, or an earlier checkpoint (autoguidance, Karras et
    /// al. 2024). The weaker model must make images of the same shape, with the same classes or
    /// without classes. The main model may also be one without classes.
    #[arg(long, help_heading = HEADING, value_name = "RUN")]
    autoguide: Option<PathBuf>,
    /// Guide by a classifier of noisy images, a file written by `diffusion train-classifier`
    ///
    /// Each step follows the gradient of the class's log-probability (classifier guidance, Dhariwal
    /// & Nichol 2021). Use it to generate classes with a model that was trained without them.
    #[arg(long, help_heading = HEADING, value_name = "FILE", conflicts_with = "autoguide")]
    classifier: Option<PathBuf>,
    /// Give the images the low frequencies (large shapes) of this picture
    ///
    /// The picture may have any size; it is cropped or padded as the training pictures were (ILVR,
    /// Choi et al. 2021).
    #[arg(long, help_heading = HEADING, value_name = "PICTURE")]
    reference: Option<PathBuf>,
    /// Downsampling factor of --reference, at least 1; larger values keep less of the picture
    ///
    /// The images keep the details that the picture has after both of its sides are divided by N:
    /// with 2 most of them, with 8 few. 1 reproduces the picture.
    #[arg(long, help_heading = HEADING, value_name = "N", default_value = "4", requires = "reference", value_parser = at_least_1)]
    reference_factor: f64,
}

/// Classes and guidance for the images of a model.
pub(crate) struct Control {
    pub(crate) guidance: GuidanceConfig,
    /// All classes that the user can request.
    pub(crate) classes: Vec<ModelClass>,
    /// The requested classes, if there are any; `None` among them is unconditional.
    pub(crate) requested: Option<Vec<Option<u32>>>,
    /// The first guidance flag that the user set.
    guidance_flag: Option<&'static str>,
    /// The folder name of each class.
    folders: Vec<String>,
}

impl ControlArgs {
    /// Classifier-free guidance of this scale, and nothing else.
    pub(crate) fn classifier_free(guidance: Option<f64>) -> Self {
        Self { guidance, ..Self::default() }
    }

    /// The input pictures.
    pub(crate) fn inputs(&self) -> &[PathBuf] {
        self.reference.as_slice()
    }

    /// Classes and guidance for the model `found`.
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
                    &found.picture_config()?,
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

    /// The guidance method for `model`.
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
                    .context("--classifier needs a file written by `diffusion train-classifier`")?;
                GuidanceMethod::by_classifier(classifier, model)
                    .or_else(|e| bail_usage!("--classifier {}: {e}", path.display()))
            }
            (None, None) => Ok(GuidanceMethod::ClassifierFree),
        }
    }

    /// The first guidance flag that the user set. Fails if guidance is impossible for `model` or
    /// `requested`.
    fn check_guidance(
        &self,
        model: &ModelDescription,
        method: &GuidanceMethod,
        requested: &[Option<u32>],
    ) -> anyhow::Result<Option<&'static str>> {
        let flags = [
            ("--guidance", self.guidance.is_some()),
            ("--guidance-interval", self.guidance_interval.is_some()),
            ("--guidance-rescale", self.guidance_rescale.is_some()),
            ("--classifier", self.classifier.is_some()),
        ];
        let (Some(flag), false) =
            (first_given(&flags), matches!(method, GuidanceMethod::Autoguidance(_)))
        else {
            return Ok(None);
        };
        let impossible = match method {
            GuidanceMethod::ClassifierFree => model.check_classifier_free().err(),
            GuidanceMethod::Autoguidance(_) | GuidanceMethod::Classifier(_) => None,
        };
        if matches!(impossible, Some(GuidanceError::NoClasses)) {
            bail_usage!(
                "{flag}: the model was trained without classes, so classifier-free guidance is \
                 impossible; train a model with `train --conditional`, or use --classifier or \
                 --autoguide"
            );
        }
        if impossible.is_some() {
            bail_usage!(
                "{flag}: the model was trained without class dropout, so classifier-free guidance is \
                 impossible; use --autoguide"
            );
        }
        if !requested.is_empty() && requested.iter().all(Option::is_none) {
            bail_usage!("{flag}: unconditional images cannot be guided; name a class with --class");
        }
        Ok(Some(flag))
    }
}

/// The classes that the values `names` of `flag` mean, each once. `None` is unconditional, which is
/// possible if `takes_none`.
pub(crate) fn find_classes(
    flag: &str,
    names: &[String],
    classes: &[ModelClass],
    takes_none: bool,
) -> anyhow::Result<Vec<Option<u32>>> {
    let mut selection = Vec::new();
    for name in names {
        let matches: Vec<Option<u32>> = match name.as_str() {
            ALL if !classes.is_empty() => (0..classes.len() as u32).map(Some).collect(),
            NONE if takes_none => vec![None],
            NONE => bail_usage!("{flag} none: this model needs a class for each image"),
            name => match find_class(classes, name) {
                Ok(class) => vec![Some(class)],
                Err(e) if name.is_empty() => bail_usage!("{flag} is empty: {e}"),
                Err(e) => bail_usage!("{flag} {name}: {e}"),
            },
        };
        for class in matches {
            if !selection.contains(&class) {
                selection.push(class);
            }
        }
    }
    Ok(selection)
}

/// A folder name for each of `classes`: the name of the class, followed by its number if another
/// name is equal or differs in case only.
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

/// The name of a class as a file name that is valid on any system.
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
    /// The requested classes, or by default the unconditional one.
    pub(crate) fn requested_or_unconditional(
        &self,
        model: &ModelDescription,
    ) -> anyhow::Result<Vec<Option<u32>>> {
        match (&self.requested, self.guidance_flag) {
            (Some(classes), _) => Ok(classes.clone()),
            (None, Some(flag)) => bail_usage!("{flag}: name a class to guide towards with --class"),
            (None, None) if model.network.supports_unconditional() => Ok(vec![None]),
            (None, None) => {
                bail_usage!("--class: this model needs a class for each image; name one")
            }
        }
    }

    /// The name of a class for display.
    pub(crate) fn class_name(&self, class: Option<u32>) -> &str {
        class.map_or(NONE, |class| &self.classes[class as usize].name)
    }

    /// The name of a class as a folder name or a part of a file name. It is unique for each class
    /// on any system.
    pub(crate) fn class_folder(&self, class: Option<u32>) -> &str {
        class.map_or(NONE, |class| &self.folders[class as usize])
    }
}
