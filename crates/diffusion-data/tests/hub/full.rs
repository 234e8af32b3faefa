//! The whole of MNIST, for a machine that has the original files.

use std::path::PathBuf;

use diffusion_data::hub::{HubConfig, download_mnist};

use crate::fixture::{Digits, answer, gunzip};
use crate::mirror::Mirror;

#[test]
#[ignore = "needs the four original files in the folder $MNIST_DIR"]
fn the_original_files_come_out_of_the_hub_form() {
    let originals = PathBuf::from(std::env::var_os("MNIST_DIR").expect("MNIST_DIR names a folder"));
    let digits = ["train", "t10k"].map(|name| Digits {
        pixels: gunzip(&originals.join(format!("{name}-images-idx3-ubyte.gz"))).split_off(16),
        labels: gunzip(&originals.join(format!("{name}-labels-idx1-ubyte.gz"))).split_off(8),
    });
    let files = digits.map(|split| split.parquet());
    let hub = Mirror::start(move |request, _| answer(request, &files));
    let folder = tempfile::tempdir().unwrap();
    let config = HubConfig { endpoint: hub.url(), ..HubConfig::new(folder.path().join("cache")) };
    let report = download_mnist(&config, &folder.path().join("mnist"), &mut |_| ()).unwrap();
    assert_eq!(report.written.len(), 4);
    for path in report.written {
        assert_eq!(gunzip(&path), gunzip(&originals.join(path.file_name().unwrap())));
    }
}
