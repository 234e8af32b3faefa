//! Grids and PNG files.

use diffusion_picture::{Picture, grid};

#[test]
fn a_grid_is_near_square_and_a_png_reads_back() {
    let one = |value: u8, channels: usize| Picture {
        width: 4,
        height: 3,
        channels,
        pixels: vec![value; 12 * channels],
    };
    let near_square = grid(&[one(1, 1), one(2, 1), one(3, 1), one(4, 1), one(5, 1)]).unwrap();
    assert_eq!((near_square.width, near_square.height), (3 * 6 + 2, 2 * 5 + 2));
    assert_eq!(near_square.pixels[2 * near_square.width + 2], 1);
    assert_eq!(near_square.pixels[7 * near_square.width + 8], 5);
    assert!(grid(&[]).is_err());
    assert!(grid(&[one(1, 1), one(1, 3)]).is_err());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    let rgb =
        Picture { width: 2, height: 1, channels: 3, pixels: vec![1, 2, 3, 4, 5, 6] }.enlarged(2);
    rgb.write_png(&path).unwrap();
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap()))
            .read_info()
            .unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    assert_eq!(pixels, [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(rgb.write_png(&dir.path().join("missing/a.png")).is_err());
}
