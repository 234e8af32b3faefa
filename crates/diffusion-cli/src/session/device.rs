//! The device to compute on.

use std::str::FromStr;

use anyhow::Context;
use candle_core::Device;

use crate::session::usage::bail_usage;

/// The value of `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    /// CUDA or Metal if the program was built for it and the machine has it, otherwise the CPU.
    Auto,
    Cpu,
    Cuda(usize),
    Metal,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => match text {
                "auto" => Ok(Self::Auto),
                "cpu" => Ok(Self::Cpu),
                "cuda" => Ok(Self::Cuda(0)),
                "metal" => Ok(Self::Metal),
                _ => Err("expected auto, cpu, cuda:N or metal".to_owned()),
            },
            Some(("cuda", number)) => number
                .parse()
                .map(Self::Cuda)
                .map_err(|_| "expected cuda:N with a whole number N".to_owned()),
            Some(_) => Err("expected auto, cpu, cuda:N or metal".to_owned()),
        }
    }
}

impl DeviceChoice {
    pub(crate) fn open(self) -> anyhow::Result<Device> {
        match self {
            Self::Auto if cfg!(feature = "cuda") => Ok(Device::cuda_if_available(0)?),
            Self::Auto if cfg!(feature = "metal") => Ok(Device::metal_if_available(0)?),
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => {
                bail_usage!("this program was built without CUDA; build it with --features cuda")
            }
            Self::Cuda(number) => {
                Device::new_cuda(number).with_context(|| format!("cannot open cuda:{number}"))
            }
            Self::Metal if !cfg!(feature = "metal") => {
                bail_usage!("this program was built without Metal; build it with --features metal")
            }
            Self::Metal => Device::new_metal(0).context("cannot open metal"),
        }
    }
}

/// The name of a device in the form of `--device`, without its number.
pub(crate) fn name(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}
