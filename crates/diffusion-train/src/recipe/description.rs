//! Builds a model description from a configuration and pictures, and a configuration from a model.

use diffusion_data::ImageDataset;
use diffusion_model::{DATA_RANGE, ModelClass, ModelDescription};
use diffusion_unet::{NetworkConfig, TimeEmbeddingType};
use serde::{Deserialize, Serialize};
use toml::Table;

use super::{ConfigError, TrainConfig};

/// Whether a training conditions the network on classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditional {
    /// Train an unconditional network.
    #[default]
    Never,
    /// Condition on classes if the pictures have two or more.
    Auto,
    /// Condition on classes; pictures without any class are an error.
    Always,
}

impl Conditional {
    /// All variants.
    pub const ALL: [Self; 3] = [Self::Never, Self::Auto, Self::Always];

    /// The name in configurations and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }
}

impl TrainConfig {
    /// The model that this configuration trains on `dataset`.
    ///
    /// # Errors
    /// If the pictures must have classes and have none; if their size does not fit the network; if
    /// the network has a wrong number of output channels, a number of classes, or an embedding that
    /// cannot be trained.
    pub fn describe(&self, dataset: &ImageDataset) -> Result<ModelDescription, ConfigError> {
        let image_shape = dataset.image_shape();
        let classes = classes_for(self, dataset)?;
        let unlabelled =
            self.class_dropout > 0.0 || (0..dataset.len()).any(|i| dataset.label(i).is_none());
        Ok(ModelDescription {
            network: network_for(self, image_shape, classes.len(), unlabelled)?,
            schedule: self.schedule.clone(),
            prediction_type: self.prediction_type,
            edm: self.edm,
            classes,
            image_shape,
            data_range: DATA_RANGE,
            guidance_scale: self.guidance_scale,
        })
    }
}

/// The classes of `dataset` in the order of its labels, with the number of pictures per class.
pub(crate) fn classes_of(dataset: &ImageDataset) -> Vec<ModelClass> {
    let mut classes: Vec<ModelClass> = dataset
        .classes()
        .iter()
        .map(|name| ModelClass { name: name.clone(), pictures: 0 })
        .collect();
    for label in (0..dataset.len()).filter_map(|i| dataset.label(i)) {
        classes[label as usize].pictures += 1;
    }
    classes
}

/// The classes that the network is conditioned on.
fn classes_for(
    config: &TrainConfig,
    dataset: &ImageDataset,
) -> Result<Vec<ModelClass>, ConfigError> {
    let classes = classes_of(dataset);
    let present = classes.iter().filter(|class| class.pictures > 0).count();
    match config.conditional {
        Conditional::Always if present == 0 => Err(ConfigError::Field {
            field: "conditional",
            value: "always".to_owned(),
            expected: "the pictures must have classes: sort them into folders or add labels"
                .to_owned(),
        }),
        Conditional::Never => Ok(Vec::new()),
        Conditional::Auto if present < 2 => Ok(Vec::new()),
        Conditional::Auto | Conditional::Always => Ok(classes),
    }
}

/// The configured network for pictures of shape (C, H, W) and `classes` classes.
///
/// `with_unconditional` adds the unconditional row to its class table.
fn network_for(
    config: &TrainConfig,
    [channels, height, width]: [usize; 3],
    classes: usize,
    with_unconditional: bool,
) -> Result<NetworkConfig, ConfigError> {
    let field_error = |field, value, expected: &str| {
        Err(ConfigError::Field { field, value, expected: expected.to_owned() })
    };
    let network = config.network.with_image_channels(channels);
    let multiple = network.size_multiple();
    if !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
        let expected = format!("both sides must be multiples of {multiple} for this network");
        return field_error("the size of the pictures", format!("{height}×{width}"), &expected);
    }
    let outputs = network.output_channels();
    if outputs != channels {
        let expected =
            "it must equal in_channels; learned_variance = true doubles the output channels itself";
        return field_error("network.out_channels", outputs.to_string(), expected);
    }
    let network =
        if config.learned_variance { network.with_output_channels(2 * channels) } else { network };
    if network.classes() > 0 {
        let expected = "leave it out: it follows from the pictures' classes and `conditional`";
        return field_error("network.num_class_embeds", network.classes().to_string(), expected);
    }
    if network.augmentation() {
        let expected = "leave it out: it follows from pictures.augment";
        return field_error("network.augmentation", "true".to_owned(), expected);
    }
    let network = network
        .with_classes(classes, with_unconditional)
        .with_augmentation(config.pictures.augment > 0.0);
    let NetworkConfig::Unet2d(config) = &network else { return Ok(network) };
    if config.time_embedding_type == TimeEmbeddingType::Fourier {
        let expected =
            "it must be positional: fourier computes ln(t), and the training includes t = 0";
        return field_error("network.time_embedding_type", "fourier".to_owned(), expected);
    }
    Ok(network)
}

/// The network as it appears in a configuration, which holds the learned variance and the classes
/// in fields of their own.
pub(crate) fn network_alone(model: &ModelDescription) -> NetworkConfig {
    let network = model.network.with_classes(0, false).with_augmentation(false);
    if model.learned_variance() {
        network.with_output_channels(model.image_shape[0])
    } else {
        network
    }
}

/// The setting for a training that starts from `model`: conditional if the model is.
pub(crate) fn conditional(model: &ModelDescription) -> Conditional {
    if model.classes.is_empty() { Conditional::Never } else { Conditional::Always }
}

/// The fields of a configuration that would train `model`.
pub(crate) fn fields_of(model: &ModelDescription) -> Result<Table, ConfigError> {
    let [_, height, width] = model.image_shape;
    let size = (height == width).then(|| toml::Value::try_from(height));
    let fields = [
        ("size", size),
        ("prediction_type", Some(toml::Value::try_from(model.prediction_type))),
        ("network", Some(toml::Value::try_from(network_alone(model)))),
        ("learned_variance", model.learned_variance().then(|| toml::Value::try_from(true))),
        (
            "conditional",
            (!model.classes.is_empty()).then(|| toml::Value::try_from(conditional(model))),
        ),
        ("schedule", Some(toml::Value::try_from(&model.schedule))),
        ("edm", model.edm.map(toml::Value::try_from)),
        ("guidance_scale", model.guidance_scale.map(toml::Value::try_from)),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    fields
        .map(|(name, value)| match value {
            Ok(value) => Ok((name.to_owned(), value)),
            Err(e) => Err(ConfigError::Text {
                place: format!("the model's {name}"),
                problem: e.to_string(),
            }),
        })
        .collect()
}
